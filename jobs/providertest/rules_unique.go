package providertest

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// The keys of [jobs.UniqueWaiting] and [jobs.Latest].
var keyRules = []rule{
	{name: "no trigger with UniqueWaiting or Latest is lost, and at most one run waits, while workers fetch", check: noKeyedTriggerIsLost},
	{name: "Latest with a delay debounces: the job runs that long after the last trigger", check: latestDebounces},
	{name: "a run that waits for a retry counts as waiting for UniqueWaiting and Latest", check: retriesCountAsWaiting},
	{name: "a retry is skipped if a run with newer data for its key has started", check: overtakenRetryIsSkipped},
	{name: "a retry comes before a later run of its key that has not started", check: retryComesBeforeALaterRun},
	{name: "UniqueWaiting returns the waiting run, and inserts another once that has started", check: uniqueWaitingReturnsTheWaitingRun},
	{name: "Latest replaces data, metadata, priority and due time of the waiting run", check: latestReplacesTheWaitingRun},
	{name: "UniqueWaiting and Latest share their keys, apart from those of Unique and of other jobs", check: keysAreShared},
	{name: "a cancelled run no longer has its key of UniqueWaiting", check: cancelledRunHasNoKey},
	{name: "a run with a key that is retried by hand runs and has its key again", check: retriedRunHasItsKey},
	{name: "a waiting run found in a transaction starts after the commit", needs: needsDB, check: foundInTxStartsAfterTheCommit},
	{name: "a trigger in a transaction during a run of its key inserts another", needs: needsDB, check: triggerInTxDuringARun},
	{name: "Trigger waits for a key of UniqueWaiting or Latest taken by an open transaction", needs: needsDB, check: triggerWaitsForAKeyedTx},
}

// keyedOptions are the options whose runs no longer count once they have started.
var keyedOptions = map[string]func(key string) jobs.TriggerOption{"UniqueWaiting": jobs.UniqueWaiting, "Latest": jobs.Latest}

func number(n int) map[string]int { return map[string]int{"n": n} }

// numberOf returns the number in the data of a run.
func (e *env) numberOf(job jobs.Job) int {
	e.Helper()
	var data struct{ N int }
	e.noError(job.Decode(&data))
	return data.N
}

// rest waits in a handler or another goroutine of a rule.
func (e *env) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.ctx.Done():
	}
}

func noKeyedTriggerIsLost(e *env) {
	const callers, each = 50, 6
	for option, keyed := range keyedOptions {
		var changes, seen, latest atomic.Int64 // made by callers, and seen by runs and in their data
		var held atomic.Bool                   // runs wait at the gate once they have read their input
		gate, reading := e.gate(), make(chan struct{}, 1)
		name := "test." + map[string]string{"UniqueWaiting": "waiting", "Latest": "latest"}[option]
		atLeast := func(v *atomic.Int64, n int64) {
			for old := v.Load(); n > old && !v.CompareAndSwap(old, n); old = v.Load() {
			}
		}
		e.noError(e.s.RegisterDelayed(name, 0, func(ctx context.Context, job *jobs.Job) error {
			now := changes.Load() // reads its input
			var data struct{ N int }
			if err := job.Decode(&data); err != nil {
				return err
			}
			if held.Load() {
				select {
				case reading <- struct{}{}:
				default:
				}
				_ = gate.wait(ctx, job)
			}
			e.rest(5 * time.Millisecond)
			atLeast(&seen, now)
			atLeast(&latest, int64(data.N))
			return nil
		}, jobs.Concurrency(3)))
		e.start()
		done := make(chan error, callers)
		for range callers {
			go func() {
				for range each {
					if _, err := e.s.Trigger(e.ctx, name, number(int(changes.Add(1))), keyed("key")); err != nil {
						done <- err
						return
					}
					e.rest(time.Millisecond)
				}
				done <- nil
			}()
		}
		for left := callers; left > 0; {
			select {
			case err := <-done:
				require.NoError(e, err, "Trigger with %s", option)
				left--
			default:
				require.LessOrEqual(e, e.queueSize(name), 1, "waiting runs of a key with %s", option)
				e.until(time.Now().Add(time.Millisecond))
			}
		}
		// The last trigger comes during a run that has read its input.
		held.Store(true)
		e.trigger(name, number(int(changes.Add(1))), keyed("key"))
		receive(e, reading, "a run in progress")
		last := changes.Add(1)
		e.trigger(name, number(int(last)), keyed("key"))
		held.Store(false)
		close(gate.open)
		e.eventually("a run to see the last change with "+option, func() (any, bool) {
			return fmt.Sprintf("%d of %d", seen.Load(), last), seen.Load() == last
		})
		if option == "Latest" { // the run that saw the change may have had earlier data
			e.eventually("a run with the data of the last trigger", func() (any, bool) {
				return fmt.Sprintf("%d of %d", latest.Load(), last), latest.Load() == last
			})
		}
		e.stop()
	}
}

func latestDebounces(e *env) {
	const delay, step = time.Second, 400 * time.Millisecond
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", delay, p.handle))
	e.start()
	var (
		id   string
		last time.Time
	)
	for n := range 5 {
		if n > 0 {
			e.until(last.Add(step))
		}
		last = time.Now()
		again := e.trigger("test.job", number(n), jobs.Latest("key"))
		if n > 0 {
			require.Equal(e, id, again, "ID of the waiting run")
		}
		id = again
	}
	r := p.next()
	require.Equal(e, id, r.ID, "ID")
	require.Equal(e, 4, e.numberOf(r.Job), "data")
	require.GreaterOrEqual(e, r.at.Sub(last), delay-slack, "from the last trigger to the start")

	e.trigger("test.job", number(5), jobs.Latest("key"), jobs.Delay(time.Hour))
	e.trigger("test.job", number(6), jobs.Latest("key"), jobs.Delay(0))
	require.Equal(e, 6, e.numberOf(p.next().Job), "data of a run that was brought forward")
	e.total(jobs.StateCompleted, 2)
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
	p.none("each waiting run was replaced")
}

func retriesCountAsWaiting(e *env) {
	const wait = 2 * time.Second
	failed := make(chan time.Time, 1)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			failed <- time.Now()
			return jobs.RetryAfter(wait, errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", number(1), jobs.UniqueWaiting("key"))
	p.next()
	at := receive(e, failed, "the first attempt to fail")
	e.eventually("the run to wait for its retry", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Retrying == 1 && st.Running == 0
	})
	require.Equal(e, id, e.trigger("test.job", number(2), jobs.UniqueWaiting("key")), "ID with UniqueWaiting")
	require.Equal(e, id, e.trigger("test.job", number(3), jobs.Latest("key")), "ID with Latest")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
	r := p.next()
	require.Equal(e, id, r.ID, "ID of the retry")
	require.Equal(e, 2, r.Attempt, "Attempt")
	require.Equal(e, 3, e.numberOf(r.Job), "data of the retry")
	require.GreaterOrEqual(e, r.at.Sub(at), wait-slack, "from the failure to the retry")
	e.total(jobs.StateCompleted, 1)
	p.none("the run was found twice")
}

// overtaking triggers a run that fails once another with newer data was triggered, with the given options, and returns
// its ID and that of the other.
func overtaking(e *env, p *probe, opts ...jobs.TriggerOption) (older, newer string) {
	e.Helper()
	e.start()
	older = e.trigger("test.job", number(1), jobs.Latest("key"))
	require.Equal(e, older, p.next().ID)
	newer = e.trigger("test.job", number(2), append([]jobs.TriggerOption{jobs.Latest("key")}, opts...)...)
	require.NotEqual(e, older, newer, "ID of a trigger during a run")
	return older, newer
}

// failingFirst returns a probe whose runs with the number 1 wait for the gate and then fail in their first attempt.
func failingFirst(e *env, release *gate) *probe {
	return e.probe(func(ctx context.Context, job *jobs.Job) error {
		if e.numberOf(*job) > 1 || job.Attempt > 1 {
			return nil
		}
		_ = release.wait(ctx, job)
		return jobs.RetryAfter(time.Second, errAgain)
	})
}

func overtakenRetryIsSkipped(e *env) {
	release := e.gate()
	p := failingFirst(e, release)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	older, newer := overtaking(e, p)
	require.Equal(e, newer, p.next().ID, "ID of the run beside it")
	close(release.open)
	e.total(jobs.StateSkipped, 1)
	e.total(jobs.StateCompleted, 1)
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
	p.none("the run with newer data has started")
	if _, ok := e.s.(jobs.RunLister); ok {
		for _, run := range e.runs("test.job") {
			if run.ID == older {
				require.Contains(e, run.Error, newer, "the reason names the run")
			}
		}
	}
}

func retryComesBeforeALaterRun(e *env) {
	release := e.gate()
	p := failingFirst(e, release)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	older, _ := overtaking(e, p, jobs.Delay(time.Hour))
	close(release.open)
	r := p.next()
	require.Equal(e, older, r.ID, "ID of the retry")
	require.Equal(e, 2, r.Attempt, "Attempt")
	e.total(jobs.StateCompleted, 1)
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
}

func uniqueWaitingReturnsTheWaitingRun(e *env) {
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1)))
	key := jobs.UniqueWaiting("key")
	first := e.trigger("test.job", number(1), key)
	require.Equal(e, first, e.trigger("test.job", number(2), key), "ID while the run waits")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
	e.start()
	r := p.next()
	require.Equal(e, first, r.ID, "ID")
	require.Equal(e, 1, e.numberOf(r.Job), "data of the run that was found")
	second := e.trigger("test.job", number(3), key)
	require.NotEqual(e, first, second, "ID during a run")
	require.Equal(e, second, e.trigger("test.job", nil, key), "ID while a run waits behind another")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize while a run waits behind another")
	close(release.open)
	r = p.next()
	require.Equal(e, second, r.ID, "ID")
	require.Equal(e, 3, e.numberOf(r.Job), "data")
	e.total(jobs.StateCompleted, 2)
	third := e.trigger("test.job", nil, key)
	require.Equal(e, third, p.next().ID)
	require.NotEqual(e, second, third, "ID after a run has ended")
	e.total(jobs.StateCompleted, 3)
}

func latestReplacesTheWaitingRun(e *env) {
	p := e.probe(nil)
	stamp := jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			for _, req := range reqs {
				req.Metadata = map[string]string{"data": string(req.Data)}
			}
			return next(ctx, reqs)
		}
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1), stamp))
	key := jobs.Latest("key")
	id := e.trigger("test.job", number(1), key, jobs.Delay(time.Hour))
	other := e.trigger("test.job", number(9), jobs.Priority(2))
	require.Equal(e, id, e.trigger("test.job", number(2), key, jobs.Priority(4), jobs.Delay(time.Hour)), "ID")
	require.Equal(e, id, e.trigger("test.job", number(3), key), "ID") // of priority 1, and due now
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize")
	e.start()
	r := p.next()
	require.Equal(e, id, r.ID, "ID of the run that starts first")
	require.Equal(e, 3, e.numberOf(r.Job), "data")
	require.Equal(e, map[string]string{"data": `{"n":3}`}, r.Metadata, "metadata")
	require.Equal(e, 1, r.Attempt, "Attempt")
	require.Equal(e, other, p.next().ID)
	e.total(jobs.StateCompleted, 2)
	p.none("both runs have ended")
}

func keysAreShared(e *env) {
	names := []string{"test.job", "test.jobs"}
	ids := map[string]bool{}
	for _, name := range names {
		e.noError(e.s.RegisterDelayed(name, time.Hour, e.probe(nil).handle))
		waiting := e.trigger(name, nil, jobs.UniqueWaiting("key"))
		require.Equal(e, waiting, e.trigger(name, nil, jobs.Latest("key")), "ID with Latest")
		require.Equal(e, waiting, e.trigger(name, nil, jobs.Unique("other"), jobs.UniqueWaiting("key")), "the last option applies")
		ids[waiting] = true
		ids[e.trigger(name, nil, jobs.Unique("key"))] = true
		ids[e.trigger(name, nil, jobs.Latest("Key"))] = true
		ids[e.trigger(name, nil, jobs.Latest("key "))] = true
		require.Equal(e, 4, e.queueSize(name), "QueueSize of %s", name)
	}
	require.Len(e, ids, 8, "different IDs")
}

func cancelledRunHasNoKey(e *env) {
	canceller := role[jobs.Canceller](e)
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	for option, keyed := range keyedOptions {
		first := e.trigger("test.job", nil, keyed("key"))
		e.noError(canceller.Cancel(e.ctx, "test.job", first))
		second := e.trigger("test.job", nil, keyed("key"))
		require.NotEqual(e, first, second, "ID with %s after a cancellation", option)
		e.noError(canceller.Cancel(e.ctx, "test.job", second))
	}
	e.total(jobs.StateCancelled, 4)
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
}

func retriedRunHasItsKey(e *env) {
	retrier := role[jobs.Retrier](e)
	release := e.gate()
	p := failingFirst(e, release)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	older, newer := overtaking(e, p)
	require.Equal(e, newer, p.next().ID)
	close(release.open)
	e.total(jobs.StateSkipped, 1)
	e.stop()
	e.noError(retrier.Retry(e.ctx, "test.job", older))
	require.Equal(e, older, e.trigger("test.job", nil, jobs.UniqueWaiting("key")), "ID while the run waits again")
	e.start()
	r := p.next()
	require.Equal(e, older, r.ID, "ID")
	require.Equal(e, 1, e.numberOf(r.Job), "data")
	e.total(jobs.StateCompleted, 2)
}

func foundInTxStartsAfterTheCommit(e *env) {
	tt := e.txTriggerer()
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	all := maps.Clone(keyedOptions)
	all["Unique"] = jobs.Unique
	for option, keyed := range all {
		for _, commit := range []bool{true, false} {
			id := e.trigger("test.job", number(1), keyed("key"))
			tx := e.begin()
			for n := 2; n <= 3; n++ {
				again, err := tt.TriggerTx(e.ctx, tx, "test.job", number(n), keyed("key"))
				e.noError(err)
				require.Equal(e, id, again, "ID with %s", option)
			}
			e.start()
			e.until(time.Now().Add(10 * slack))
			p.none("a transaction holds the run")
			want := 1
			if commit {
				e.noError(tx.Commit(e.ctx))
				if option == "Latest" {
					want = 3
				}
			} else {
				e.noError(tx.Rollback(e.ctx))
			}
			r := p.next()
			require.Equal(e, id, r.ID, "ID with %s", option)
			require.Equal(e, want, e.numberOf(r.Job), "data with %s, committed: %v", option, commit)
			e.eventually("the run to end", func() (any, bool) {
				st := e.status("test.job")
				return st, st.Running+st.Waiting == 0
			})
			e.stop()
		}
	}
	p.none("each run was found")
}

func triggerInTxDuringARun(e *env) {
	tt := e.txTriggerer()
	for option, keyed := range keyedOptions {
		for _, commit := range []bool{true, false} {
			release := e.gate()
			p := e.probe(release.wait)
			name := fmt.Sprintf("test.%s-%v", map[string]string{"UniqueWaiting": "waiting", "Latest": "latest"}[option], commit)
			e.noError(e.s.RegisterDelayed(name, 0, p.handle))
			first := e.trigger(name, nil, keyed("key"))
			e.start()
			require.Equal(e, first, p.next().ID)
			tx := e.begin()
			second, err := tt.TriggerTx(e.ctx, tx, name, number(1), keyed("key"))
			e.noError(err)
			require.NotEqual(e, first, second, "ID with %s", option)
			again, err := tt.TriggerTx(e.ctx, tx, name, number(2), keyed("key"))
			e.noError(err)
			require.Equal(e, second, again, "ID of the run of this transaction with %s", option)
			close(release.open)
			e.until(time.Now().Add(10 * slack))
			p.none("the transaction is open")
			if commit {
				e.noError(tx.Commit(e.ctx))
				r := p.next()
				require.Equal(e, second, r.ID, "ID with %s", option)
				require.Equal(e, map[string]int{"UniqueWaiting": 1, "Latest": 2}[option], e.numberOf(r.Job), "data with %s", option)
			} else {
				e.noError(tx.Rollback(e.ctx))
			}
			e.eventually("the runs to end", func() (any, bool) {
				st := e.status(name)
				return st, st.Running+st.Waiting == 0
			})
			p.none("the transaction has ended")
			e.stop()
		}
	}
}

func triggerWaitsForAKeyedTx(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	for option, keyed := range keyedOptions {
		for _, commit := range []bool{true, false} {
			key := keyed(fmt.Sprint(option, commit))
			tx := e.begin()
			taken, err := tt.TriggerTx(e.ctx, tx, "test.job", nil, key)
			e.noError(err)
			impatient, cancel := context.WithTimeout(e.ctx, 10*slack)
			_, err = e.s.Trigger(impatient, "test.job", nil, key)
			cancel()
			require.ErrorIs(e, err, context.DeadlineExceeded, "a Trigger with a short deadline")
			got := e.triggerWaitsFor(tx, commit, key)
			require.Equal(e, commit, got == taken, "whether the run of the transaction was found with %s", option)
		}
	}
	require.Equal(e, 4, e.queueSize("test.job"), "QueueSize")
}
