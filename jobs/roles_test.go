package jobs_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// plain is a scheduler without any optional role.
type plain struct{ jobs.Scheduler }

// pausing has one role.
type pausing struct{ plain }

func (*pausing) Pause(context.Context, string) error  { return nil }
func (*pausing) Resume(context.Context, string) error { return nil }

// wrapper may be put in front of a scheduler.
type wrapper struct{ jobs.Scheduler }

func (w *wrapper) Unwrap() jobs.Scheduler { return w.Scheduler }

// pausingWrapper pauses in its own way.
type pausingWrapper struct{ wrapper }

func (*pausingWrapper) Pause(context.Context, string) error  { return nil }
func (*pausingWrapper) Resume(context.Context, string) error { return nil }

// opaque hides the roles of the scheduler behind.
type opaque struct{ jobs.Scheduler }

func TestAs(t *testing.T) {
	t.Parallel()
	inner := &pausing{}
	outer := &pausingWrapper{wrapper: wrapper{inner}}
	for _, test := range []struct {
		rule string
		s    any
		want jobs.Pauser
	}{
		{"its own role", inner, inner},
		{"that behind a wrapper", &wrapper{inner}, inner},
		{"that behind two", &wrapper{&wrapper{inner}}, inner},
		{"the outermost", &wrapper{outer}, outer},
		{"none behind what does not unwrap", &opaque{inner}, nil},
		{"none", &plain{}, nil},
		{"none behind a wrapper", &wrapper{&plain{}}, nil},
		{"none behind a wrapper of nothing", &wrapper{}, nil},
		{"none of nothing", nil, nil},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			role, ok := jobs.As[jobs.Pauser](test.s)
			require.Equal(t, test.want != nil, ok)
			require.True(t, test.want == role, "%T", role)
		})
	}
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
			jobs.Health{Healthy: true, Started: true, Totals: map[jobs.State]jobs.Count{jobs.StateCompleted: {N: 1000, AtLeast: true}}},
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
