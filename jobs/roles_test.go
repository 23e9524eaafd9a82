package jobs_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
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
		{7 * 24 * time.Hour, 1, "2026-02-02T00:00:00Z"}, // a Monday, as an interval of a week has it
	} {
		a, err := jobs.NewActivity(now.In(time.FixedZone("", 5*3600)), test.step, test.n)
		require.NoError(t, err)
		require.Equal(t, jobs.Activity{
			Start: at(t, test.start), Step: test.step, CompleteSince: at(t, test.start), Jobs: map[string][]jobs.Outcomes{},
		}, a, "%d steps of %s", test.n, test.step)
		end := a.Start.Add(time.Duration(test.n) * test.step)
		require.False(t, now.Before(end.Add(-test.step)), "now lies in the last step")
		require.True(t, now.Before(end), "now lies in the last step")
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
		_, err := jobs.NewActivity(time.Now(), test.step, test.n)
		require.ErrorIs(t, err, jobs.ErrInvalidOption, "%d steps of %s", test.n, test.step)
	}
	_, err := jobs.NewActivity(time.Now(), math.MaxInt64/1440, 1440)
	require.NoError(t, err)
}

func TestActivity_Add(t *testing.T) {
	t.Parallel()
	a, err := jobs.NewActivity(at(t, "2026-02-03T10:17:42Z"), time.Hour, 3)
	require.NoError(t, err)
	a.Add("a.b", 0, 3, jobs.StateCompleted, 2)
	a.Add("a.b", 0, 3, jobs.StateCompleted, 1)
	a.Add("a.b", 2, 3, jobs.StateFailed, 1)
	a.Add("a.b", 2, 3, jobs.StateCancelled, 4)
	a.Add("a.b", 2, 3, jobs.StateSkipped, 1)
	a.Add("a.c", 1, 3, jobs.StateCompleted, 1)
	a.Add("a.d", -1, 3, jobs.StateCompleted, 1)
	a.Add("a.d", 3, 3, jobs.StateCompleted, 1)
	require.Equal(t, map[string][]jobs.Outcomes{
		"a.b": {{Completed: 3}, {}, {Failed: 1, Other: 5}},
		"a.c": {{}, {Completed: 1}, {}},
	}, a.Jobs)
}

func TestCheckRunLimit(t *testing.T) {
	t.Parallel()
	for limit, ok := range map[int]bool{-1: false, 0: false, 1: true, 1000: true, 1001: false, math.MaxInt: false} {
		if err := jobs.CheckRunLimit(limit); ok {
			require.NoError(t, err, limit)
		} else {
			require.ErrorIs(t, err, jobs.ErrInvalidOption, limit)
		}
	}
}

func TestUpcoming(t *testing.T) {
	t.Parallel()
	tick := at(t, "2026-02-03T10:00:00Z")
	hourly := &jobs.Definition{Schedule: mustEvery(t, time.Hour)}
	require.Equal(t, []time.Time{tick, tick.Add(time.Hour), tick.Add(2 * time.Hour)}, hourly.Upcoming(tick))
	require.Empty(t, hourly.Upcoming(time.Time{}), "without a next tick there is none")
	require.Empty(t, onDemand.Upcoming(time.Time{}), "a job without a schedule")
	// In a zone's clock change.
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	daily := &jobs.Definition{Schedule: mustParse(t, "30 2 * * *", berlin)}
	require.Equal(t, []time.Time{at(t, "2026-03-28T01:30:00Z"), at(t, "2026-03-29T01:00:00Z"), at(t, "2026-03-30T00:30:00Z")},
		daily.Upcoming(at(t, "2026-03-28T01:30:00Z")))
	last := &jobs.Definition{Schedule: oneTick(tick)}
	require.Equal(t, []time.Time{tick}, last.Upcoming(tick), "the last tick of a schedule that ends")
}

func TestRolesAsJSON(t *testing.T) {
	t.Parallel()
	tick := at(t, "2026-02-03T10:00:00Z")
	for _, test := range []struct {
		v    any
		want string
	}{
		{jobs.Run{ID: "7", Name: "a.b", State: jobs.StateScheduled}, `{"id": "7", "name": "a.b", "state": "scheduled", "attempt": 0, "max_attempts": 0}`},
		{
			jobs.Run{
				ID: "7", Name: "a.b", State: jobs.StateFailed, Tick: tick, Attempt: 3, MaxAttempts: 3, CreatedAt: tick.Add(-time.Hour), DueAt: tick,
				StartedAt: tick.Add(time.Second), EndedAt: tick.Add(time.Minute), Error: "<boom>", Data: json.RawMessage(`{"n":1}`),
			},
			`{"id": "7", "name": "a.b", "state": "failed", "tick": "2026-02-03T10:00:00Z", "attempt": 3, "max_attempts": 3,
				"created_at": "2026-02-03T09:00:00Z", "due_at": "2026-02-03T10:00:00Z", "started_at": "2026-02-03T10:00:01Z",
				"ended_at": "2026-02-03T10:01:00Z", "error": "<boom>", "data": {"n": 1}}`,
		},
		{
			jobs.Activity{Start: tick, Step: 90 * time.Second, CompleteSince: tick.Add(time.Second), Jobs: map[string][]jobs.Outcomes{"a.b": {{}, {Completed: 1, Failed: 2, Other: 3}}}},
			`{"start": "2026-02-03T10:00:00Z", "step_seconds": 90, "complete_since": "2026-02-03T10:00:01Z",
				"jobs": {"a.b": [{"completed": 0, "failed": 0, "other": 0}, {"completed": 1, "failed": 2, "other": 3}]}}`,
		},
		{
			jobs.Health{Healthy: true, Started: true, Totals: map[jobs.State]int{jobs.StateCompleted: 1000}, AtLeast: []jobs.State{jobs.StateCompleted}},
			`{"healthy": true, "started": true, "oldest_waiting_seconds": 0, "totals": {"completed": 1000}, "at_least": ["completed"]}`,
		},
		{jobs.Health{}, `{"healthy": false, "started": false, "oldest_waiting_seconds": 0}`},
		{
			jobs.Status{
				Name: "a.b", Schedule: "every 1h0m0s", NextTick: tick, Upcoming: []time.Time{tick, tick.Add(time.Hour)},
				OverdueBy: 90 * time.Second, OverdueReason: "no worker", PausedSince: tick.Add(-time.Hour),
			},
			`{"name": "a.b", "schedule": "every 1h0m0s", "next_tick": "2026-02-03T10:00:00Z", "upcoming": ["2026-02-03T10:00:00Z", "2026-02-03T11:00:00Z"],
				"overdue_seconds": 90, "overdue_reason": "no worker", "paused_since": "2026-02-03T09:00:00Z", "waiting": 0, "running": 0, "retrying": 0}`,
		},
		{jobs.Status{Name: "a.b", Schedule: "on demand"}, `{"name": "a.b", "schedule": "on demand", "waiting": 0, "running": 0, "retrying": 0}`},
	} {
		got, err := json.Marshal(test.v)
		require.NoError(t, err)
		require.JSONEq(t, test.want, string(got))
	}
}

func TestOverdueReasons_SayWhy(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"a.b is overdue by 1m30s", "a.c is overdue by 2m0s: no worker is free"}, jobs.OverdueReasons([]jobs.Status{
		{Name: "a.a", OverdueBy: time.Minute, OverdueReason: "not yet grave"},
		{Name: "a.b", OverdueBy: 90 * time.Second},
		{Name: "a.c", OverdueBy: 2 * time.Minute, OverdueReason: "no worker is free"},
	}))
}
