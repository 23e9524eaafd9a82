package cron

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// values are the values that match a field, in ascending order.
type values struct {
	list []int
	full bool // every value matches
	star bool // the field starts with '*', which matters if both day fields are restricted
}

var (
	months   = []string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	weekdays = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
)

// Describe returns the pattern in words, such as "every day at 03:00", or the pattern itself if words would be inexact.
func (c *Schedule) Describe() string {
	clock, at, ok := clockWords(valuesOf(c.minute, 0, 59), valuesOf(c.hour, 0, 23))
	if !ok {
		return c.pattern
	}
	dom, month, dow := valuesOf(c.dom, 1, 31), valuesOf(c.month, 1, 12), valuesOf(c.dow|c.dow<<sunday, 1, sunday)
	dom.star, dow.star = c.domStar, c.dowStar
	if text, ok := dayWords(clock, at, dom, month, dow); ok {
		return text
	}
	return c.pattern
}

// valuesOf returns the numbers of the bits from low to high that are set.
func valuesOf(bits uint64, low, high int) (v values) {
	for n := low; n <= high; n++ {
		if match(bits, n) {
			v.list = append(v.list, n)
		}
	}
	v.full = len(v.list) == high-low+1
	return v
}

// everyMinutes returns "every minute", "every 5 minutes" or "every hour".
func everyMinutes(n int) string {
	switch n {
	case 1:
		return "every minute"
	case 60:
		return "every hour"
	}
	return fmt.Sprintf("every %d minutes", n)
}

// one reports whether there is a single value.
func (v values) one() bool { return len(v.list) == 1 }

// run reports whether the values are consecutive.
func (v values) run() bool { return v.list[len(v.list)-1]-v.list[0] == len(v.list)-1 }

// step returns n if the values are the multiples of n below size and n divides size.
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

// maxList is how many values are listed individually.
const maxList = 4

// clockWords describes the time of day. at reports whether it is given as instants ("at 03:00") rather than as a
// frequency ("every 5 minutes").
func clockWords(minute, hour values) (text string, at, ok bool) {
	n, stepped := minute.step(60)
	often := everyMinutes(n)
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

// dayWords combines the time of day with the days.
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
	either := !dom.star && !dow.star // a day has to match only one of the two fields
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
	return "", false // both fields are restricted, and a day must match both or is limited to some months
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

// dateWords returns "on the 1st and 15th of every month" if all these months have these days.
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
	} else if last > 28 && !dom.one() { // 29 February, or a 31st of a shorter month
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

// join returns "a, b and c".
func join(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}
