package jobshttp

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs/internal/cron"
)

// words describes a schedule of a [jobs.Status] in words, such as "every day at 03:00". It
// returns a schedule that it cannot describe exactly unchanged.
func words(schedule string) string {
	if text, ok := strings.CutPrefix(schedule, "every "); ok {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return every(d)
		}
	}
	if text, ok := strings.CutPrefix(schedule, "after "); ok {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return "on demand, " + spell(d) + " after being triggered"
		}
	}
	if pattern, err := cron.Parse(schedule, nil); err == nil {
		return pattern.Describe()
	}
	return schedule
}

// every describes an interval, such as "every minute" or "every 5 minutes".
func every(d time.Duration) string {
	text := spell(d)
	if unit, ok := strings.CutPrefix(text, "1 "); ok && !strings.Contains(unit, " ") {
		text = unit
	}
	return "every " + text
}

// spell spells out a duration, such as "1 hour 30 minutes".
func spell(d time.Duration) string {
	if d%time.Second != 0 {
		return d.String()
	}
	var parts []string
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		n := int(d / unit.size)
		if unit.name == "day" && n < 2 { // every 24 hours is not every day, because clocks change
			n = 0
		}
		switch d -= time.Duration(n) * unit.size; {
		case n > 1:
			parts = append(parts, strconv.Itoa(n)+" "+unit.name+"s")
		case n == 1:
			parts = append(parts, "1 "+unit.name)
		}
	}
	return strings.Join(parts, " ")
}

// short formats a duration in its two largest units, such as "4 min 12 s". assets/script.js
// does the same.
func short(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s/3600%24)
}

// relative formats t relative to now, such as "in 4 min 12 s" or "12 min ago".
func relative(t, now time.Time) string {
	d := t.Sub(now)
	switch {
	case d >= 0:
		return "in " + short(d)
	case d > -time.Minute || d <= -time.Hour:
		return short(-d) + " ago"
	}
	return fmt.Sprintf("%d min ago", int(-d/time.Minute))
}

// took formats the duration of a run.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	}
	return short(d)
}

// count formats a number with a comma between thousands.
func count(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
