package provider_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

func TestNewActivity(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-02-03T10:17:42.5Z")
	for _, test := range []struct {
		step  time.Duration
		n     int
		start string
	}{
		{time.Hour, 1, "2026-02-03T10:00:00Z"},
		{time.Hour, 24, "2026-02-02T11:00:00Z"},
		{time.Minute, 60, "2026-02-03T09:18:00Z"},
		{time.Second, 1440, "2026-02-03T09:53:43Z"},
		{1500 * time.Millisecond, 2, "2026-02-03T10:17:40.5Z"},
		{24 * time.Hour, 7, "2026-01-28T00:00:00Z"},
		{7 * 24 * time.Hour, 1, "2026-02-02T00:00:00Z"}, // a Monday, like an interval of a week
	} {
		a, err := provider.NewActivity(now.In(time.FixedZone("", 5*3600)), test.step, test.n)
		require.NoError(t, err)
		require.Equal(t, jobs.Activity{
			Start: at(t, test.start), Step: test.step, CompleteSince: at(t, test.start), Jobs: map[string][]jobs.Outcomes{},
		}, a, "%d steps of %s", test.n, test.step)
		end := a.Start.Add(time.Duration(test.n) * test.step)
		require.False(t, now.Before(end.Add(-test.step)), "now is in the last step")
		require.True(t, now.Before(end), "now is in the last step")
	}
}

func TestNewActivity_RefusesWhatIsOutOfRange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		step time.Duration
		n    int
	}{
		{time.Second - 1, 1},
		{0, 1},
		{-1, 1},
		{math.MinInt64, 1},
		{time.Hour, 0},
		{time.Hour, -1},
		{time.Hour, 1441},
		{time.Hour, math.MaxInt},
		{math.MaxInt64, 2},
		{math.MaxInt64/1440 + 1, 1440},
	} {
		_, err := provider.NewActivity(time.Now(), test.step, test.n)
		require.ErrorIs(t, err, jobs.ErrInvalidOption, "%d steps of %s", test.n, test.step)
	}
	_, err := provider.NewActivity(time.Now(), math.MaxInt64/1440, 1440)
	require.NoError(t, err)
}

func TestAddEnded(t *testing.T) {
	t.Parallel()
	a, err := provider.NewActivity(at(t, "2026-02-03T10:17:42Z"), time.Hour, 3)
	require.NoError(t, err)
	provider.AddEnded(a, "a.b", 0, 3, jobs.StateCompleted, 2)
	provider.AddEnded(a, "a.b", 0, 3, jobs.StateCompleted, 1)
	provider.AddEnded(a, "a.b", 2, 3, jobs.StateFailed, 1)
	provider.AddEnded(a, "a.b", 2, 3, jobs.StateCancelled, 4)
	provider.AddEnded(a, "a.b", 2, 3, jobs.StateSkipped, 1)
	provider.AddEnded(a, "a.c", 1, 3, jobs.StateCompleted, 1)
	provider.AddEnded(a, "a.d", -1, 3, jobs.StateCompleted, 1)
	provider.AddEnded(a, "a.d", 3, 3, jobs.StateCompleted, 1)
	require.Equal(t, map[string][]jobs.Outcomes{
		"a.b": {{Completed: 3}, {}, {Failed: 1, Other: 5}},
		"a.c": {{}, {Completed: 1}, {}},
	}, a.Jobs)
}

func TestCheckRunLimit(t *testing.T) {
	t.Parallel()
	for limit, ok := range map[int]bool{-1: false, 0: false, 1: true, 1000: true, 1001: false, math.MaxInt: false} {
		if err := provider.CheckRunLimit(limit); ok {
			require.NoError(t, err, limit)
		} else {
			require.ErrorIs(t, err, jobs.ErrInvalidOption, limit)
		}
	}
}

func TestUpcoming(t *testing.T) {
	t.Parallel()
	tick := at(t, "2026-02-03T10:00:00Z")
	hourly := &provider.Definition{Schedule: every(t, time.Hour)}
	require.Equal(t, []time.Time{tick, tick.Add(time.Hour), tick.Add(2 * time.Hour)}, hourly.Upcoming(tick))
	require.Empty(t, hourly.Upcoming(time.Time{}), "without a next tick there is none")
	require.Empty(t, (&provider.Definition{}).Upcoming(time.Time{}), "a job without a schedule")
	// In a zone's clock change.
	daily := &provider.Definition{Schedule: cron(t, "30 2 * * *", "Europe/Berlin")}
	require.Equal(t, []time.Time{at(t, "2026-03-28T01:30:00Z"), at(t, "2026-03-29T01:00:00Z"), at(t, "2026-03-30T00:30:00Z")},
		daily.Upcoming(at(t, "2026-03-28T01:30:00Z")))
	last := &provider.Definition{Schedule: oneTick(tick)}
	require.Equal(t, []time.Time{tick}, last.Upcoming(tick), "the last tick of a schedule that ends")
}

func TestOverdueReasons_SayWhy(t *testing.T) {
	t.Parallel()
	require.Equal(t, []jobs.Reason{{Job: "a.b", Text: "is overdue by 1m30s"}, {Job: "a.c", Text: "is overdue by 2m0s: no worker is free"}}, provider.OverdueReasons([]jobs.Status{
		{Name: "a.a", OverdueBy: time.Minute, OverdueReason: "not yet grave"},
		{Name: "a.b", OverdueBy: 90 * time.Second},
		{Name: "a.c", OverdueBy: 2 * time.Minute, OverdueReason: "no worker is free"},
	}))
}
