package cron_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestNext_AroundClockChanges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule, zone, pattern, after, to string
		want                           []string
	}{
		{
			"a fixed hour in the gap runs at its end", "America/New_York", "30 2 * * *", "2026-03-07T00:00:00Z", "2026-03-10T00:00:00Z",
			[]string{"2026-03-07T07:30:00Z", "2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"}, // 02:30 EST, 03:00 EDT, 02:30 EDT
		},
		{
			"several in the gap are one run", "America/New_York", "*/15 2 8 3 *", "2026-03-08T00:00:00Z", "2026-03-09T00:00:00Z",
			[]string{"2026-03-08T07:00:00Z"},
		},
		{
			"one in the gap and one at its end are one run", "America/New_York", "0 2,3 * * *", "2026-03-08T00:00:00Z", "2026-03-09T12:00:00Z",
			[]string{"2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z", "2026-03-09T07:00:00Z"},
		},
		{
			"the last before the gap and the first after it stay", "America/New_York", "59 1 * * *", "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z",
			[]string{"2026-03-08T06:59:00Z", "2026-03-09T05:59:00Z"},
		},
		{
			"a fixed hour with any minute runs once in the gap", "America/New_York", "* 2 * * *", "2026-03-08T00:00:00Z", "2026-03-09T06:02:00Z",
			[]string{"2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z", "2026-03-09T06:01:00Z", "2026-03-09T06:02:00Z"},
		},
		{
			"a range of fixed hours loses its ticks in the gap but for one", "America/New_York", "*/20 1-3 * * *", "2026-03-08T00:00:00Z", "2026-03-08T12:00:00Z",
			[]string{"2026-03-08T06:00:00Z", "2026-03-08T06:20:00Z", "2026-03-08T06:40:00Z", "2026-03-08T07:00:00Z", "2026-03-08T07:20:00Z", "2026-03-08T07:40:00Z"},
		},
		{
			"every hour follows real time through the gap", "America/New_York", "0 * * * *", "2026-03-08T05:00:00Z", "2026-03-08T09:00:00Z",
			[]string{"2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z", "2026-03-08T08:00:00Z", "2026-03-08T09:00:00Z"},
		},
		{
			"every half hour follows real time through the gap", "America/New_York", "30 * * * *", "2026-03-08T05:00:00Z", "2026-03-08T09:00:00Z",
			[]string{"2026-03-08T05:30:00Z", "2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z", "2026-03-08T08:30:00Z"},
		},
		{
			"every second hour has no tick in the gap", "America/New_York", "0 */2 * * *", "2026-03-08T04:30:00Z", "2026-03-08T10:30:00Z",
			[]string{"2026-03-08T05:00:00Z", "2026-03-08T08:00:00Z", "2026-03-08T10:00:00Z"}, // 00:00 EST, 04:00 EDT, 06:00 EDT
		},
		{
			"a fixed hour in the repetition runs once", "America/New_York", "30 1 * * *", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z",
			[]string{"2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"}, // 01:30 EDT, 01:30 EST
		},
		{
			"the hour after the repetition runs once", "America/New_York", "0 2 * * *", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z",
			[]string{"2026-11-01T07:00:00Z", "2026-11-02T07:00:00Z"},
		},
		{
			"a fixed hour with any minute runs in the first pass", "America/New_York", "*/30 1 * * *", "2026-11-01T00:00:00Z", "2026-11-02T12:00:00Z",
			[]string{"2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z", "2026-11-02T06:00:00Z", "2026-11-02T06:30:00Z"},
		},
		{
			"any minute of a fixed hour follows the civil day, where cronie follows real time and runs both passes", "Europe/Berlin", "*/15 2 * * *", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z",
			[]string{"2026-10-25T00:00:00Z", "2026-10-25T00:15:00Z", "2026-10-25T00:30:00Z", "2026-10-25T00:45:00Z", "2026-10-26T01:00:00Z", "2026-10-26T01:15:00Z", "2026-10-26T01:30:00Z", "2026-10-26T01:45:00Z"},
		},
		{
			"any minute of a fixed hour in the gap is one run, where cronie has none", "Europe/Berlin", "*/15 2 * * *", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z",
			[]string{"2026-03-29T01:00:00Z"},
		},
		{
			"every hour runs in both passes", "America/New_York", "0 * * * *", "2026-11-01T04:00:00Z", "2026-11-01T07:00:00Z",
			[]string{"2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"},
		},
		{
			"every half hour runs in both passes", "America/New_York", "30 * * * *", "2026-11-01T04:00:00Z", "2026-11-01T07:00:00Z",
			[]string{"2026-11-01T04:30:00Z", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"},
		},
		{
			"an hour that only lists all hours does not follow real time", "America/New_York", "30 0-23 * * *", "2026-11-01T04:00:00Z", "2026-11-01T07:40:00Z",
			[]string{"2026-11-01T04:30:00Z", "2026-11-01T05:30:00Z", "2026-11-01T07:30:00Z"},
		},
		{
			"midnight in the gap", "America/Havana", "0 0 * * *", "2026-03-07T00:00:00Z", "2026-03-10T00:00:00Z",
			[]string{"2026-03-07T05:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"}, // 00:00, 01:00, 00:00
		},
		{
			"midnight in the repetition", "America/Havana", "0 0 * * *", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z",
			[]string{"2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		},
		{
			"midnight in the gap, in the south", "America/Santiago", "0 0 * * *", "2026-09-05T00:00:00Z", "2026-09-08T00:00:00Z",
			[]string{"2026-09-05T04:00:00Z", "2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"},
		},
		{
			"midnight that is set back to 23:00 before it shows", "America/Santiago", "0 0 * * *", "2026-04-04T00:00:00Z", "2026-04-07T00:00:00Z",
			[]string{"2026-04-04T03:00:00Z", "2026-04-05T04:00:00Z", "2026-04-06T04:00:00Z"},
		},
		{
			"23:30 on a day whose last hour is repeated", "America/Santiago", "30 23 * * *", "2026-04-04T12:00:00Z", "2026-04-07T00:00:00Z",
			[]string{"2026-04-05T02:30:00Z", "2026-04-06T03:30:00Z"},
		},
		{
			"a day field and a gap over midnight", "America/Havana", "0 0 8 3 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z",
			[]string{"2026-03-08T05:00:00Z"},
		},
		{
			"every hour of a day that begins with a gap", "America/Havana", "0 */8 8 3 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z",
			[]string{"2026-03-08T12:00:00Z", "2026-03-08T20:00:00Z"},
		},
		{
			"half an hour's gap", "Australia/Lord_Howe", "15 2 * * *", "2026-10-03T00:00:00Z", "2026-10-05T00:00:00Z",
			[]string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}, // 02:30, 02:15
		},
		{
			"half an hour's repetition", "Australia/Lord_Howe", "45 1 * * *", "2026-04-04T00:00:00Z", "2026-04-06T00:00:00Z",
			[]string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"},
		},
		{
			"every hour on a clock set back by half an hour", "Australia/Lord_Howe", "0 * * * *", "2026-04-04T13:00:00Z", "2026-04-04T17:00:00Z",
			[]string{"2026-04-04T14:00:00Z", "2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"}, // 01:00, 02:00, 03:00
		},
		{
			"every half hour on a clock set back by half an hour", "Australia/Lord_Howe", "30 * * * *", "2026-04-04T13:00:00Z", "2026-04-04T17:00:00Z",
			[]string{"2026-04-04T13:30:00Z", "2026-04-04T14:30:00Z", "2026-04-04T15:00:00Z", "2026-04-04T16:00:00Z", "2026-04-04T17:00:00Z"}, // 00:30, 01:30 twice, 02:30, 03:30
		},
		{
			"two hours' gap", "Antarctica/Troll", "30 2 * * *", "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z",
			[]string{"2026-03-28T02:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"},
		},
		{
			"23:59 in a gap runs on the day after, at midnight", "America/Nuuk", "59 23 * * *", "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z",
			[]string{"2026-03-28T01:59:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:59:00Z"},
		},
		{
			"a clock set back over midnight: every hour runs in both passes", "America/St_Johns", "0 * 7 11 *", "2010-11-06T00:00:00Z", "2010-11-07T05:00:00Z",
			[]string{"2010-11-07T02:30:00Z", "2010-11-07T03:30:00Z", "2010-11-07T04:30:00Z"},
		},
		{
			"a clock set back over midnight: every hour of the day before runs in both passes", "America/St_Johns", "13 * * * 6", "2008-11-01T23:43:00Z", "2008-11-08T04:00:00Z",
			[]string{"2008-11-02T00:43:00Z", "2008-11-02T01:43:00Z", "2008-11-02T02:43:00Z", "2008-11-08T03:43:00Z"}, // 22:13, 23:13 twice, a week later 00:13
		},
		{
			"a clock set back over midnight: a fixed hour runs once", "America/St_Johns", "0 0 7 11 *", "2010-11-06T00:00:00Z", "2011-11-01T00:00:00Z",
			[]string{"2010-11-07T02:30:00Z"},
		},
		{
			"a day that a zone lacks runs at its end", "Pacific/Apia", "0 12 * * *", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z",
			[]string{"2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z", "2011-12-31T22:00:00Z"}, // the 29th, the 30th which is none, the 31st, the 1st
		},
		{
			"midnight of a day that a zone lacks is that of the next", "Pacific/Apia", "0 0 * * *", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z",
			[]string{"2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		},
		{
			"every hour skips a day that a zone lacks", "Pacific/Apia", "0 */12 30,31 12 *", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z",
			[]string{"2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"},
		},
		{
			"an offset that was no whole minute", "Africa/Monrovia", "*/15 * * * *", "1972-01-07T00:20:00Z", "1972-01-07T01:10:00Z",
			[]string{"1972-01-07T00:29:30Z", "1972-01-07T00:45:00Z", "1972-01-07T01:00:00Z"}, // 23:45 at -00:44:30, 00:45, 01:00
		},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			s := mustParse(t, test.pattern, mustZone(t, test.zone))
			require.Equal(t, test.want, rfc3339(ticksOf(s, at(t, test.after), at(t, test.to))))
		})
	}
}

// For years beyond the changes listed in a zone file, package time uses the zone's rule and assumes years of 365 days.
func TestNext_OnTheLastDayOfALeapYear(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		loc  *time.Location
		year int
	}{
		{ruleZone(t, "New York", "EST5EDT,M3.2.0,M11.1.0"), 2028},
		{ruleZone(t, "Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"), 2028},
		{ruleZone(t, "Sydney", "AEST-10AEDT,M10.1.0,M4.1.0/3"), 2028},
		{ruleZone(t, "Azores", "<-01>1<+00>,M3.5.0/0,M10.5.0/1"), 2028},
		{mustZone(t, "America/New_York"), 2040},
		{mustZone(t, "Europe/Berlin"), 2048},
		{mustZone(t, "Pacific/Chatham"), 2096},
	} {
		for _, pattern := range []string{"0 3 * * *", "59 23 * * *", "0 0 * * *", "0 */6 31 12 *"} {
			t.Run(fmt.Sprint(test.loc, test.year, " ", pattern), func(t *testing.T) {
				t.Parallel()
				from, to := time.Date(test.year, 12, 28, 0, 0, 0, 0, time.UTC), time.Date(test.year+1, 1, 3, 0, 0, 0, 0, time.UTC)
				s := mustParse(t, pattern, test.loc)
				done := make(chan []time.Time, 1)
				go func() { done <- ticksOf(s, from, to) }()
				select {
				case got := <-done:
					require.Equal(t, rfc3339(newRefPattern(pattern).ticks(test.loc, from, to)), rfc3339(got))
				case <-time.After(10 * time.Second):
					t.Fatal("Next does not return")
				}
			})
		}
	}
}

// A job at a fixed hour has one tick for every civil day, in every zone of the tz
// database, through ten years: when the clock first shows the hour or, on days on
// which it never does, when it jumps over it. No zone lacks a whole civil day in
// these years (the last one was Apia's 2011-12-30; see above for what happens then).
func TestNext_AFixedHourTicksOncePerCivilDayInEveryZone(t *testing.T) {
	t.Parallel()
	all, err := clocks()
	require.NoError(t, err)
	require.Greater(t, len(all), 100)
	jumped := 0
	walk := func(c clock, hour, minute int, from, to time.Time) {
		s := mustParse(t, fmt.Sprintf("%d %d * * *", minute, hour), c.loc)
		day := time.Date(from.Year(), from.Month(), from.Day(), hour, minute, 0, 0, time.UTC)
		tick, _ := c.first(day)
		for day.Before(to) {
			day = day.AddDate(0, 0, 1)
			want, shown := c.first(day)
			if want.Equal(tick) {
				continue // midnight after a day that the zone lacks: Apia's 2011-12-30, with -every
			}
			tick = s.Next(tick)
			if !tick.Equal(want) || shown != refWall(tick, c.loc).Equal(day) {
				t.Fatalf("%s in %s: tick of %s is %s, want %s", s, c.loc, day.Format(time.DateOnly), tick, want)
			}
			if !shown {
				jumped++
			}
		}
	}
	times := [][2]int{{0, 0}, {2, 30}, {1, 59}, {23, 59}, {0, 30}, {23, 0}, {3, 0}, {1, 0}}
	for i, c := range all {
		// All times around each change, one of them through all the days.
		for _, hm := range times {
			for _, ch := range c.changes[1:] {
				walk(c, hm[0], hm[1], ch.at.AddDate(0, 0, -3), ch.at.AddDate(0, 0, 2))
			}
		}
		from, to := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC)
		if len(c.changes) == 1 { // a leap year will do for a clock that never changes
			from, to = time.Date(2027, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2029, 1, 31, 0, 0, 0, 0, time.UTC)
		}
		hm := times[i%len(times)]
		walk(c, hm[0], hm[1], from, to)
	}
	require.Greater(t, jumped, 100, "days on which the clock skips the hour are covered")
}

// A moment is a clock change.
type moment struct {
	loc *time.Location
	at  time.Time
}

// moments returns one clock change of each kind, or with -every all of them. Kinds differ in the time of day, in the
// size of the change, and in whether it comes from a rule or a list of changes.
func moments(t require.TestingT) []moment {
	all, err := clocks()
	require.NoError(t, err)
	var found []moment
	seen := map[string]bool{}
	for _, c := range all {
		for i, ch := range c.changes[1:] {
			kind := fmt.Sprint(refWall(ch.at, c.loc).Format(time.TimeOnly), ch.offset-c.changes[i].offset, c.loc.String()[:4] == "rule")
			if !seen[kind] || *everyFlag {
				seen[kind] = true
				found = append(found, moment{c.loc, ch.at})
			}
		}
	}
	return found
}

func TestNext_NeitherSkipsNorAddsTicksAroundClockChanges(t *testing.T) {
	t.Parallel()
	all := moments(t)
	require.Greater(t, len(all), 30)
	for _, pattern := range []string{"* * * * *", "*/20 */3 * * *", "0 0-23 * * *", "* 0-3 * * *", "17 0,2,23 * * 0"} {
		p := newRefPattern(pattern)
		for _, m := range all {
			s := mustParse(t, pattern, m.loc)
			from, to := m.at.Add(-12*time.Hour), m.at.Add(26*time.Hour)
			if want, got := p.ticks(m.loc, from, to), ticksOf(s, from, to); fmt.Sprint(want) != fmt.Sprint(got) {
				require.Equal(t, rfc3339(want), rfc3339(got), "%s in %s at %s", pattern, m.loc, m.at)
			}
		}
	}
}

func TestNext_EqualsTheModelAroundClockChanges(t *testing.T) {
	t.Parallel()
	all := moments(t)
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(all).Draw(t, "moment")
		pattern := firing.Draw(t, "pattern")
		if rapid.Bool().Draw(t, "every day") {
			pattern = fmt.Sprintf("%s %s * * *", fieldOf(pattern, 0), fieldOf(pattern, 1))
		}
		from := m.at.Add(-time.Duration(rapid.IntRange(0, 30*3600).Draw(t, "before")) * time.Second)
		to := m.at.Add(26 * time.Hour)
		require.Equal(t, rfc3339(newRefPattern(pattern).ticks(m.loc, from, to)), rfc3339(ticksOf(mustParse(t, pattern, m.loc), from, to)))
	})
}

// Between two ticks, Next always returns the later one. So all processes get the same tick, also after a restart.
func TestNext_IsTheSameEverywhereBetweenTwoTicks(t *testing.T) {
	t.Parallel()
	all := moments(t)
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(all).Draw(t, "moment")
		s := mustParse(t, firing.Draw(t, "pattern"), m.loc)
		tick := s.Next(m.at.Add(-time.Duration(rapid.IntRange(0, 30*3600).Draw(t, "before")) * time.Second))
		for range 20 {
			next := s.Next(tick)
			require.True(t, next.After(tick))
			between := tick.Add(time.Duration(rapid.Int64Range(0, int64(next.Sub(tick))-1).Draw(t, "between")))
			require.Equal(t, next, s.Next(between))
			tick = next
		}
	})
}

// history returns all changes that have ever set a clock back over midnight, and one of each other kind: the times of
// day before and after it, and the second of a minute at which it came.
func history(t require.TestingT) (found []moment) {
	files, err := zoneData()
	require.NoError(t, err)
	first, last := time.Date(1840, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC)
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		loc, err := time.LoadLocationFromTZData(name, files[name])
		require.NoError(t, err)
		for _, change := range changesOf(loc, first, last) {
			before, after := refWall(change.Add(-time.Second), loc), refWall(change, loc)
			kind := fmt.Sprint(before.Format(time.TimeOnly), after.Format(time.TimeOnly), change.Second())
			if after.Before(before) && after.Day() != before.Day() {
				kind = fmt.Sprint(change, before, after)
			}
			if !seen[kind] {
				seen[kind] = true
				found = append(found, moment{loc, change})
			}
		}
	}
	return found
}

func TestNext_FollowsElapsedTimeThroughHistoricalClockChanges(t *testing.T) {
	t.Parallel()
	all, acrossMidnight := history(t), 0
	require.Greater(t, len(all), 500)
	check := func(m moment, pattern string, from, to time.Time) {
		want, got := newRefPattern(pattern).realTicks(m.loc, from, to), ticksOf(mustParse(t, pattern, m.loc), from, to)
		if fmt.Sprint(want) != fmt.Sprint(got) {
			require.Equal(t, rfc3339(want), rfc3339(got), "%s in %s at %s", pattern, m.loc, m.at)
		}
	}
	for _, m := range all {
		check(m, "0,29 * * * *", m.at.Add(-2*time.Hour), m.at.Add(2*time.Hour))
		before, after := refWall(m.at.Add(-time.Second), m.loc), refWall(m.at, m.loc)
		if !after.Before(before) || after.Day() == before.Day() {
			continue
		}
		acrossMidnight++ // an hour of the previous day, or all of it, appears again
		for _, pattern := range []string{
			fmt.Sprintf("13 * * * %d", after.Weekday()), fmt.Sprintf("*/7 * * * %d", after.Weekday()),
			fmt.Sprintf("0,59 */5 * * %d", before.Weekday()), fmt.Sprintf("30 * %d * *", after.Day()), fmt.Sprintf("* * %d,3 * *", before.Day()),
		} {
			check(m, pattern, m.at.Add(-4*time.Hour), m.at.Add(30*time.Hour))
		}
	}
	require.Greater(t, acrossMidnight, 50)
}

// On that day the clocks of Winamac went two hours ahead, at another time than the rule that holds since says.
func TestNext_AtTheChangeWhereARuleTakesOverFromAList(t *testing.T) {
	t.Parallel()
	files, err := zoneData()
	require.NoError(t, err)
	loc, err := time.LoadLocationFromTZData("America/Indiana/Winamac", files["America/Indiana/Winamac"])
	require.NoError(t, err)
	s := mustParse(t, "30 2 * * *", loc)
	require.Equal(t, at(t, "2007-03-11T08:00:00Z"), s.Next(at(t, "2007-03-10T12:00:00Z")))
}
