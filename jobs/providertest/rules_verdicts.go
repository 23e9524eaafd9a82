package providertest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// What handlers decide about their runs, and what follows from it.
var verdictRules = []rule{
	{name: "a handler that ignores its timeout is not called again beside itself, and completes its run", check: deafHandlerKeepsItsRun},
	{name: "with OverlapSkip, no tick runs beside a handler that ignores its timeout", check: noTickBesideADeafHandler},
	{name: "a snoozed run starts again after the delay, and no attempt is used up, not even the last one", check: snoozedRunStartsAgain},
	{name: "a snooze is listed with its reason, and is no failure", check: snoozesAreListed},
	{name: "a snoozed run counts the failures of its attempts, and no snoozes", check: snoozesAndFailuresMix},
	{name: "a snoozed run can be started at once by Retry, and cancelled", check: snoozedRunsCanBeOperated},
	{name: "a snoozed tick is skipped neither for being late nor for an overlap", check: snoozedTicksAreNotSkipped},
	{name: "a snoozed tick holds up no later tick", check: snoozedTickHoldsUpNoOther},
}

// deaf is how long handlers ignore the end of their context in these rules. Providers that free the worker of such a
// handler do so about ten seconds after the timeout.
const deaf = 12 * time.Second

// ignoring returns a result function for probes that ignores its context for the time deaf.
func (e *env) ignoring() func(context.Context, *jobs.Job) error {
	return func(context.Context, *jobs.Job) error {
		timer := time.NewTimer(deaf)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-e.ctx.Done():
		}
		return nil
	}
}

func deafHandlerKeepsItsRun(e *env) {
	p := e.probe(e.ignoring())
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Timeout(500*time.Millisecond), jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	first := p.next()
	e.until(first.at.Add(deaf - time.Second))
	p.none("the first attempt is still running")
	require.Equal(e, 1, e.status("test.job").Running, "Running")
	e.total(jobs.StateCompleted, 1)
	p.none("the first attempt returned nil")
}

func noTickBesideADeafHandler(e *env) {
	p := e.probe(e.ignoring())
	e.noError(e.s.RegisterInterval("test.tick", 2*time.Second, p.handle,
		jobs.Timeout(500*time.Millisecond), jobs.Overlap(jobs.OverlapSkip)))
	e.start()
	first := p.next()
	e.until(first.at.Add(deaf - time.Second))
	p.none("the run of the first tick has not ended")
	require.GreaterOrEqual(e, e.health().Totals[jobs.StateSkipped].N, 3, "skipped ticks")
}

func snoozedRunStartsAgain(e *env) {
	const delay = 1500 * time.Millisecond
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Snoozes < 2 {
			return fmt.Errorf("wrapped: %w", jobs.Snooze(delay, "not yet"))
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(0)))
	e.start()
	id := e.trigger("test.job", map[string]int{"n": 7})
	last := p.next()
	for snoozes := range 2 {
		require.Equal(e, snoozes, last.Snoozes, "Snoozes")
		r := p.next()
		require.Equal(e, id, r.ID, "ID")
		require.Equal(e, [2]int{1, 1}, [2]int{r.Attempt, r.MaxAttempts}, "Attempt and MaxAttempts")
		require.JSONEq(e, `{"n": 7}`, string(r.Data), "Data")
		require.GreaterOrEqual(e, r.at.Sub(last.at), delay-slack, "wait after a snooze")
		last = r
	}
	require.Equal(e, 2, last.Snoozes, "Snoozes")
	e.total(jobs.StateCompleted, 1)
	p.none("the third attempt succeeded")
}

func snoozesAreListed(e *env) {
	role[jobs.RunLister](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Snoozes == 0 {
			return jobs.Snooze(6*time.Second, "the API is \x00 limited")
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", nil)
	first := p.next()
	e.eventually("the run to be listed as snoozed", func() (any, bool) {
		runs := e.runs("test.job")
		return runs, len(runs) == 1 && runs[0].Snoozes == 1
	})
	listed := e.runs("test.job")[0]
	require.Equal(e, id, listed.ID, "ID")
	require.Equal(e, jobs.StateScheduled, listed.State, "State")
	require.Equal(e, `the API is \x00 limited`, listed.SnoozeReason, "SnoozeReason")
	require.Empty(e, listed.Error, "Error")
	require.Zero(e, listed.Attempt, "Attempt")
	require.Zero(e, listed.EndedAt, "EndedAt")
	require.GreaterOrEqual(e, listed.DueAt.Sub(first.StartedAt), 6*time.Second-slack, "DueAt after StartedAt of the attempt")
	st := e.status("test.job")
	require.Equal(e, [3]int{1, 0, 0}, [3]int{st.Waiting, st.Retrying, st.Running}, "Waiting, Retrying and Running")
	p.next()
	e.total(jobs.StateCompleted, 1)
	listed = e.runs("test.job")[0]
	require.Equal(e, 1, listed.Snoozes, "Snoozes once completed")
	require.Equal(e, 1, listed.Attempt, "Attempt once completed")
	require.Zero(e, e.health().Totals[jobs.StateFailed].N, "failed runs")
}

func snoozesAndFailuresMix(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Snoozes < job.Attempt {
			return jobs.Snooze(0, "once for each attempt")
		}
		return errAgain
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	for _, want := range [][2]int{{1, 0}, {1, 1}, {2, 1}, {2, 2}} {
		r := p.next()
		require.Equal(e, want, [2]int{r.Attempt, r.Snoozes}, "Attempt and Snoozes")
	}
	e.total(jobs.StateFailed, 1)
	p.none("the job has two attempts")
	if _, ok := e.s.(jobs.RunLister); ok {
		listed := e.runs("test.job")[0]
		require.Equal(e, [2]int{2, 2}, [2]int{listed.Attempt, listed.Snoozes}, "Attempt and Snoozes")
		require.Contains(e, listed.Error, errAgain.Error(), "Error")
	}
}

func snoozedRunsCanBeOperated(e *env) {
	retrier, canceller := role[jobs.Retrier](e), role[jobs.Canceller](e)
	role[jobs.RunLister](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Snoozes == 0 {
			return jobs.Snooze(time.Hour, "not yet")
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	ids := [2]string{e.trigger("test.job", nil), e.trigger("test.job", nil)}
	p.next()
	p.next()
	e.eventually("both runs to be snoozed", func() (any, bool) {
		runs := e.runs("test.job")
		return runs, runs[0].Snoozes+runs[1].Snoozes == 2
	})
	e.noError(canceller.Cancel(e.ctx, "test.job", ids[0]))
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize after one was cancelled")
	e.noError(retrier.Retry(e.ctx, "test.job", ids[1]))
	again := p.next()
	require.Equal(e, ids[1], again.ID, "ID of the run that Retry started")
	require.Equal(e, [2]int{1, 1}, [2]int{again.Attempt, again.Snoozes}, "Attempt and Snoozes")
	e.total(jobs.StateCompleted, 1)
	e.total(jobs.StateCancelled, 1)
	p.none("the other run was cancelled")
}

func snoozedTicksAreNotSkipped(e *env) {
	var first atomic.Pointer[string]
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if first.CompareAndSwap(nil, &job.ID); *first.Load() != job.ID {
			return e.untilCancelled(ctx, job) // in progress when the first starts again
		}
		if job.Snoozes == 0 {
			return jobs.Snooze(6*time.Second, "not yet")
		}
		return nil
	})
	e.noError(e.s.RegisterInterval("test.tick", 5*time.Second, p.handle, jobs.StartWithin(4*time.Second), jobs.Overlap(jobs.OverlapSkip)))
	e.start()
	snoozed := p.next()
	require.NotEqual(e, snoozed.ID, p.next().ID, "ID of the next tick's run")
	again := p.next()
	require.Equal(e, snoozed.ID, again.ID, "ID of the run that starts again")
	require.Equal(e, snoozed.Tick, again.Tick, "Tick")
	e.total(jobs.StateCompleted, 1)
}

func snoozedTickHoldsUpNoOther(e *env) {
	p := e.probe(func(context.Context, *jobs.Job) error { return jobs.Snooze(time.Hour, "not today") })
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.CatchUp(jobs.CatchUpAll)))
	e.start()
	last := p.next()
	for range 2 {
		r := p.next()
		require.Equal(e, last.Tick.Add(time.Second), r.Tick, "Tick")
		last = r
	}
}
