package jobs_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/everytick/everytick/jobs"
)

func mustEvery(t require.TestingT, interval time.Duration) jobs.Schedule {
	s, err := jobs.Every(interval)
	require.NoError(t, err)
	return s
}

func TestEvery_RefusesLessThanASecond(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{0, 1, -1, time.Millisecond, time.Second - 1, -time.Second, -time.Hour, math.MinInt64} {
		s, err := jobs.Every(interval)
		require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
		require.Nil(t, s)
		require.ErrorContains(t, err, "interval "+interval.String())
		require.ErrorContains(t, err, "must be at least 1s")
	}
}

func TestEvery_RefusesFractionsOfMilliseconds(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{time.Second + 1, time.Second + time.Microsecond, time.Hour - 1, time.Minute + 1500*time.Microsecond, math.MaxInt64} {
		s, err := jobs.Every(interval)
		require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
		require.Nil(t, s)
		require.ErrorContains(t, err, "interval "+interval.String()+": must be whole milliseconds")
	}
}

func TestEvery_TicksAreMultiplesOfTheInterval(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule     string
		interval time.Duration
		text     string
		after    string
		want     []string
	}{
		{"a second", time.Second, "every 1s", "2025-01-01T00:00:00.3Z", []string{"2025-01-01T00:00:01Z", "2025-01-01T00:00:02Z"}},
		{"fractions of seconds", 1500 * time.Millisecond, "every 1.5s", "2025-01-01T00:00:00Z", []string{"2025-01-01T00:00:01.5Z", "2025-01-01T00:00:03Z", "2025-01-01T00:00:04.5Z"}},
		{"a day is at midnight", 24 * time.Hour, "every 24h0m0s", "2025-01-01T12:00:00Z", []string{"2025-01-02T00:00:00Z", "2025-01-03T00:00:00Z"}},
		{"a week is on Monday", 7 * 24 * time.Hour, "every 168h0m0s", "2025-01-01T00:00:00Z", []string{"2025-01-06T00:00:00Z", "2025-01-13T00:00:00Z"}},
		{"an interval that does not divide a day continues over midnight", 7 * time.Hour, "every 7h0m0s", "2025-01-01T00:00:00Z", []string{"2025-01-01T01:00:00Z", "2025-01-01T08:00:00Z", "2025-01-01T15:00:00Z", "2025-01-01T22:00:00Z", "2025-01-02T05:00:00Z"}},
		{"a tick is not after itself", 5 * time.Minute, "every 5m0s", "2025-01-01T00:05:00Z", []string{"2025-01-01T00:10:00Z"}},
		{"a nanosecond before a tick", 5 * time.Minute, "every 5m0s", "2025-01-01T00:04:59.999999999Z", []string{"2025-01-01T00:05:00Z"}},
		{"before 1970", time.Hour, "every 1h0m0s", "1969-12-31T22:59:59.5Z", []string{"1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z"}},
		{"milliseconds", 1001 * time.Millisecond, "every 1.001s", "0001-01-01T00:00:00Z", []string{"0001-01-01T00:00:01.001Z", "0001-01-01T00:00:02.002Z"}},
		{"the longest", math.MaxInt64 / 1_000_000 * 1_000_000, "every 2562047h47m16.854s", "2025-01-01T00:00:00Z", []string{"2046-12-09T22:30:57.978Z"}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			s := mustEvery(t, test.interval)
			require.Equal(t, test.text, s.String())
			var got []string
			for tick := at(t, test.after); len(got) < len(test.want); {
				tick = s.Next(tick)
				got = append(got, tick.Format(time.RFC3339Nano))
			}
			require.Equal(t, test.want, got)
		})
	}
}

// intervals generates valid intervals, including fractions of seconds.
var intervals = rapid.Custom(func(t *rapid.T) time.Duration {
	unit := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(t, "unit")
	return max(time.Second, time.Duration(rapid.Int64Range(1, int64(90*24*time.Hour/unit)).Draw(t, "units"))*unit)
})

var instants = rapid.Custom(func(t *rapid.T) time.Time {
	return time.Unix(rapid.Int64Range(-1<<32, 1<<33).Draw(t, "unix"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
})

func TestEvery_NextIsTheNextMultiple(t *testing.T) {
	t.Parallel()
	newYork, err := time.LoadLocation("America/New_York")
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		d, now := intervals.Draw(t, "interval"), instants.Draw(t, "now")
		s := mustEvery(t, d)
		next := s.Next(now)
		require.Equal(t, now.UTC().Truncate(d).Add(d), next)
		require.Equal(t, time.UTC, next.Location())
		require.True(t, next.After(now))
		require.LessOrEqual(t, next.Sub(now), d, "no tick is skipped")
		require.Equal(t, next, next.Truncate(d), "a multiple of the interval")
		require.Equal(t, next.Add(d), s.Next(next), "clock changes do not matter")
		require.Equal(t, next, s.Next(now.In(newYork)), "nor does the zone")
	})
}

func TestEvery_AllProcessesGetTheSameTick(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := intervals.Draw(t, "interval")
		tick := instants.Draw(t, "now").Truncate(d)
		for range 5 {
			between := tick.Add(time.Duration(rapid.Int64Range(0, int64(d)-1).Draw(t, "between")))
			require.Equal(t, tick.Add(d).UTC(), mustEvery(t, d).Next(between))
		}
	})
}

// A process that is replaced every day computes the next tick again each time.
func TestEvery_AWeekRunsWeeklyThroughDailyRestarts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		started, end := at(t, "2025-01-01T09:00:00Z"), at(t, "2026-01-01T00:00:00Z")
		var runs []time.Time
		lives := rapid.SliceOfN(rapid.IntRange(1, 48*3600), 20, 20).Draw(t, "lives")
		for i := 0; started.Before(end); i++ {
			s := mustEvery(t, 7*24*time.Hour)
			stopped := started.Add(time.Hour + time.Duration(lives[i%len(lives)])*time.Second)
			runs = append(runs, ticksOf(s, started, stopped)...)
			started = stopped
		}
		require.GreaterOrEqual(t, len(runs), 52)
		for i, run := range runs {
			require.Equal(t, at(t, "2025-01-06T00:00:00Z").AddDate(0, 0, 7*i), run)
		}
	})
}

// ticksOf returns the ticks t of s with after < t <= to.
func ticksOf(s jobs.Schedule, after, to time.Time) []time.Time {
	var found []time.Time
	for t := s.Next(after); !t.IsZero() && !t.After(to); t = s.Next(t) {
		found = append(found, t)
	}
	return found
}
