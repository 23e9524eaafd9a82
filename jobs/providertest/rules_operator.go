package providertest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Cancelling and retrying runs.
var operatorRules = []rule{
	{name: "a run cancelled while it waits never starts", check: cancelledWhileWaitingNeverRuns},
	{name: "a run cancelled while running has its context ended and is not retried", check: cancelledWhileRunningIsNotRetried},
	{name: "a run that succeeds despite being cancelled is completed", check: cancelledButSuccessfulIsCompleted},
	{name: "cancelling a tick does not end its schedule", check: cancelledTickKeepsTheSchedule},
	{name: "Cancel does nothing to a run that has ended", check: cancelIgnoresEndedRuns},
	{name: "Retry starts a failed run at once, and it can complete", check: retriedFailureStartsAtOnce},
	{name: "Retry starts a run that was cancelled or skipped", check: retriedCancelledOrSkippedRuns},
	{name: "Retry starts the next attempt of a waiting run at once", check: retryStartsTheNextAttempt},
	{name: "Retry refuses a run that waits for its first attempt, is running or has completed", check: notRetryableIsRefused},
	{name: "operators' calls refuse unknown jobs and IDs", check: operatorsRefuseTheUnknown},
}

func cancelledWhileWaitingNeverRuns(e *env) {
	canceller := role[jobs.Canceller](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if e.do(job) == "postpone" {
			return jobs.RetryAfter(time.Hour, errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1)))
	due := e.trigger("test.job", nil, jobs.Unique("key"))
	e.noError(canceller.Cancel(e.ctx, "test.job", due))
	require.Zero(e, e.queueSize("test.job"), "QueueSize after the job was cancelled")
	delayed := e.trigger("test.job", nil, jobs.Unique("key"), jobs.Delay(4*time.Second))
	require.NotEqual(e, due, delayed, "ID of a job with the key of one that was cancelled")
	e.start()
	e.noError(canceller.Cancel(e.ctx, "test.job", delayed))
	retried := e.trigger("test.job", map[string]string{"do": "postpone"})
	require.Equal(e, retried, p.next().ID, "ID of the job that ran")
	e.eventually("the job to wait for its retry", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Retrying == 1 && st.Running == 0
	})
	e.noError(canceller.Cancel(e.ctx, "test.job", retried))
	e.total(jobs.StateCancelled, 3)
	st := e.status("test.job")
	require.Equal(e, [3]int{}, [3]int{st.Waiting, st.Retrying, st.Running}, "Waiting, Retrying and Running")
	// A run that would start after all of them.
	last := e.trigger("test.job", nil, jobs.Delay(4100*time.Millisecond), jobs.Priority(4))
	require.Equal(e, last, p.next().ID, "ID of the job that ran")
	e.total(jobs.StateCompleted, 1)
	p.none("the other runs were cancelled")
	if _, ok := e.s.(jobs.RunLister); ok {
		for _, id := range []string{due, delayed, retried} {
			r := e.runOf("test.job", id)
			require.Equal(e, jobs.StateCancelled, r.State, "State")
			require.False(e, r.EndedAt.IsZero(), "EndedAt")
		}
	}
}

func cancelledWhileRunningIsNotRetried(e *env) {
	canceller := role[jobs.Canceller](e)
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if e.do(job) == "end" {
			return nil
		}
		if err := e.untilCancelled(ctx, job); err != nil {
			return jobs.RetryAfter(0, err)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", nil)
	other := e.trigger("test.job", nil)
	require.ElementsMatch(e, []string{id, other}, []string{p.next().ID, p.next().ID}, "IDs that run")
	e.noError(canceller.Cancel(e.ctx, "test.job", id))
	e.total(jobs.StateCancelled, 1)
	st := e.status("test.job")
	require.Equal(e, [2]int{0, 1}, [2]int{st.Waiting, st.Running}, "Waiting and Running after one of two was cancelled")
	e.trigger("test.job", map[string]string{"do": "end"})
	p.next()
	e.total(jobs.StateCompleted, 1)
	p.none("the run was cancelled")
	if _, ok := e.s.(jobs.RunLister); ok {
		require.Equal(e, jobs.StateCancelled, e.runOf("test.job", id).State, "State")
		require.Equal(e, jobs.StateRunning, e.runOf("test.job", other).State, "State of the job that was not cancelled")
	}
}

func cancelledButSuccessfulIsCompleted(e *env) {
	canceller := role[jobs.Canceller](e)
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		_ = e.untilCancelled(ctx, job)
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", nil)
	p.next()
	e.noError(canceller.Cancel(e.ctx, "test.job", id))
	e.total(jobs.StateCompleted, 1)
	require.Zero(e, e.health().Totals[jobs.StateCancelled].N, "cancelled jobs")
}

func cancelledTickKeepsTheSchedule(e *env) {
	canceller := role[jobs.Canceller](e)
	var called atomic.Bool
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if called.Swap(true) {
			return nil
		}
		return e.untilCancelled(ctx, job)
	})
	release := e.gate()
	busy := e.probe(release.wait)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.noError(e.s.RegisterInterval("test.busy", time.Second, busy.handle, inOrder))
	e.start()
	running := p.next()
	e.noError(canceller.Cancel(e.ctx, "test.tick", running.ID))
	e.eventually("the tick to be cancelled", func() (any, bool) {
		h := e.health()
		return h.Totals, h.Totals[jobs.StateCancelled].N == 1
	})
	e.chain(p, running, 2)
	if _, ok := e.s.(jobs.RunLister); !ok {
		return
	}
	// A tick that waits for a worker is cancelled too, and later ones come.
	first := busy.next()
	waiting := e.waitingTick("test.busy")
	e.noError(canceller.Cancel(e.ctx, "test.busy", waiting.ID))
	cancelled := e.runOf("test.busy", waiting.ID) // it may have got a later tick meanwhile
	require.Equal(e, jobs.StateCancelled, cancelled.State, "State of the tick")
	require.True(e, cancelled.Tick.After(first.Tick), "Tick is %v, while %v is running", cancelled.Tick, first.Tick)
	close(release.open)
	for range 2 {
		r := busy.next()
		require.NotEqual(e, waiting.ID, r.ID, "ID of a tick that ran")
		require.True(e, r.Tick.After(cancelled.Tick), "tick %v ran after %v was cancelled", r.Tick, cancelled.Tick)
	}
}

func cancelIgnoresEndedRuns(e *env) {
	canceller := role[jobs.Canceller](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if e.do(job) == "fail" {
			return jobs.Permanent(errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	waiting := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	e.start()
	ids := []string{waiting, e.trigger("test.job", nil), e.trigger("test.job", map[string]string{"do": "fail"})}
	e.noError(canceller.Cancel(e.ctx, "test.job", waiting))
	ended := map[jobs.State]int{jobs.StateCancelled: 1, jobs.StateCompleted: 1, jobs.StateFailed: 1}
	for state := range ended {
		e.total(state, 1)
	}
	for _, id := range ids {
		require.NoError(e, canceller.Cancel(e.ctx, "test.job", id), "Cancel of a job that has ended")
	}
	require.Equal(e, ended, nonZero(e.health().Totals), "Totals")
}

func retriedFailureStartsAtOnce(e *env) {
	retrier := role[jobs.Retrier](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt < 4 {
			return errAgain
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0), jobs.UseTrigger(tracing("trace"))))
	e.start()
	id := e.trigger("test.job", map[string]int{"n": 7})
	p.next()
	p.next()
	for attempt := 3; attempt <= 4; attempt++ {
		e.total(jobs.StateFailed, 1)
		e.noError(retrier.Retry(e.ctx, "test.job", id))
		r := p.next()
		require.Equal(e, id, r.ID, "ID")
		require.Equal(e, attempt, r.Attempt, "Attempt")
		require.GreaterOrEqual(e, r.MaxAttempts, attempt, "MaxAttempts")
		require.JSONEq(e, `{"n": 7}`, string(r.Data), "Data")
		require.Equal(e, map[string]string{"path": " trace"}, r.Metadata, "Metadata")
	}
	e.total(jobs.StateCompleted, 1)
	require.Zero(e, e.health().Totals[jobs.StateFailed].N, "failed jobs")
	p.none("the run is completed")
	if _, ok := e.s.(jobs.RunLister); ok {
		runs := e.runs("test.job")
		require.Len(e, runs, 1, "Runs")
		require.Equal(e, jobs.StateCompleted, runs[0].State, "State")
		require.False(e, runs[0].EndedAt.IsZero(), "EndedAt")
	}
}

func retriedCancelledOrSkippedRuns(e *env) {
	retrier := role[jobs.Retrier](e)
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1))) // any start is too late
	skipped := e.trigger("test.late", nil)
	e.until(time.Now().Add(slack)) // too late for test.late
	e.start()
	e.total(jobs.StateSkipped, 1)
	e.noError(retrier.Retry(e.ctx, "test.late", skipped))
	ran := p.next()
	require.Equal(e, skipped, ran.ID, "ID of the job that was skipped")
	require.Equal(e, 1, ran.Attempt, "Attempt of a job that was skipped before")
	e.total(jobs.StateCompleted, 1)
	if _, ok := e.s.(jobs.RunLister); ok {
		require.Empty(e, e.runOf("test.late", skipped).Error, "Error of a job that was skipped, and has completed since")
	}
	canceller, ok := e.s.(jobs.Canceller)
	if !ok {
		return
	}
	cancelled := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	e.noError(canceller.Cancel(e.ctx, "test.job", cancelled))
	e.total(jobs.StateCancelled, 1)
	e.noError(retrier.Retry(e.ctx, "test.job", cancelled))
	require.Equal(e, cancelled, p.next().ID, "ID of the job that was cancelled")
	e.total(jobs.StateCompleted, 2)
	e.total(jobs.StateCancelled, 0)
}

func retryStartsTheNextAttempt(e *env) {
	retrier := role[jobs.Retrier](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			return jobs.RetryAfter(time.Hour, errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", nil)
	first := p.next()
	e.eventually("the job to wait for its retry", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Retrying == 1 && st.Running == 0
	})
	e.noError(retrier.Retry(e.ctx, "test.job", id))
	second := p.next()
	require.Equal(e, id, second.ID, "ID")
	require.Equal(e, 2, second.Attempt, "Attempt")
	require.Less(e, second.at.Sub(first.at), time.Hour, "wait before the second attempt")
	e.total(jobs.StateCompleted, 1)
	p.none("the run is completed")
}

func notRetryableIsRefused(e *env) {
	retrier := role[jobs.Retrier](e)
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if e.do(job) == "wait" {
			return release.wait(ctx, job)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	due := e.trigger("test.job", nil)
	require.ErrorIs(e, retrier.Retry(e.ctx, "test.job", due), jobs.ErrNotRetryable, "Retry of a job that is due")
	delayed := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	require.ErrorIs(e, retrier.Retry(e.ctx, "test.job", delayed), jobs.ErrNotRetryable, "Retry of a job that is delayed")
	e.start()
	require.Equal(e, due, p.next().ID, "ID of the job that is due")
	e.total(jobs.StateCompleted, 1)
	require.ErrorIs(e, retrier.Retry(e.ctx, "test.job", due), jobs.ErrNotRetryable, "Retry of a job that is completed")
	running := e.trigger("test.job", map[string]string{"do": "wait"})
	require.Equal(e, running, p.next().ID, "ID of the job that runs")
	require.ErrorIs(e, retrier.Retry(e.ctx, "test.job", running), jobs.ErrNotRetryable, "Retry of a job that runs")
	close(release.open)
	e.total(jobs.StateCompleted, 2)
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
	p.none("no run was retried")
}

func operatorsRefuseTheUnknown(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.other", 0, p.handle))
	known := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	other := e.trigger("test.other", nil, jobs.Delay(time.Hour))
	calls := map[string]func(ctx context.Context, name, id string) error{}
	if c, ok := e.s.(jobs.Canceller); ok {
		calls["Cancel"] = c.Cancel
	}
	if r, ok := e.s.(jobs.Retrier); ok {
		calls["Retry"] = r.Retry
	}
	for method, call := range calls {
		for _, id := range []string{other, "", "no-such-id", "0", "-1", "99999999999999999999999", known + "0", "0" + known, known + "\x00", "' OR 1=1 --"} {
			require.ErrorIs(e, call(e.ctx, "test.job", id), jobs.ErrUnknownID, "%s of %q", method, id)
		}
		require.ErrorIs(e, call(e.ended(), "test.job", known), context.Canceled, "%s with a context that has ended", method)
	}
	if pauser, ok := e.s.(jobs.Pauser); ok {
		calls["Pause"] = func(ctx context.Context, name, _ string) error { return pauser.Pause(ctx, name) }
		calls["Resume"] = func(ctx context.Context, name, _ string) error { return pauser.Resume(ctx, name) }
		require.ErrorIs(e, pauser.Pause(e.ended(), "test.job"), context.Canceled, "Pause with a context that has ended")
		require.ErrorIs(e, pauser.Resume(e.ended(), "test.job"), context.Canceled, "Resume with a context that has ended")
		require.Zero(e, e.status("test.job").PausedSince, "PausedSince")
	}
	if len(calls) == 0 {
		e.Skip("the provider has no roles for operators")
	}
	for method, call := range calls {
		for _, name := range []string{"test.unknown", "", "test.job\x00"} {
			require.ErrorIs(e, call(e.ctx, name, known), jobs.ErrUnknownJob, "%s for %q", method, name)
		}
	}
	require.Equal(e, [2]int{1, 1}, [2]int{e.queueSize("test.job"), e.queueSize("test.other")}, "QueueSize of both jobs")
}

// Pauses.
var pauseRules = []rule{
	{name: "runs triggered while their job is paused wait until it is resumed, and other jobs continue", check: pausedTriggersWait},
	{name: "ticks that come due while their job is paused are skipped, and the schedule continues", check: pausedTicksAreSkipped},
	{name: "a pause outlasts a restart", check: pauseOutlastsARestart},
	{name: "retries wait while their job is paused, including those of ticks", check: pausedRetriesWait},
	{name: "a run retried by an operator waits while its job is paused", check: pausedRetriesByOperatorsWait},
}

func pausedTriggersWait(e *env) {
	pauser := role[jobs.Pauser](e)
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if e.do(job) == "wait" {
			return release.wait(ctx, job)
		}
		return nil
	})
	other := e.probe(nil)
	names := []string{"test.job", "test.own"}
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.own", 0, p.handle, jobs.Concurrency(2)))
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.start()
	for _, name := range names {
		e.trigger(name, map[string]string{"do": "wait"})
		p.next()
		require.Zero(e, e.status(name).PausedSince, "PausedSince of %s", name)
		before := time.Now()
		e.noError(pauser.Pause(e.ctx, name))
		since := e.status(name).PausedSince
		require.WithinDuration(e, before, since, tolerance, "PausedSince of %s", name)
		require.Equal(e, "UTC", since.Location().String(), "location of PausedSince")
	}
	since := e.status("test.job").PausedSince
	e.reach()
	e.noError(pauser.Pause(e.ctx, "test.job"))
	require.Equal(e, since, e.status("test.job").PausedSince, "PausedSince after a second Pause")
	require.Zero(e, e.status("test.other").PausedSince, "PausedSince of another job")

	waiting := map[string]bool{}
	for _, name := range names {
		waiting[e.trigger(name, nil)] = true
		ids, err := e.s.TriggerMany(e.ctx, name, []any{nil}, jobs.Delay(100*time.Millisecond), jobs.Priority(2))
		e.noError(err)
		waiting[ids[0]] = true
	}
	// It would start after the waiting runs if they were not held back.
	e.trigger("test.other", nil, jobs.Delay(300*time.Millisecond), jobs.Priority(4))
	other.next()
	for _, name := range names {
		e.eventually("two runs to wait, and one to continue", func() (any, bool) {
			st := e.status(name)
			return st, st.Waiting == 2 && st.Running == 1 && e.queueSize(name) == 2
		})
		if _, ok := e.s.(jobs.RunLister); ok {
			e.eventually("two runs to be listed as waiting", func() (any, bool) {
				runs := e.runs(name)
				return runs, runs[0].State == jobs.StateWaiting && runs[1].State == jobs.StateWaiting
			})
		}
	}
	p.none("the job is paused")
	close(release.open)
	e.total(jobs.StateCompleted, len(names)+1)

	e.noError(pauser.Resume(e.ctx, "test.other"))
	e.noError(pauser.Resume(e.ctx, "test.job"))
	for range 2 {
		r := p.next()
		require.Equal(e, "test.job", r.Name, "name of the job that ran")
		require.True(e, waiting[r.ID], "the run is not one that waited")
		require.Equal(e, 1, r.Attempt, "Attempt of a job that waited")
	}
	require.Zero(e, e.status("test.job").PausedSince, "PausedSince after Resume")
	require.NotZero(e, e.status("test.own").PausedSince, "PausedSince of the job that was not resumed")
	e.noError(pauser.Resume(e.ctx, "test.own"))
	e.noError(pauser.Resume(e.ctx, "test.own"))
	for range 2 {
		require.Equal(e, "test.own", p.next().Name, "name of the job that ran")
	}
	e.total(jobs.StateCompleted, 2*len(names)+len(names)+1)
	p.none("each run started once")
}

func pausedTicksAreSkipped(e *env) {
	pauser := role[jobs.Pauser](e)
	p := e.probe(nil)
	other := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	e.noError(e.s.RegisterInterval("test.other", time.Second, other.handle, inOrder))
	e.start()
	p.next()
	e.noError(pauser.Pause(e.ctx, "test.tick"))
	first := e.skippedTick(time.Time{})
	var drained run
	if len(p.runs) > 0 {
		drained = e.drain(p)
	}
	last := e.skippedTick(e.skippedTick(first))
	require.GreaterOrEqual(e, last.Sub(first), 2*time.Second, "time between three ticks that were skipped")
	p.none("the job is paused")
	st := e.status("test.tick")
	require.True(e, st.NextTick.After(last), "NextTick is %v, the tick %v was skipped", st.NextTick, last)
	require.NotZero(e, st.PausedSince, "PausedSince")
	require.Zero(e, st.OverdueBy, "OverdueBy")
	if _, ok := e.s.(jobs.RunLister); ok {
		for _, r := range e.runs("test.tick") {
			require.True(e, r.Tick.Before(first), "Runs lists the tick %v, and those from %v on were skipped", r.Tick, first)
		}
	}
	e.noError(pauser.Resume(e.ctx, "test.tick"))
	r := p.next()
	if r.Tick.Before(first) { // it was due before the pause and waited
		r = p.next()
	}
	require.True(e, r.Tick.After(last), "tick %v ran after %v was skipped", r.Tick, last)
	require.True(e, r.Tick.After(drained.Tick), "tick %v ran after %v", r.Tick, drained.Tick)
	// It may also cover a tick that has waited since before the pause.
	require.False(e, r.Tick.Add(-time.Duration(r.Missed)*time.Second).Before(last), "Missed is %d, and %v was skipped", r.Missed, last)
	e.chain(p, r, 1)
	e.chain(other, other.next(), 3)
}

func pauseOutlastsARestart(e *env) {
	pauser := role[jobs.Pauser](e)
	p := e.probe(nil)
	other := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.noError(pauser.Pause(e.ctx, "test.job")) // before Start
	e.noError(pauser.Pause(e.ctx, "test.tick"))
	since := e.status("test.job").PausedSince
	e.reach()
	ids := map[string]bool{e.trigger("test.job", nil): true}
	var skipped time.Time
	for range 2 {
		e.start()
		ids[e.trigger("test.job", nil)] = true
		e.trigger("test.other", nil, jobs.Delay(100*time.Millisecond), jobs.Priority(4))
		other.next()
		skipped = e.skippedTick(skipped)
		e.stop()
		p.none("the job is paused")
		require.Equal(e, since, e.status("test.job").PausedSince, "PausedSince after a restart")
	}
	require.Equal(e, 3, e.queueSize("test.job"), "QueueSize")
	e.noError(pauser.Resume(e.ctx, "test.job")) // while stopped
	e.start()
	for range 3 {
		r := p.next()
		require.True(e, ids[r.ID], "the run is not one that waited")
	}
}

func pausedRetriesWait(e *env) {
	pauser := role[jobs.Pauser](e)
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if job.Attempt > 1 {
			return nil
		}
		_ = release.wait(ctx, job)
		return jobs.RetryAfter(0, errAgain)
	})
	other := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.start()
	e.trigger("test.job", nil)
	retried, names := map[string]run{}, map[string]bool{}
	for len(names) < 2 {
		r := p.next()
		retried[r.ID], names[r.Name] = r, true
	}
	e.noError(pauser.Pause(e.ctx, "test.job"))
	e.noError(pauser.Pause(e.ctx, "test.tick"))
	e.reach()
	e.skippedTick(time.Time{})
	for len(p.runs) > 0 {
		r := <-p.runs // ticks from before the pause
		retried[r.ID] = r
	}
	close(release.open)
	e.eventually("all to wait for their retries", func() (any, bool) {
		st, ticks := e.status("test.job"), e.status("test.tick")
		return []jobs.Status{st, ticks}, st.Waiting == 1 && st.Retrying == 1 && st.Running == 0 &&
			ticks.Retrying == len(retried)-1 && ticks.Running == 0
	})
	e.trigger("test.other", nil, jobs.Delay(300*time.Millisecond), jobs.Priority(4))
	other.next()
	p.none("the jobs are paused")
	e.noError(pauser.Resume(e.ctx, "test.job"))
	e.noError(pauser.Resume(e.ctx, "test.tick"))
	for seconds := 0; seconds < len(retried); {
		r := p.next()
		if r.Attempt == 1 {
			continue // a later tick
		}
		if first, ok := retried[r.ID]; ok {
			require.Equal(e, first.Tick, r.Tick, "Tick of a retry")
			require.Equal(e, 2, r.Attempt, "Attempt")
			seconds++
		}
	}
}

func pausedRetriesByOperatorsWait(e *env) {
	pauser, retrier := role[jobs.Pauser](e), role[jobs.Retrier](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			return jobs.Permanent(errAgain)
		}
		return nil
	})
	other := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.start()
	id := e.trigger("test.job", nil)
	p.next()
	e.total(jobs.StateFailed, 1)
	e.noError(pauser.Pause(e.ctx, "test.job"))
	e.reach()
	e.noError(retrier.Retry(e.ctx, "test.job", id))
	e.trigger("test.other", nil, jobs.Delay(300*time.Millisecond), jobs.Priority(4))
	other.next()
	p.none("the job is paused")
	e.eventually("the job to wait", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Waiting == 1 && st.Running == 0
	})
	e.noError(pauser.Resume(e.ctx, "test.job"))
	r := p.next()
	require.Equal(e, id, r.ID, "ID")
	require.Equal(e, 2, r.Attempt, "Attempt")
	e.total(jobs.StateCompleted, 2)
}

// reach waits until a pause has reached every process.
func (e *env) reach() {
	e.Helper()
	e.until(time.Now().Add(3 * time.Second))
}

// skippedTick waits until a tick of test.tick later than after is skipped, and returns it.
func (e *env) skippedTick(after time.Time) (tick time.Time) {
	e.Helper()
	e.eventually("a tick to be skipped", func() (any, bool) {
		st := e.status("test.tick")
		tick = st.PrevTick
		return st, st.PrevState == jobs.StateSkipped && st.PrevTick.After(after)
	})
	return tick
}
