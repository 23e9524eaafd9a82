package providertest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Start, Shutdown, and their effect on jobs.
var lifecycleRules = []rule{
	{name: "a run triggered before Start waits for it", check: triggeredBeforeStartWaits},
	{name: "a second Start is refused and changes nothing", check: secondStartIsRefused},
	{name: "Shutdown is refused if the scheduler is not started", check: shutdownWhenStoppedIsRefused},
	{name: "during a Shutdown, Start and another Shutdown wait for it to finish, but no longer than their context", check: callsWaitForShutdown},
	{name: "registering is refused while started, and allowed before and after", check: registeringWhileStartedIsRefused},
	{name: "a restart runs what waited", check: restartRunsWhatWaited},
	{name: "a soft stop waits for running jobs and starts no others", check: softStopWaits},
	{name: "a hard stop returns running jobs to the queue, and the attempt doesn't count", check: hardStopReturnsTheRunToTheQueue},
	{name: "a job that succeeds despite a hard stop is done", check: hardStopLetsARunSucceed},
	{name: "a Shutdown whose context ends still stops, and returns the context's error", check: shutdownStopsWhenItsContextEnds},
	{name: "after Shutdown no call blocks, and triggered runs are kept", check: afterShutdownNothingBlocks},
	{name: "a call whose context has ended returns its error and does nothing", check: endedContextDoesNothing},
}

func triggeredBeforeStartWaits(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	id := e.trigger("test.job", nil)
	ids, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil})
	e.noError(err)
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize before Start")
	p.none("the scheduler is not started")
	e.start()
	require.ElementsMatch(e, append(ids, id), []string{p.next().ID, p.next().ID}, "IDs that ran")
}

func secondStartIsRefused(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	require.ErrorIs(e, e.s.Start(e.ctx), jobs.ErrStarted)
	id := e.trigger("test.job", nil)
	require.Equal(e, id, p.next().ID)
	e.total(jobs.StateCompleted, 1)
	p.none("the job ran once")
	e.stop()
	e.start()
	require.ErrorIs(e, e.s.Start(e.ctx), jobs.ErrStarted, "a second Start after a restart")
}

func shutdownWhenStoppedIsRefused(e *env) {
	require.ErrorIs(e, e.s.Shutdown(e.ctx), jobs.ErrNotStarted, "Shutdown before Start")
	e.start()
	e.stop()
	require.ErrorIs(e, e.s.Shutdown(e.ctx), jobs.ErrNotStarted, "a second Shutdown")
}

func callsWaitForShutdown(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	for _, second := range []struct {
		name string
		call func(context.Context) error
		want error
	}{
		{"Shutdown", e.s.Shutdown, jobs.ErrNotStarted},
		{"Start", e.s.Start, nil},
	} {
		release := e.gate()
		p.result = release.wait
		e.start()
		e.trigger("test.job", nil)
		p.next()
		stopped := make(chan error, 1)
		go func() { stopped <- e.s.Shutdown(e.ctx) }()
		e.eventually("the Shutdown to begin", func() (any, bool) {
			h := e.health()
			return h, !h.Started
		})
		require.ErrorIs(e, second.call(e.ended()), context.Canceled, "%s with a context that has ended", second.name)
		returned := make(chan error, 1)
		go func() { returned <- second.call(e.ctx) }()
		e.until(time.Now().Add(10 * slack))
		require.Empty(e, returned, "%s returned while a handler was still running", second.name)
		close(release.open)
		require.NoError(e, receive(e, stopped, "the Shutdown to end"))
		require.ErrorIs(e, receive(e, returned, second.name+" to return"), second.want, second.name)
	}
	p.result = nil
	id := e.trigger("test.job", nil)
	require.Equal(e, id, p.next().ID, "ID of the run after the restart")
}

func registeringWhileStartedIsRefused(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.before", 0, p.handle))
	e.start()
	require.ErrorIs(e, e.s.RegisterDelayed("test.delayed", 0, p.handle), jobs.ErrStarted)
	require.ErrorIs(e, e.s.RegisterInterval("test.interval", time.Hour, p.handle), jobs.ErrStarted)
	require.ErrorIs(e, e.s.RegisterCron("test.cron", "0 0 1 1 *", p.handle), jobs.ErrStarted)
	e.stop()
	e.noError(e.s.RegisterDelayed("test.after", 0, p.handle, jobs.Concurrency(1)))
	e.noError(e.s.RegisterInterval("test.ticks", time.Second, p.handle))
	e.start()
	id := e.trigger("test.after", nil)
	var after, ticks int
	for after == 0 || ticks == 0 {
		r := p.next()
		switch r.Name {
		case "test.after":
			require.Equal(e, id, r.ID)
			after++
		case "test.ticks":
			require.False(e, r.Tick.IsZero())
			ticks++
		}
	}
	all, err := e.s.Jobs(e.ctx)
	e.noError(err)
	require.Len(e, all, 3, "registered jobs")
}

func restartRunsWhatWaited(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	for range 3 {
		e.start()
		id := e.trigger("test.job", nil)
		require.Equal(e, id, p.next().ID)
		e.stop()
		waiting := []string{e.trigger("test.job", nil), e.trigger("test.job", nil, jobs.Delay(300*time.Millisecond))}
		require.Equal(e, 2, e.queueSize("test.job"), "QueueSize while stopped")
		p.none("the scheduler is not started")
		e.start()
		require.ElementsMatch(e, waiting, []string{p.next().ID, p.next().ID}, "IDs that ran")
		e.stop()
	}
}

func softStopWaits(e *env) {
	var done atomic.Bool
	started := make(chan struct{}, 10)
	e.noError(e.s.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
		started <- struct{}{}
		// Long enough that a Shutdown that does not wait returns before.
		timer := time.NewTimer(500 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		done.Store(true)
		return nil
	}, jobs.Concurrency(1)))
	e.start()
	e.trigger("test.job", nil)
	receive(e, started, "the job to start")
	e.trigger("test.job", nil) // waits for the slot, and then for the next Start
	e.stop()
	require.True(e, done.Load(), "Shutdown returned before the handler")
	require.Empty(e, started, "runs started during the shutdown")
	require.Equal(e, 1, e.health().Totals[jobs.StateCompleted].N, "completed jobs")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
}

func hardStopReturnsTheRunToTheQueue(e *env) {
	p := e.probe(nil)
	p.result = func(ctx context.Context, job *jobs.Job) error {
		if job.Name == "test.second" && job.Attempt == 1 {
			return errAgain
		}
		return e.untilCancelled(ctx, job)
	}
	e.noError(e.s.RegisterDelayed("test.first", 0, p.handle, jobs.MaxRetries(0)))
	e.noError(e.s.RegisterDelayed("test.second", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0)))
	e.start()
	first := e.trigger("test.first", nil)
	require.Equal(e, 1, p.next().Attempt)
	second := e.trigger("test.second", nil)
	require.Equal(e, 1, p.next().Attempt)
	require.Equal(e, 2, p.next().Attempt)
	for range 2 { // twice, so that one spare attempt is not enough
		e.hardStop()
		require.Equal(e, 1, e.queueSize("test.first"), "QueueSize of the interrupted job")
		require.Equal(e, 1, e.queueSize("test.second"), "QueueSize of the interrupted job")
		e.start()
		attempts := map[string][2]int{}
		for range 2 {
			r := p.next()
			attempts[r.ID] = [2]int{r.Attempt, r.MaxAttempts}
		}
		require.Equal(e, map[string][2]int{first: {1, 1}, second: {2, 2}}, attempts, "Attempt and MaxAttempts after the restart")
	}
}

func hardStopLetsARunSucceed(e *env) {
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		_ = e.untilCancelled(ctx, job)
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	p.next()
	e.hardStop()
	require.Equal(e, 1, e.health().Totals[jobs.StateCompleted].N, "completed jobs")
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
}

func shutdownStopsWhenItsContextEnds(e *env) {
	p := e.probe(e.untilCancelled)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	p.next()
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	require.ErrorIs(e, e.s.Shutdown(ctx), context.Canceled)
	require.ErrorIs(e, e.s.Shutdown(e.ctx), jobs.ErrNotStarted, "a second Shutdown")
	require.False(e, e.health().Started, "Started")
	e.start()
	require.Equal(e, 1, p.next().Attempt, "Attempt after the restart")
}

func afterShutdownNothingBlocks(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.stop()
	returned := make(chan error, 1)
	go func() {
		_, err := e.s.Trigger(e.ctx, "test.job", nil)
		if err == nil {
			_, err = e.s.TriggerMany(e.ctx, "test.job", []any{nil, nil})
		}
		if err == nil {
			_, err = e.s.Jobs(e.ctx)
		}
		if err == nil {
			_, err = e.s.Health(e.ctx)
		}
		returned <- err
	}()
	require.NoError(e, receive(e, returned, "the calls to return"))
	require.Equal(e, 3, e.queueSize("test.job"), "QueueSize")
	p.none("the scheduler is not started")
}

func endedContextDoesNothing(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	for range 2 { // stopped, then started
		_, err := e.s.Trigger(ctx, "test.job", nil)
		require.ErrorIs(e, err, context.Canceled, "Trigger")
		_, err = e.s.TriggerMany(ctx, "test.job", []any{nil})
		require.ErrorIs(e, err, context.Canceled, "TriggerMany")
		_, err = e.s.QueueSize(ctx, "test.job")
		require.ErrorIs(e, err, context.Canceled, "QueueSize")
		_, err = e.s.Jobs(ctx)
		require.ErrorIs(e, err, context.Canceled, "Jobs")
		_, err = e.s.Health(ctx)
		require.ErrorIs(e, err, context.Canceled, "Health")
		require.Zero(e, e.queueSize("test.job"), "QueueSize")
		if !e.health().Started {
			require.ErrorIs(e, e.s.Start(ctx), context.Canceled, "Start")
			require.False(e, e.health().Started, "Started")
			e.noError(e.s.RegisterDelayed("test.more", 0, p.handle))
			e.start()
		}
	}
	e.trigger("test.job", nil)
	p.next()
	p.none("the job was triggered once")
}

// hardStop shuts down with too little time for running handlers.
func (e *env) hardStop() {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 200*time.Millisecond)
	defer cancel()
	err := e.s.Shutdown(ctx)
	require.ErrorIs(e, err, context.DeadlineExceeded, "error of a Shutdown whose context ended")
}
