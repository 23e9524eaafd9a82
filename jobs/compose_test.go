package jobs_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/everytick/everytick/jobs"
)

// ticks returns the ticks of s after from, up to and including to.
func ticks(s jobs.Schedule, from, to time.Time) (all []time.Time) {
	for t := s.Next(from); !t.IsZero() && !t.After(to); t = s.Next(t) {
		all = append(all, t)
	}
	return all
}

func mustCron(t require.TestingT, pattern string, loc *time.Location) jobs.Schedule {
	s, err := jobs.ParseCron(pattern, loc)
	require.NoError(t, err)
	return s
}

// bind returns s as the schedule of a job.
func bind(s jobs.Schedule, job string) jobs.Schedule {
	return s.(interface {
		For(job string) jobs.Schedule
	}).For(job)
}

func isWeekday(t time.Time) bool { return t.Weekday() != time.Saturday && t.Weekday() != time.Sunday }

func TestComposed_Ticks(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	nine := mustCron(t, "0 9 * * *", berlin)
	ended := fixedTicks{time.Date(2026, 3, 27, 12, 0, 0, 0, time.UTC)}
	never := func(time.Time) bool { return false }
	for _, test := range []struct {
		name     string
		schedule jobs.Schedule
		text     string
		want     []string // after 2026-03-26T12:00Z, up to five days later
	}{
		{
			"Only", jobs.Only(nine, "on weekdays", isWeekday), "0 9 * * * Europe/Berlin on weekdays",
			[]string{"27T08:00:00", "30T07:00:00", "31T07:00:00"}, // the clock changes on the 29th
		},
		{
			"Only twice", jobs.Only(jobs.Only(nine, "on weekdays", isWeekday), "on even days", func(t time.Time) bool { return t.Day()%2 == 0 }),
			"0 9 * * * Europe/Berlin on weekdays on even days",
			[]string{"30T07:00:00"},
		},
		{"Only after the end", jobs.Only(ended, "never", never), "a list never", nil},
		{
			"AnyOf", jobs.AnyOf(mustCron(t, "0 6 * * *", nil), mustCron(t, "0 6,18 28 * *", nil)), "any of: 0 6 * * * UTC; 0 6,18 28 * * UTC",
			[]string{"27T06:00:00", "28T06:00:00", "28T18:00:00", "29T06:00:00", "30T06:00:00", "31T06:00:00"},
		},
		{"AnyOf with one that ends", jobs.AnyOf(ended, nine), "any of: a list; 0 9 * * * Europe/Berlin", []string{
			"27T08:00:00", "27T12:00:00", "28T08:00:00", "29T07:00:00", "30T07:00:00", "31T07:00:00",
		}},
		{"AnyOf with only one that ends", jobs.AnyOf(ended), "any of: a list", []string{"27T12:00:00"}},
		{
			"Spread, not registered", jobs.Spread(mustEvery(t, 48*time.Hour), time.Hour), "every 48h0m0s spread over 1h0m0s",
			[]string{"28T00:00:00", "30T00:00:00"},
		},
		{
			"Spread of audit.sync", bind(jobs.Spread(mustEvery(t, 48*time.Hour), time.Hour), "audit.sync"), "every 48h0m0s spread over 1h0m0s",
			[]string{"28T00:27:03", "30T00:27:03"}, // must be the same in all versions
		},
		{
			"Spread of users.sync", bind(jobs.Spread(mustEvery(t, 48*time.Hour), time.Hour), "users.sync"), "every 48h0m0s spread over 1h0m0s",
			[]string{"28T00:44:23", "30T00:44:23"},
		},
		{
			"Spread within others", bind(jobs.AnyOf(jobs.Only(jobs.Spread(mustEvery(t, 48*time.Hour), time.Hour), "on weekdays", isWeekday), ended), "audit.sync"),
			"any of: every 48h0m0s spread over 1h0m0s on weekdays; a list",
			[]string{"27T12:00:00", "30T00:27:03"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			from := time.Date(2026, 3, 26, 12, 0, 0, 0, time.UTC)
			var got []string
			for _, tick := range ticks(test.schedule, from, from.AddDate(0, 0, 5)) {
				require.Equal(t, time.UTC, tick.Location())
				got = append(got, tick.Format("02T15:04:05"))
			}
			require.Equal(t, test.want, got)
			require.Equal(t, test.text, test.schedule.String())
		})
	}
}

// fixedTicks is a schedule with a list of ticks.
type fixedTicks []time.Time

func (f fixedTicks) Next(t time.Time) time.Time {
	for _, tick := range f {
		if tick.After(t) {
			return tick
		}
	}
	return time.Time{}
}

func (fixedTicks) String() string { return "a list" }

func TestComposed_TryNextSaysWhyThereIsNoTick(t *testing.T) {
	t.Parallel()
	hourly := mustEvery(t, time.Hour)
	yes := func(time.Time) bool { return true }
	for _, test := range []struct {
		schedule jobs.Schedule
		want     string
	}{
		{jobs.Only(nil, "always", yes), "the schedule is nil"},
		{jobs.Only(hourly, "", yes), "Only: the rule is empty"},
		{jobs.Only(hourly, " ", yes), "Only: the rule is empty"},
		{jobs.Only(hourly, "always", nil), "Only: the function is nil"},
		{
			jobs.Only(mustEvery(t, time.Second), "never", func(time.Time) bool { return false }),
			`Only "never": the function accepts none of 1000000 ticks in a row, those from 2026-03-26T12:00:00Z to 2026-04-07T01:46:40Z`,
		},
		{jobs.Only(stuckSchedule{}, "never", func(time.Time) bool { return false }), `Next(2026-03-26T12:00:00Z) of "stuck" is 2026-03-26T12:00:00Z`},
		{jobs.Spread(hourly, 0), "Spread over 0s: must be whole seconds, at least 2s"},
		{jobs.Spread(hourly, -time.Hour), "Spread over -1h0m0s: must be"},
		{jobs.Spread(hourly, time.Second), "Spread over 1s: must be"},
		{jobs.Spread(hourly, 2500*time.Millisecond), "Spread over 2.5s: must be"},
		{jobs.Spread(nil, time.Hour), "the schedule is nil"},
		{jobs.AnyOf(), "AnyOf: want at least one schedule"},
		{jobs.AnyOf(hourly, nil), "the schedule is nil"},
		{jobs.AnyOf(hourly, jobs.Spread(hourly, 0)), "Spread over 0s"},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			from := time.Date(2026, 3, 26, 12, 0, 0, 0, time.UTC)
			for _, s := range []jobs.Schedule{test.schedule, bind(test.schedule, "a.b")} {
				_, err := s.(interface {
					TryNext(t time.Time) (time.Time, error)
				}).TryNext(from)
				require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
				require.ErrorContains(t, err, test.want)
				require.Zero(t, s.Next(from))
				require.NotEmpty(t, s.String())
			}
		})
	}
}

// stuckSchedule does not get past a time.
type stuckSchedule struct{}

func (stuckSchedule) Next(t time.Time) time.Time { return t }
func (stuckSchedule) String() string             { return "stuck" }

// A composed schedule has exactly the ticks that its definition says, from whatever time one asks.
func TestComposed_NeverSkipsATick(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from := time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC)
		to := from.AddDate(0, 0, 3)
		var s jobs.Schedule
		var want []time.Time
		bases := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) jobs.Schedule {
			if rapid.Bool().Draw(t, "cron") {
				return mustCron(t, rapid.SampledFrom([]string{"*/20 * * * *", "30 2 * * *", "0 */6 * * *", "5,10 3 * * sun"}).Draw(t, "pattern"), zones(t))
			}
			return mustEvery(t, time.Duration(rapid.IntRange(60, 100_000).Draw(t, "seconds"))*time.Second)
		}), 1, 3).Draw(t, "bases")
		const job = "test.job"
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			n := rapid.IntRange(1, 5).Draw(t, "n")
			accept := func(t time.Time) bool { return t.Unix()/60%int64(n) == 0 }
			s = jobs.Only(bases[0], "sometimes", accept)
			want = slices.DeleteFunc(ticks(bases[0], from, to), func(t time.Time) bool { return !accept(t) })
		case 1:
			within := time.Duration(rapid.IntRange(2, 200_000).Draw(t, "within")) * time.Second
			s = bind(jobs.Spread(bases[0], within), job)
			hundred := time.Time{}.AddDate(0, 0, 100)
			offset := bind(jobs.Spread(mustEvery(t, 100*24*time.Hour), within), job).Next(hundred.Add(-1)).Sub(hundred)
			require.GreaterOrEqual(t, offset, time.Duration(0))
			require.Less(t, offset, within)
			require.Zero(t, offset%time.Second)
			for _, tick := range ticks(bases[0], from.Add(-offset), to.Add(-offset)) {
				want = append(want, tick.Add(offset))
			}
		default:
			s = jobs.AnyOf(bases...)
			for _, base := range bases {
				want = append(want, ticks(base, from, to)...)
			}
			slices.SortFunc(want, time.Time.Compare)
			want = slices.CompactFunc(want, time.Time.Equal)
		}
		got := ticks(s, from, to)
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(got))
		// From any time between, the next tick is the same.
		at := from.Add(time.Duration(rapid.Int64Range(0, int64(to.Sub(from))).Draw(t, "at")))
		i := slices.IndexFunc(got, func(tick time.Time) bool { return tick.After(at) })
		if i >= 0 {
			require.Equal(t, got[i], s.Next(at))
		}
	})
}

func zones(t *rapid.T) *time.Location {
	loc, err := time.LoadLocation(rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}).Draw(t, "zone"))
	require.NoError(t, err)
	return loc
}

// Jobs with the same pattern start at different times, spread evenly.
func TestSpread_IsEven(t *testing.T) {
	t.Parallel()
	const within, n = time.Minute, 6000
	perSecond := map[time.Duration]int{}
	midnight := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		tick := bind(jobs.Spread(mustEvery(t, time.Hour), within), fmt.Sprint("tenant.sync-", i)).Next(midnight.Add(-1))
		perSecond[tick.Sub(midnight)]++
	}
	require.Len(t, perSecond, 60)
	for second, count := range perSecond {
		require.InDelta(t, 100, count, 50, "%s", second)
	}
}
