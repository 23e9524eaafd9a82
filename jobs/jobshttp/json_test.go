package jobshttp_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 2, 3, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		v    any
		want string
	}{
		{jobs.Run{ID: "7", Name: "a.b", State: jobs.StateScheduled}, `{"id": "7", "name": "a.b", "state": "scheduled", "attempt": 0, "max_attempts": 0}`},
		{
			jobs.Run{
				ID: "7", Name: "a.b", State: jobs.StateFailed, Tick: tick, Attempt: 3, MaxAttempts: 3, CreatedAt: tick.Add(-time.Hour), DueAt: tick,
				StartedAt: tick.Add(time.Second), EndedAt: tick.Add(time.Minute), Error: "<boom>", Data: json.RawMessage(`{"n":1}`),
				CancelledAt: tick.Add(2 * time.Second), Process: "p", Errors: []jobs.RunError{{Attempt: 2, At: tick, Text: "x"}},
				Snoozes: 2, SnoozeReason: "not yet", Output: json.RawMessage(`[1]`),
			},
			`{"id": "7", "name": "a.b", "state": "failed", "tick": "2026-02-03T10:00:00Z", "attempt": 3, "max_attempts": 3,
				"created_at": "2026-02-03T09:00:00Z", "due_at": "2026-02-03T10:00:00Z", "started_at": "2026-02-03T10:00:01Z",
				"ended_at": "2026-02-03T10:01:00Z", "error": "<boom>", "data": {"n": 1},
				"cancelled_at": "2026-02-03T10:00:02Z", "process": "p", "errors": [{"attempt": 2, "at": "2026-02-03T10:00:00Z", "text": "x"}],
				"snoozes": 2, "snooze_reason": "not yet", "output": [1]}`,
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
		{
			jobs.Health{Healthy: true, Reasons: []jobs.Reason{{Text: "x"}, {Job: "a.b", Text: "is y"}}, Started: true, OldestWaiting: 1500 * time.Millisecond, Totals: map[jobs.State]jobs.Count{jobs.StateWaiting: {N: 2}}},
			`{"healthy":true,"reasons":[{"text":"x"},{"job":"a.b","text":"is y"}],"started":true,"oldest_waiting_seconds":1.5,"totals":{"waiting":2}}`,
		},
		{
			jobs.Status{
				Name: "a.b", Schedule: "0 3 * * *", Zone: "UTC", PrevTick: tick, PrevState: jobs.StateCompleted,
				Missed: 4, LastSuccess: tick, NextTick: tick.Add(24 * time.Hour), OverdueBy: 90 * time.Second, Waiting: 3, Running: 2, Retrying: 1,
				Options: jobs.JobOptions{
					MaxAttempts: 4, RetryDelay: 1500 * time.Millisecond, Timeout: time.Minute, Priority: 2, Concurrency: 5,
					CatchUp: jobs.CatchUpAll, Overlap: jobs.OverlapSkip, StartWithin: 10 * time.Second, Transactional: true,
				},
			},
			`{"name":"a.b","schedule":"0 3 * * *","zone":"UTC","previous_tick":"2026-02-03T10:00:00Z","previous_state":"completed","missed":4,"last_success":"2026-02-03T10:00:00Z",
				"next_tick":"2026-02-04T10:00:00Z","overdue_seconds":90,"waiting":3,"running":2,"retrying":1,
				"options":{"max_attempts":4,"retry_delay_seconds":1.5,"timeout_seconds":60,"priority":2,"concurrency":5,"catch_up":"all","overlap":"skip","start_within_seconds":10,"transactional":true}}`,
		},
	} {
		got, err := json.Marshal(jobshttp.JSON(test.v))
		require.NoError(t, err)
		require.JSONEq(t, test.want, string(got))
	}
}
