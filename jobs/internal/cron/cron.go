// Package cron parses cron patterns, computes their ticks and describes them in words. When clocks change it follows
// the rules of cronie, with the two exceptions that jobs.ParseCron lists.
package cron

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Schedule is a parsed pattern.
//
// robfig/cron is not used because it skips or repeats runs when clocks change, rejects Sunday as 7, panics on "TZ=0",
// and has been unmaintained since 2021. A wrapper that corrects all that would be larger than this parser. A test
// compares the two in UTC.
type Schedule struct {
	pattern string
	loc     *time.Location
	zone    string // the name of loc

	minute, hour, dom, month, dow uint64 // bit n is set if the value n matches

	// Set if the field starts with '*'. As in cronie, such an hour field follows elapsed time when clocks change, and
	// the two day fields are alternatives only if neither starts with '*'.
	hourStar, domStar, dowStar bool
}

var aliases = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
	"@monthly": "0 0 1 * *",
	"@weekly":  "0 0 * * 0",
	"@daily":   "0 0 * * *", "@midnight": "0 0 * * *",
	"@hourly": "0 * * * *",
}

type field struct {
	name     string
	min, max int
	names    []string // names[i] stands for min+i
}

// sunday is the second number for Sunday in the day-of-week field; the first is 0.
const sunday = 7

var cronFields = [5]field{
	{name: "minute", max: 59},
	{name: "hour", max: 23},
	{name: "day-of-month", min: 1, max: 31},
	{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{name: "day-of-week", max: sunday, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// Parse parses a pattern in the time zone loc; nil means UTC. jobs.ParseCron documents the syntax. An error names the
// field and says what is allowed.
func Parse(pattern string, loc *time.Location) (*Schedule, error) {
	if loc == nil {
		loc = time.UTC
	}
	c := &Schedule{pattern: strings.TrimSpace(pattern), loc: loc, zone: zoneName(loc)}
	expanded := c.pattern
	if strings.HasPrefix(expanded, "@") {
		var ok bool
		if expanded, ok = aliases[expanded]; !ok {
			hint := ""
			if strings.HasPrefix(c.pattern, "@every") {
				hint = "; for an interval, use RegisterInterval"
			}
			return nil, fmt.Errorf("unknown alias, want @hourly, @daily or @midnight, @weekly, @monthly, and @yearly or @annually%s", hint)
		}
	}
	if strings.HasPrefix(expanded, "TZ=") || strings.HasPrefix(expanded, "CRON_TZ=") {
		return nil, errors.New("set the time zone with the TimeZone option, not in the pattern")
	}
	texts := strings.Fields(expanded)
	if len(texts) == len(cronFields)+1 {
		return nil, errors.New("6 fields, want 5: minute, hour, day-of-month, month, day-of-week; seconds and years are not supported")
	}
	if len(texts) != len(cronFields) {
		return nil, fmt.Errorf("%d fields, want 5: minute, hour, day-of-month, month, day-of-week", len(texts))
	}
	for i, bits := range []*uint64{&c.minute, &c.hour, &c.dom, &c.month, &c.dow} {
		var err error
		if *bits, err = cronFields[i].parse(texts[i]); err != nil {
			return nil, fmt.Errorf("field %s: %w", cronFields[i].name, err)
		}
	}
	if c.dow&(1<<sunday) != 0 {
		c.dow |= 1
	}
	c.hourStar, c.domStar, c.dowStar = texts[1][0] == '*', texts[2][0] == '*', texts[4][0] == '*'
	if _, ok := c.nextDay(civilDay(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))); !ok {
		return nil, errors.New("field day-of-month: no such day in these months, so the pattern never fires")
	}
	return c, nil
}

func (f field) parse(text string) (bits uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		low, high := f.min, f.max
		if span != "*" {
			from, to, ranged := strings.Cut(span, "-")
			if ranged && (from == "" || to == "") {
				return 0, fmt.Errorf("%q: a range is low-high, as in %d-%d", part, f.min, f.max)
			}
			if low, err = f.value(from); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				if high, err = f.value(to); err != nil {
					return 0, err
				}
				if high == 0 && low > 0 && f.max == sunday { // a range that ends on Sunday, written as 0 or by name
					high = sunday
				}
			case stepped:
				return 0, fmt.Errorf("%q: a step needs a range or *, as in %d-%d/%s", part, low, f.max, stepText)
			default:
				high = low
			}
			if low > high {
				return 0, fmt.Errorf("range %q runs backwards, want low-high within %d-%d", span, f.min, f.max)
			}
		}
		step := 1
		if stepped {
			if step, err = strconv.Atoi(stepText); err != nil || !isDigit(stepText[0]) || step < 1 || step > f.max {
				return 0, fmt.Errorf("step %q, want 1 to %d", stepText, f.max)
			}
		}
		for v := low; v <= high; v += step {
			bits |= 1 << v
		}
	}
	return bits, nil
}

func (f field) value(text string) (int, error) {
	for i, name := range f.names {
		if len(text) == len(name) && strings.EqualFold(text, name) { // the length excludes U+017F, which folds to s
			return f.min + i, nil
		}
	}
	v, err := strconv.Atoi(text)
	if err != nil || !isDigit(text[0]) || v < f.min || v > f.max {
		names := ""
		if f.names != nil {
			names = " or " + f.names[0] + " to " + f.names[len(f.names)-1]
		}
		hint := ""
		if text == "?" {
			hint = "; write * for any, which is what ? means elsewhere"
		}
		return 0, fmt.Errorf("value %q, want %d to %d%s%s", text, f.min, f.max, names, hint)
	}
	return v, nil
}

// String returns the pattern.
func (c *Schedule) String() string { return c.pattern }

// Zone returns the name of the time zone.
func (c *Schedule) Zone() string { return c.zone }

// Next returns the first tick after t, in UTC, or the zero time if there is none. It finds the tick in civil time, as
// if clocks never changed, and maps it to an instant. A pattern whose hour follows elapsed time steps through real
// minutes instead.
func (c *Schedule) Next(t time.Time) time.Time {
	t = t.UTC()
	if c.hourStar {
		return c.nextReal(t)
	}
	for civil, ok := c.nextCivil(wall(t, c.loc)); ok; civil, ok = c.nextCivil(civil) {
		// In the second pass of a repeated hour, the instants of the first are in the past.
		if tick := firstInstant(civil, c.loc); tick.After(t) {
			return tick
		}
	}
	return time.Time{}
}

func (c *Schedule) nextReal(t time.Time) time.Time {
	at := t.Truncate(time.Second).Add(time.Second)
	for {
		civil := wall(at, c.loc)
		// Historical offsets include seconds, so a local minute may start at any second.
		next := at.Add(time.Duration(60-civil.Second()) * time.Second)
		if end := zoneEnd(at.In(c.loc)); !end.IsZero() && end.Before(next) {
			next = end.UTC()
		}
		if civil.Second() == 0 {
			day, ok := c.nextDay(civilDay(civil))
			switch {
			case !ok:
				return time.Time{}
			case day.After(civil):
				next = c.nextOn(day, at, next)
			case match(c.hour, civil.Hour()) && match(c.minute, civil.Minute()):
				return at
			}
		}
		at = next
	}
}

// nextOn returns the first instant after at, but not before next, at which a clock may show a matching day. day is the
// next matching one in the calendar.
func (c *Schedule) nextOn(day, at, next time.Time) time.Time {
	first := firstInstant(day, c.loc)
	if !first.After(next) { // the clock was set back over midnight, and the day had already started
		return next
	}
	today := civilDay(wall(at, c.loc))
	for end := zoneEnd(at.In(c.loc)); !end.IsZero() && end.Before(first); end = zoneEnd(end) {
		if wall(end, c.loc).Before(today) { // it will be set back, and an earlier day appears again
			return end.UTC()
		}
	}
	return first
}

// nextCivil returns the first matching civil time after civil, and false if there is none. Civil times are represented
// in UTC.
func (c *Schedule) nextCivil(civil time.Time) (time.Time, bool) {
	civil = civil.Truncate(time.Minute).Add(time.Minute)
	for {
		day, ok := c.nextDay(civilDay(civil))
		if !ok {
			return time.Time{}, false
		}
		if day.After(civil) {
			civil = day
		}
		for h := civil.Hour(); h < 24; h++ {
			if !match(c.hour, h) {
				continue
			}
			m := 0
			if h == civil.Hour() {
				m = civil.Minute()
			}
			for ; m < 60; m++ {
				if match(c.minute, m) {
					return civilDay(civil).Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute), true
				}
			}
		}
		civil = civilDay(civil).AddDate(0, 0, 1)
	}
}

// maxDays exceeds the distance between any two matching days. 29 February on a given day of the week is 40 years apart
// when a century skips a leap year.
const maxDays = 41 * 366

// nextDay returns the first matching day on or after day, and false if there is none.
func (c *Schedule) nextDay(day time.Time) (time.Time, bool) {
	for range maxDays {
		if match(c.month, int(day.Month())) {
			dom, dow := match(c.dom, day.Day()), match(c.dow, int(day.Weekday()))
			if dom && dow || !c.domStar && !c.dowStar && (dom || dow) {
				return day, true
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}, false
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func match(bits uint64, v int) bool { return bits&(1<<v) != 0 }

// zoneName returns a name for the zone such that zones with the same name show the same time. If the time zone database
// does not have the zone under its own name, the offsets are appended.
func zoneName(loc *time.Location) string {
	name := loc.String()
	winter, summer := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC)
	known, err := time.LoadLocation(name)
	if err == nil && name != "" && wall(winter, known).Equal(wall(winter, loc)) && wall(summer, known).Equal(wall(summer, loc)) {
		return name
	}
	offsets := []string{winter.In(loc).Format("-07:00"), summer.In(loc).Format("-07:00")}
	return strings.TrimSpace(name + " UTC" + strings.Join(slices.Compact(offsets), "/"))
}

// wall returns the civil time in loc at t, represented in UTC.
func wall(t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

func civilDay(civil time.Time) time.Time {
	return time.Date(civil.Year(), civil.Month(), civil.Day(), 0, 0, 0, 0, time.UTC)
}

// firstInstant returns the first instant at which a clock in loc shows civil, or the instant at which it skips civil.
func firstInstant(civil time.Time, loc *time.Location) time.Time {
	// No zone is further than this from UTC or changes by more.
	at := civil.Add(-26 * time.Hour).In(loc)
	start, _ := at.ZoneBounds()
	for {
		end := zoneEnd(at)
		_, offset := at.Zone()
		instant := civil.Add(-time.Duration(offset) * time.Second)
		switch {
		case instant.Before(start):
			return start.UTC()
		case end.IsZero() || instant.Before(end):
			return instant
		}
		// Not the bounds of the next one: where a rule takes over from the list of changes, ZoneBounds may return a
		// start by the rule that lies before the change.
		at, start = end, end
	}
}

// zoneEnd returns when the offset of t's zone next changes, in that zone, or the zero time if it never does.
func zoneEnd(t time.Time) time.Time {
	_, end := t.ZoneBounds()
	if !end.IsZero() && !end.After(t) {
		// In zones defined by a rule, package time assumes years of 365 days, so on the last day of a leap year (in
		// UTC) the end is already past.
		end = t.Truncate(24 * time.Hour).Add(24 * time.Hour)
	}
	return end
}
