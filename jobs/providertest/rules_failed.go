package providertest

import (
	"context"
	"runtime"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

var failedRules = []rule{
	{name: "OnFailed is called once for a run that failed in its last attempt, with that run", check: onFailedIsCalledOnce},
	{name: "OnFailed is called for a Permanent error, and for no run that ended otherwise", check: onFailedIsForFailures},
	{name: "OnFailed is called again if a run that was retried by hand fails again", check: onFailedIsCalledAfterRetry},
	{name: "an OnFailed function that panics or exits its goroutine stops no other", check: onFailedMayPanic},
	{name: "Shutdown waits for OnFailed, and cancels it when its context ends", check: shutdownWaitsForOnFailed},
}

// failures returns an option that sends failed runs to the channel.
func failures() (jobs.Option, <-chan jobs.Run) {
	failed := make(chan jobs.Run, 1000)
	return jobs.OnFailed(func(_ context.Context, run jobs.Run) { failed <- run }), failed
}

func onFailedIsCalledOnce(e *env) {
	deadlines := make(chan time.Time, 10)
	ends := jobs.OnFailed(func(ctx context.Context, _ jobs.Run) {
		deadline, _ := ctx.Deadline()
		deadlines <- deadline
	})
	opt, failed := failures()
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0), ends, opt))
	e.start()
	id := e.trigger("test.job", map[string]int{"n": 7})
	p.next()
	p.next()
	run := receive(e, failed, "a call of OnFailed")
	require.Equal(e, id, run.ID, "ID")
	require.Equal(e, "test.job", run.Name, "Name")
	require.Equal(e, jobs.StateFailed, run.State, "State")
	require.Equal(e, [2]int{2, 2}, [2]int{run.Attempt, run.MaxAttempts}, "Attempt and MaxAttempts")
	require.Contains(e, run.Error, errAgain.Error(), "Error")
	require.Len(e, run.Errors, 2, "Errors")
	require.JSONEq(e, `{"n": 7}`, string(run.Data), "Data")
	require.False(e, run.EndedAt.IsZero(), "EndedAt is zero")
	deadline := receive(e, deadlines, "the first function")
	require.Less(e, time.Until(deadline), 31*time.Second, "time until the deadline of the context")
	require.False(e, deadline.IsZero(), "the context has no deadline")
	// Another run passes through everything meanwhile.
	e.trigger("test.job", nil)
	require.NotEqual(e, id, receive(e, failed, "the call for another run").ID, "ID")
	require.Empty(e, failed, "further calls of OnFailed")
}

func onFailedIsForFailures(e *env) {
	canceller := role[jobs.Canceller](e)
	opt, failed := failures()
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		switch e.do(job) {
		case "fail":
			return jobs.Permanent(errAgain)
		case "retry":
			return jobs.RetryAfter(time.Hour, errAgain)
		case "snooze":
			return jobs.Snooze(time.Hour, "not yet")
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, opt))
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1), opt)) // any start is too late
	e.trigger("test.late", nil)
	e.until(time.Now().Add(slack))
	e.start()
	e.noError(canceller.Cancel(e.ctx, "test.job", e.trigger("test.job", nil, jobs.Delay(time.Hour))))
	for _, do := range []string{"retry", "snooze", "complete"} {
		e.trigger("test.job", map[string]string{"do": do})
		p.next()
	}
	for _, state := range []jobs.State{jobs.StateCancelled, jobs.StateSkipped, jobs.StateCompleted} {
		e.total(state, 1)
	}
	id := e.trigger("test.job", map[string]string{"do": "fail"})
	run := receive(e, failed, "a call of OnFailed")
	require.Equal(e, id, run.ID, "ID")
	require.Equal(e, [2]int{1, 3}, [2]int{run.Attempt, run.MaxAttempts}, "Attempt and MaxAttempts")
	require.Equal(e, jobs.StateFailed, run.State, "State")
	require.Empty(e, failed, "calls for other runs")
}

func onFailedIsCalledAfterRetry(e *env) {
	retrier := role[jobs.Retrier](e)
	opt, failed := failures()
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt < 3 {
			return errAgain
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(0), opt))
	e.start()
	id := e.trigger("test.job", nil)
	for attempt := 1; attempt <= 2; attempt++ {
		run := receive(e, failed, "a call of OnFailed")
		require.Equal(e, id, run.ID, "ID")
		require.Equal(e, attempt, run.Attempt, "Attempt")
		e.noError(retrier.Retry(e.ctx, "test.job", id))
	}
	e.total(jobs.StateCompleted, 1)
	require.Empty(e, failed, "calls after the run has completed")
}

func onFailedMayPanic(e *env) {
	panics := jobs.OnFailed(func(context.Context, jobs.Run) { panic("a panic of the conformance suite") })
	exits := jobs.OnFailed(func(context.Context, jobs.Run) { runtime.Goexit() })
	opt, failed := failures()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(fail(jobs.Permanent(errAgain))).handle, panics, exits, opt))
	e.start()
	for range 2 {
		id := e.trigger("test.job", nil)
		require.Equal(e, id, receive(e, failed, "a call of the third function").ID, "ID")
	}
	require.NotEmpty(e, e.logs.find("the OnFailed function of the job panicked"), "log entries about the panic")
}

func shutdownWaitsForOnFailed(e *env) {
	begun, ended, release := make(chan struct{}, 10), make(chan error, 10), e.gate()
	opt := jobs.OnFailed(func(ctx context.Context, _ jobs.Run) {
		begun <- struct{}{}
		select {
		case <-release.open:
		case <-ctx.Done():
		case <-e.ctx.Done():
		}
		ended <- ctx.Err()
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(fail(jobs.Permanent(errAgain))).handle, opt))
	e.start()
	e.trigger("test.job", nil)
	receive(e, begun, "a call of OnFailed")

	ctx, cancel := context.WithTimeout(e.ctx, time.Second)
	defer cancel()
	require.ErrorIs(e, e.s.Shutdown(ctx), context.DeadlineExceeded, "Shutdown")
	require.ErrorIs(e, receive(e, ended, "the call to end"), context.Canceled, "error of the call's context")

	e.start()
	receive(e, begun, "the call that was cancelled to be made again")
	stopped := make(chan error, 1)
	go func() { stopped <- e.s.Shutdown(e.ctx) }()
	e.until(time.Now().Add(200 * time.Millisecond))
	require.Empty(e, stopped, "Shutdown has returned during the call")
	close(release.open)
	require.NoError(e, receive(e, stopped, "Shutdown"))
	require.NoError(e, receive(e, ended, "the call to end"))
	require.Empty(e, begun, "further calls")
}
