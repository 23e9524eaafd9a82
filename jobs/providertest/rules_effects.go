package providertest

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Jobs with jobs.Transactional. The effect that these rules look for is a job that the handler triggers in its
// transaction, because every provider with TriggerTx can store and show that.
var effectRules = []rule{
	{name: "a Transactional job's effects exist once it has completed, and not before", check: effectsExistOnceCompleted, needs: needsDB},
	{name: "a Transactional attempt that fails leaves no effects, and its retry sees none", check: failedAttemptsLeaveNoEffects, needs: needsDB},
	{name: "a Transactional attempt that returns nil after its timeout fails and leaves no effects", check: timedOutAttemptsLeaveNoEffects, needs: needsDB},
	{name: "a hard stop rolls a Transactional attempt back, even if it returns nil", check: hardStopRollsBack, needs: needsDB},
	{name: "a Cancel rolls a Transactional attempt back, even if it returns nil", check: cancelRollsBack, needs: needsDB},
	{name: "a Transactional handler cannot end its transaction, and can begin nested ones", check: handlerCannotEndItsTransaction, needs: needsDB},
	{name: "a job that is not Transactional has no transaction", check: otherJobsHaveNoTransaction},
	{name: "middleware runs outside the transaction and sees the outcome after the commit", check: middlewareSeesTheCommit, needs: needsDB},
	{name: "middleware cannot undo a commit, and its error then changes nothing", check: middlewareCannotUndoACommit, needs: needsDB},
	{name: "a schedule of Transactional runs goes on, and records its success", check: transactionalTicksGoOn, needs: needsDB},
}

// effect registers the job whose runs are effects.
func (e *env) effect() *probe {
	e.Helper()
	e.txTriggerer() // or skip
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.effect", 0, p.handle))
	return p
}

// cause triggers an effect in the transaction of an attempt.
func (e *env) cause(ctx context.Context, job *jobs.Job) error {
	if job.Tx == nil {
		return jobs.Permanent(errors.New("job.Tx is nil"))
	}
	_, err := jobs.TriggerTx(ctx, e.s, job.Tx, "test.effect", map[string]int{"attempt": job.Attempt})
	return err
}

func effectsExistOnceCompleted(e *env) {
	effects := e.effect()
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if err := e.cause(ctx, job); err != nil {
			return err
		}
		return release.wait(ctx, job)
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Transactional()))
	e.start()
	e.trigger("test.job", nil)
	r := p.next()
	require.NotNil(e, r.Tx, "Tx")
	require.True(e, r.DB == jobs.DB(r.Tx), "DB is %T and not the transaction", r.DB)
	e.until(time.Now().Add(10 * slack))
	require.Zero(e, e.queueSize("test.effect"), "QueueSize of the effect while the handler runs")
	effects.none("the handler has not returned")
	close(release.open)
	effects.next()
	require.Equal(e, jobAndEffect, e.allEnd(), "runs that ended")
	effects.none("the effect exists once")
}

func failedAttemptsLeaveNoEffects(e *env) {
	effects := e.effect()
	failures := map[string]func() error{
		"test.error":    func() error { return errAgain },
		"test.panic":    func() error { panic("again") },
		"test.refused":  func() error { return jobs.RetryAfter(0, errAgain) },
		"test.for-good": func() error { return jobs.Permanent(errAgain) },
	}
	for name, end := range failures {
		e.noError(e.s.RegisterDelayed(name, 0, func(ctx context.Context, job *jobs.Job) error {
			if n := e.queueSizeIn(ctx); n != 0 {
				return jobs.Permanent(errors.New("the effects of another attempt are visible"))
			}
			if err := e.cause(ctx, job); err != nil {
				return err
			}
			if job.Attempt == 1 {
				return end()
			}
			return nil
		}, jobs.Transactional(), jobs.RetryDelay(0), jobs.MaxRetries(1)))
	}
	e.start()
	for name := range failures {
		id := e.trigger(name, nil)
		if name == "test.for-good" {
			e.total(jobs.StateFailed, 1)
			continue
		}
		require.JSONEq(e, `{"attempt": 2}`, string(effects.next().Data), "effect of %s, run %s", name, id)
		e.allEnd()
	}
	require.Equal(e, map[jobs.State]int{jobs.StateCompleted: 6, jobs.StateFailed: 1}, e.allEnd(), "3 jobs, 3 effects, 1 failure")
	effects.none("each job has one successful attempt at most")
}

// queueSizeIn returns the QueueSize of the effect, or -1.
func (e *env) queueSizeIn(ctx context.Context) int {
	n, err := e.s.QueueSize(ctx, "test.effect")
	if err != nil {
		return -1
	}
	return n
}

// allEnd waits until no run waits or is in progress, and returns how many ended in each state.
func (e *env) allEnd() map[jobs.State]int {
	e.Helper()
	ended := map[jobs.State]int{}
	e.eventually("all runs to end", func() (any, bool) {
		clear(ended)
		live := 0
		totals := e.health().Totals
		for state, count := range totals {
			switch state {
			case jobs.StateCompleted, jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped:
				if count.N > 0 {
					ended[state] = count.N
				}
			default:
				live += count.N
			}
		}
		return totals, live == 0
	})
	return ended
}

// jobAndEffect is what allEnd returns after a job and its only effect.
var jobAndEffect = map[jobs.State]int{jobs.StateCompleted: 2}

func timedOutAttemptsLeaveNoEffects(e *env) {
	effects := e.effect()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if err := e.cause(ctx, job); err != nil || job.Attempt == 2 {
			return err
		}
		_ = e.untilCancelled(ctx, job)
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Transactional(), jobs.Timeout(500*time.Millisecond), jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	p.next()
	require.Equal(e, 2, p.next().Attempt, "Attempt after the timeout")
	require.JSONEq(e, `{"attempt": 2}`, string(effects.next().Data), "effect")
	require.Equal(e, jobAndEffect, e.allEnd(), "runs that ended")
	effects.none("the first attempt timed out")
	if lister, ok := e.s.(jobs.RunLister); ok {
		runs, err := lister.Runs(e.ctx, "test.job", 1)
		e.noError(err)
		require.Contains(e, runs[0].Error, "timed out", "error of the first attempt")
	}
}

func hardStopRollsBack(e *env) {
	effects := e.effect()
	p := e.probe(nil)
	p.result = func(ctx context.Context, job *jobs.Job) error {
		if err := e.cause(ctx, job); err != nil {
			return err
		}
		_ = e.untilCancelled(ctx, job)
		return nil
	}
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Transactional()))
	e.start()
	e.trigger("test.job", nil)
	p.next()
	e.hardStop()
	require.Zero(e, e.queueSize("test.effect"), "QueueSize of the effect after the hard stop")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize of the interrupted job")
	p.result = e.cause
	e.start()
	require.Equal(e, 1, p.next().Attempt, "Attempt after the restart")
	effects.next()
	require.Equal(e, jobAndEffect, e.allEnd(), "runs that ended")
	effects.none("the interrupted attempt left no effect")
}

func cancelRollsBack(e *env) {
	canceller, ok := e.s.(jobs.Canceller)
	if !ok {
		e.Skip("the provider does not implement jobs.Canceller")
	}
	effects := e.effect()
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if err := e.cause(ctx, job); err != nil {
			return err
		}
		return release.wait(ctx, job) // which ignores ctx
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Transactional()))
	e.start()
	id := e.trigger("test.job", nil)
	p.next()
	e.noError(canceller.Cancel(e.ctx, "test.job", id))
	close(release.open) // at once: the cancellation may not have reached the handler
	require.Equal(e, map[jobs.State]int{jobs.StateCancelled: 1}, e.allEnd(), "the job without an effect")
	effects.none("the job was cancelled before it completed")
	p.none("the job was cancelled")
}

func handlerCannotEndItsTransaction(e *env) {
	effects := e.effect()
	outcome := make(chan error, 1)
	e.noError(e.s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
		outcome <- func() error {
			if job.Tx.Commit(ctx) == nil {
				return errors.New("it could commit")
			}
			if job.Tx.Rollback(ctx) == nil {
				return errors.New("it could roll back")
			}
			for _, commit := range []bool{false, true} {
				err := pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
					if _, err := jobs.TriggerTx(ctx, e.s, tx, "test.effect", map[string]bool{"commit": commit}); err != nil {
						return err
					}
					if !commit {
						return errAgain
					}
					return nil
				})
				if commit == (err != nil) {
					return err
				}
			}
			return nil
		}()
		return nil
	}, jobs.Transactional()))
	e.start()
	e.trigger("test.job", nil)
	require.NoError(e, receive(e, outcome, "the handler"))
	require.JSONEq(e, `{"commit": true}`, string(effects.next().Data), "effect")
	require.Equal(e, jobAndEffect, e.allEnd(), "runs that ended")
	effects.none("the other nested transaction was rolled back")
}

func otherJobsHaveNoTransaction(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	require.Nil(e, p.next().Tx, "Tx")
}

func middlewareSeesTheCommit(e *env) {
	effects := e.effect()
	type sight struct {
		before, after jobs.Job
		queued        int
		err           error
	}
	seen := make(chan sight, 10)
	look := func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			s := sight{before: *job}
			s.err = next(ctx, job)
			s.after, s.queued = *job, e.queueSizeIn(ctx)
			seen <- s
			return s.err
		}
	}
	e.noError(e.s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
		_, err := jobs.TriggerTx(ctx, e.s, job.Tx, "test.effect", nil, jobs.Delay(time.Hour))
		if err == nil && job.Attempt == 1 {
			err = errAgain
		}
		return err
	}, jobs.Transactional(), jobs.Use(look), jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	first := receive(e, seen, "the first attempt")
	require.ErrorIs(e, first.err, errAgain)
	require.Zero(e, first.queued, "effects after the first attempt")
	second := receive(e, seen, "the second attempt")
	require.NoError(e, second.err)
	require.Equal(e, 1, second.queued, "effects after the second attempt, in middleware")
	for _, job := range []jobs.Job{first.before, first.after, second.before, second.after} {
		require.Nil(e, job.Tx, "Tx in middleware")
		require.True(e, job.DB == e.h.DB(e.s), "DB in middleware is %T, not the one the scheduler was given", job.DB)
	}
	effects.none("it is due in an hour")
}

func middlewareCannotUndoACommit(e *env) {
	effects := e.effect()
	again := make(chan error, 10)
	e.noError(e.s.RegisterDelayed("test.job", 0, e.cause, jobs.Transactional(), jobs.RetryDelay(0),
		jobs.Use(func(next jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if err := next(ctx, job); err != nil {
					return err
				}
				again <- next(ctx, job)
				return errAgain
			}
		})))
	e.start()
	e.trigger("test.job", nil)
	require.Error(e, receive(e, again, "the second call"), "a second call of the handler after the commit")
	effects.next()
	require.Equal(e, jobAndEffect, e.allEnd(), "runs that ended")
	effects.none("the handler ran once")
}

func transactionalTicksGoOn(e *env) {
	effects := e.effect()
	p := e.probe(e.cause)
	e.noError(e.s.RegisterInterval("test.ticks", time.Second, p.handle, jobs.Transactional(), jobs.CatchUp(jobs.CatchUpAll)))
	e.start()
	first := p.next().Tick
	require.Equal(e, first.Add(time.Second), p.next().Tick, "second tick")
	effects.next()
	effects.next()
	e.eventually("LastSuccess to be the first tick or a later one", func() (any, bool) {
		last := e.status("test.ticks").LastSuccess
		return last, !last.Before(first)
	})
}
