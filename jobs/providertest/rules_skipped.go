package providertest

import (
	"context"
	"runtime"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

var skippedRules = []rule{
	{name: "OnSkipped is called for a skipped run with its reason, and for no other", check: onSkippedIsCalledForSkippedRuns},
	{name: "OnSkipped is called for each tick that a pause skips", check: onSkippedIsCalledForPausedTicks},
}

// skips returns an option that sends what is skipped to the channel.
func skips() (jobs.Option, <-chan jobs.Run) {
	skipped := make(chan jobs.Run, 1000)
	return jobs.OnSkipped(func(_ context.Context, run jobs.Run) { skipped <- run }), skipped
}

func onSkippedIsCalledForSkippedRuns(e *env) {
	p := e.probe(func(context.Context, *jobs.Job) error { return jobs.Permanent(errAgain) })
	first, skipped := skips()
	panics := jobs.OnSkipped(func(context.Context, jobs.Run) { panic("skipped") })
	exits := jobs.OnSkipped(func(context.Context, jobs.Run) { runtime.Goexit() })
	again, skippedAgain := skips()
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1), first, panics, exits, again)) // any start is too late
	e.noError(e.s.RegisterDelayed("test.fails", 0, p.handle, first))
	before := time.Now().Add(-slack)
	id := e.trigger("test.late", map[string]int{"n": 1})
	e.trigger("test.fails", nil)
	e.until(time.Now().Add(slack)) // too late for test.late
	e.start()
	e.total(jobs.StateSkipped, 1)
	e.total(jobs.StateFailed, 1)
	for _, calls := range []<-chan jobs.Run{skipped, skippedAgain} {
		run := receive(e, calls, "a call of OnSkipped")
		require.Equal(e, "test.late", run.Name, "Name")
		require.Equal(e, id, run.ID, "ID")
		require.Equal(e, jobs.StateSkipped, run.State, "State")
		require.Contains(e, run.Error, "StartWithin", "Error")
		require.JSONEq(e, `{"n": 1}`, string(run.Data), "Data")
		require.Equal(e, [2]int{0, 3}, [2]int{run.Attempt, run.MaxAttempts}, "Attempt and MaxAttempts")
		for i, at := range []time.Time{run.CreatedAt, run.DueAt, run.EndedAt} {
			require.True(e, at.After(before), "CreatedAt, DueAt or EndedAt: the time %d is %v", i+1, at)
		}
	}
	require.Empty(e, skipped, "further calls of OnSkipped")
}

func onSkippedIsCalledForPausedTicks(e *env) {
	pauser := role[jobs.Pauser](e)
	p := e.probe(nil)
	opt, skipped := skips()
	exits := jobs.OnSkipped(func(context.Context, jobs.Run) { runtime.Goexit() })
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, exits, opt))
	e.start()
	p.next()
	require.Empty(e, skipped, "calls of OnSkipped before the pause")
	e.noError(pauser.Pause(e.ctx, "test.tick"))
	first := receive(e, skipped, "a call of OnSkipped")
	require.Equal(e, "test.tick", first.Name, "Name")
	require.Empty(e, first.ID, "ID of a tick without a run")
	require.Equal(e, jobs.StateSkipped, first.State, "State")
	require.Contains(e, first.Error, "paused", "Error")
	require.False(e, first.EndedAt.Before(first.Tick.Add(-slack)), "EndedAt %v is before the tick %v", first.EndedAt, first.Tick)
	require.Zero(e, first.Tick.UnixNano()%int64(time.Second), "Tick %v", first.Tick)
	require.True(e, receive(e, skipped, "a call of OnSkipped").Tick.After(first.Tick), "the next tick comes after the first")
}
