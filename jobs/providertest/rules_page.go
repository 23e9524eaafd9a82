package providertest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// What a status page shows beside runs and schedules.
var pageRules = []rule{
	{name: "a status has the options of its job", check: statusHasOptions},
	{name: "a run says when it was cancelled, until it is retried", check: runSaysWhenItWasCancelled},
}

func statusHasOptions(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.default", 0, p.handle, jobs.MaxRetries(2), jobs.RetryDelay(5*time.Second),
		jobs.Timeout(5*time.Minute), jobs.Priority(1)))
	e.noError(e.s.RegisterInterval("test.special", time.Hour, p.handle,
		jobs.MaxRetries(6), jobs.RetryDelay(3*time.Second), jobs.Timeout(time.Minute), jobs.Priority(3), jobs.Concurrency(2),
		jobs.CatchUp(jobs.CatchUpAll), jobs.Overlap(jobs.OverlapSkip), jobs.StartWithin(10*time.Minute), jobs.Transactional()))
	require.Equal(e, jobs.JobOptions{
		MaxAttempts: 3, RetryDelay: 5 * time.Second, Timeout: 5 * time.Minute, Priority: 1,
	}, e.status("test.default").Options, "Options")
	require.Equal(e, jobs.JobOptions{
		MaxAttempts: 7, RetryDelay: 3 * time.Second, Timeout: time.Minute, Priority: 3, Concurrency: 2,
		CatchUp: jobs.CatchUpAll, Overlap: jobs.OverlapSkip, StartWithin: 10 * time.Minute, Transactional: true,
	}, e.status("test.special").Options, "Options")
}

func runSaysWhenItWasCancelled(e *env) {
	canceller, retrier := role[jobs.Canceller](e), role[jobs.Retrier](e)
	role[jobs.RunLister](e)
	gate := e.gate()
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if e.do(job) != "wait" {
			return nil
		}
		_ = gate.wait(e.ctx, job)
		return errAgain
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", map[string]string{"do": "wait"})
	p.next()
	require.Zero(e, e.runOf("test.job", id).CancelledAt, "CancelledAt before Cancel")
	e.noError(canceller.Cancel(e.ctx, "test.job", id))
	r := e.runOf("test.job", id)
	require.Equal(e, jobs.StateRunning, r.State, "State of a run whose handler ignores its context")
	require.WithinDuration(e, time.Now(), r.CancelledAt, tolerance, "CancelledAt")
	require.Equal(e, time.UTC, r.CancelledAt.Location(), "zone of CancelledAt")
	close(gate.open)
	e.total(jobs.StateCancelled, 1)
	require.Equal(e, r.CancelledAt, e.runOf("test.job", id).CancelledAt, "CancelledAt of the run that has ended")

	waiting := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	e.noError(canceller.Cancel(e.ctx, "test.job", waiting))
	require.WithinDuration(e, time.Now(), e.runOf("test.job", waiting).CancelledAt, tolerance, "CancelledAt")
	e.noError(retrier.Retry(e.ctx, "test.job", waiting))
	p.next()
	e.total(jobs.StateCompleted, 1)
	require.Zero(e, e.runOf("test.job", waiting).CancelledAt, "CancelledAt of a run that was retried")
}
