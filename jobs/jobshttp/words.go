package jobshttp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// words says a schedule, as [jobs.Status] tells it, in words: "every day at 03:00". What
// it cannot say exactly it returns as it is.
func words(schedule string) string {
	if text, ok := strings.CutPrefix(schedule, "every "); ok {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return every(d)
		}
	}
	if text, ok := strings.CutPrefix(schedule, "after "); ok {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return "on demand, " + spell(d) + " after the trigger"
		}
	}
	if text, ok := cronWords(schedule); ok {
		return text
	}
	return schedule
}

// every says an interval: "every minute", "every 5 minutes".
func every(d time.Duration) string {
	text := spell(d)
	if unit, ok := strings.CutPrefix(text, "1 "); ok && !strings.Contains(unit, " ") {
		text = unit
	}
	return "every " + text
}

// spell writes a duration out: "1 hour 30 minutes".
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
		if unit.name == "day" && n < 2 { // every 24 hours is not every day: clocks change
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

// values are those that a field of a cron pattern names, ascending.
type values struct {
	list []int
	full bool // it names all there are
	star bool // it begins with '*', which matters where both day fields are restricted
}

var (
	months    = []string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	weekdays  = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
	shorthand = map[string]string{
		"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
		"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
	}
)

// cronWords says a cron pattern, if it is one and of a common form.
func cronWords(pattern string) (string, bool) {
	pattern = strings.TrimSpace(pattern)
	if long, ok := shorthand[pattern]; ok {
		pattern = long
	}
	texts := strings.Fields(pattern)
	if len(texts) != 5 {
		return "", false
	}
	var fields [5]values
	for i, limit := range [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}} {
		var ok bool
		if fields[i], ok = parseField(texts[i], limit[0], limit[1], i); !ok {
			return "", false
		}
	}
	clock, at, ok := clockWords(fields[0], fields[1])
	if !ok {
		return "", false
	}
	return dayWords(clock, at, fields[2], fields[3], fields[4])
}

// parseField reads the i-th field of a pattern that [jobs.ParseCron] has accepted, and
// refuses what it does not understand.
func parseField(text string, low, high, i int) (v values, ok bool) {
	value := func(text string) (int, bool) {
		for n, name := range months {
			if i == 3 && strings.EqualFold(text, name[:3]) {
				return n + 1, true
			}
		}
		for n, name := range weekdays {
			if i == 4 && strings.EqualFold(text, name[:3]) {
				return (n + 1) % 7, true // a Sunday by name is 0
			}
		}
		n, err := strconv.Atoi(text)
		return n, err == nil && n >= low && n <= high
	}
	in := make([]bool, high+1)
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		from, to, step := low, high, 1
		if span != "*" {
			a, b, ranged := strings.Cut(span, "-")
			if from, ok = value(a); !ok {
				return v, false
			}
			to = from
			if ranged {
				if to, ok = value(b); !ok {
					return v, false
				}
				if i == 4 && to == 0 && from > 0 { // a range that ends on Sunday
					to = 7
				}
			}
		}
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > high {
				return v, false
			}
		}
		for n := from; n <= to; n += step {
			in[n] = true
		}
	}
	if i == 4 { // from here on Monday is 1 and Sunday 7
		in[7] = in[7] || in[0]
		low = 1
	}
	for n := low; n <= high; n++ {
		if in[n] {
			v.list = append(v.list, n)
		}
	}
	v.full, v.star = len(v.list) == high-low+1, text[0] == '*'
	return v, len(v.list) > 0
}

// one tells whether there is a single value.
func (v values) one() bool { return len(v.list) == 1 }

// run tells whether the values follow each other without a gap.
func (v values) run() bool { return v.list[len(v.list)-1]-v.list[0] == len(v.list)-1 }

// step returns n where the values are the multiples of n below size, and n divides size.
func (v values) step(size int) (int, bool) {
	n := size / len(v.list)
	if n*len(v.list) != size {
		return 0, false
	}
	for i, value := range v.list {
		if value != i*n {
			return 0, false
		}
	}
	return n, true
}

// maxList is how many things are named one by one.
const maxList = 4

// clockWords says the time of day. at tells that it names instants ("at 03:00"), and not
// how often ("every 5 minutes").
func clockWords(minute, hour values) (text string, at, ok bool) {
	n, stepped := minute.step(60)
	often := every(time.Duration(n) * time.Minute)
	hours, hourStepped := hour.step(24)
	first, last := minute.list[0], minute.list[len(minute.list)-1]
	past := make([]string, len(minute.list))
	for i, m := range minute.list {
		past[i] = fmt.Sprintf(":%02d", m)
	}
	switch {
	case hour.full && stepped: // every minute, every 5 minutes, every hour
		return often, false, true
	case hour.full && len(past) <= maxList:
		return "every hour at " + join(past), false, true
	case minute.one() && hourStepped && len(hour.list) > 2:
		return fmt.Sprintf("every %d hours from %02d:%02d", hours, hour.list[0], first), false, true
	case len(minute.list)*len(hour.list) <= maxList:
		var times []string
		for _, h := range hour.list {
			for _, m := range minute.list {
				times = append(times, fmt.Sprintf("%02d:%02d", h, m))
			}
		}
		return "at " + join(times), true, true
	case hour.run() && (stepped || minute.one()):
		if minute.one() {
			often = "every hour"
		}
		return fmt.Sprintf("%s from %02d:%02d to %02d:%02d", often, hour.list[0], first, hour.list[len(hour.list)-1], last), false, true
	}
	return "", false, false
}

// dayWords joins the time of day with the days.
func dayWords(clock string, at bool, dom, month, dow values) (string, bool) {
	ofMonth, inMonth := " of every month", ""
	if !month.full {
		names := make([]string, len(month.list))
		for i, m := range month.list {
			names[i] = months[m-1]
		}
		list := join(names)
		switch {
		case len(names) <= maxList:
			ofMonth, inMonth = " of "+list, " in "+list
		case month.run():
			inMonth = " from " + names[0] + " to " + names[len(names)-1]
			ofMonth += inMonth
		default:
			return "", false
		}
	}
	either := !dom.star && !dow.star // a day that matches one of the two fields counts
	var days string
	switch {
	case dom.full && dow.full, either && (dom.full || dow.full):
		if at {
			return "every day" + inMonth + " " + clock, true
		}
		return clock + inMonth, true
	case dom.full:
		days = weekdayWords(dow) + inMonth
		if at {
			return days + " " + clock, true
		}
		return clock + ", " + days, true
	case dow.full || either && month.full:
		var ok bool
		if days, ok = dateWords(dom, month, ofMonth); !ok {
			return "", false
		}
		if !dow.full {
			days += " and on " + weekdayWords(dow)
		}
		if at {
			return days + " " + clock, true
		}
		return clock + ", " + days, true
	}
	return "", false // both restricted and both needed, or in some months
}

func weekdayWords(dow values) string {
	names := make([]string, len(dow.list))
	for i, d := range dow.list {
		names[i] = weekdays[d-1] + "s"
	}
	if dow.run() && len(names) > 2 {
		return names[0] + " to " + names[len(names)-1]
	}
	return join(names)
}

// dateWords says "on the 1st and 15th of every month", if all those months have the days.
func dateWords(dom, month values, ofMonth string) (string, bool) {
	if len(dom.list) > maxList {
		return "", false
	}
	dates := make([]string, len(dom.list))
	for i, d := range dom.list {
		dates[i] = ordinal(d)
	}
	text := "on the " + join(dates) + ofMonth
	if last := dom.list[len(dom.list)-1]; last > 28 && !month.one() {
		missing := slices.ContainsFunc(month.list, func(m int) bool {
			return last > time.Date(2001, time.Month(m)+1, 0, 0, 0, 0, 0, time.UTC).Day()
		})
		switch {
		case missing && dom.one() && month.full:
			text += " that has it"
		case missing:
			return "", false
		}
	} else if last > 28 && !dom.one() { // 29 February, or a 31st that is not there
		return "", false
	}
	return text, true
}

func ordinal(n int) string {
	suffix := "th"
	if n/10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}

// join makes "a, b and c".
func join(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

// short says a duration by its two largest units: "4 min 12 s". The script does the same.
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

// relative says when t is, seen from now: "in 4 min 12 s", "12 min ago".
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

// took says how long a run took.
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

// count writes a number with a comma between thousands.
func count(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
