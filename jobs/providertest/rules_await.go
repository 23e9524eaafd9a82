package providertest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

var awaitRules = []rule{
	{name: "Await returns a completed run with its output, after retries and snoozes", check: awaitReturnsTheRun},
	{name: "Await returns a run that failed, was cancelled or skipped with ErrNotCompleted", check: awaitReturnsOtherEnds},
	{name: "Await ends with its context, and at once for an unknown ID", check: awaitEnds},
}

func awaitReturnsTheRun(e *env) {
	role[jobs.RunFinder](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		switch {
		case job.Attempt == 1:
			return errAgain
		case job.Snoozes == 0:
			return jobs.Snooze(0, "not yet")
		}
		return job.SetOutput(job.Attempt)
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
	id := e.trigger("test.job", map[string]int{"n": 7})
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	e.start()
	run, err := jobs.Await(ctx, e.s, id)
	require.NoError(e, err)
	require.Equal(e, id, run.ID, "ID")
	require.Equal(e, "test.job", run.Name, "Name")
	require.Equal(e, jobs.StateCompleted, run.State, "State")
	require.Equal(e, "2", string(run.Output), "Output")
	require.Len(e, run.Errors, 1, "Errors")
	require.JSONEq(e, `{"n": 7}`, string(run.Data), "Data")
	run, err = jobs.Await(ctx, e.s, id)
	require.NoError(e, err, "Await of a run that has ended")
	require.Equal(e, "2", string(run.Output), "Output")
}

func awaitReturnsOtherEnds(e *env) {
	role[jobs.RunFinder](e)
	canceller := role[jobs.Canceller](e)
	p := e.probe(fail(jobs.Permanent(errAgain)))
	e.noError(e.s.RegisterDelayed("test.fails", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1))) // any start is too late
	cancelled := e.trigger("test.fails", nil, jobs.Delay(time.Hour))
	skipped := e.trigger("test.late", nil)
	e.until(time.Now().Add(slack))
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	e.start()
	e.noError(canceller.Cancel(e.ctx, "test.fails", cancelled))
	for _, test := range []struct {
		id, text string
		state    jobs.State
	}{
		{e.trigger("test.fails", nil), errAgain.Error(), jobs.StateFailed}, {cancelled, "cancelled", jobs.StateCancelled}, {skipped, "StartWithin", jobs.StateSkipped},
	} {
		run, err := jobs.Await(ctx, e.s, test.id)
		require.ErrorIs(e, err, jobs.ErrNotCompleted, "Await of a run that is %s", test.state)
		require.ErrorContains(e, err, test.text, "Await of a run that is %s", test.state)
		require.Equal(e, test.id, run.ID, "ID")
		require.Equal(e, test.state, run.State, "State")
	}
}

func awaitEnds(e *env) {
	role[jobs.RunFinder](e)
	e.noError(e.s.RegisterDelayed("test.job", time.Hour, e.probe(nil).handle))
	_, err := jobs.Await(e.ctx, e.s, "no such run")
	require.ErrorIs(e, err, jobs.ErrUnknownID)
	id := e.trigger("test.job", nil)
	ctx, cancel := context.WithTimeout(e.ctx, 500*time.Millisecond)
	defer cancel()
	run, err := jobs.Await(ctx, e.s, id)
	require.ErrorIs(e, err, context.DeadlineExceeded)
	require.Equal(e, id, run.ID, "ID of the run as it is")
	require.Equal(e, jobs.StateScheduled, run.State, "State of the run as it is")
}
