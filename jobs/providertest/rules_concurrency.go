package providertest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Limits on concurrent runs.
var concurrencyRules = []rule{
	{name: "Concurrency limits how many runs of a job execute at once", check: concurrencyLimitsHowManyRun},
	{name: "jobs don't compete for the worker slots of another job", check: otherJobsDoNotTakeOwnSlots},
	{name: "triggering and reading are safe for concurrent use", check: safeForConcurrentUse},
}

func concurrencyLimitsHowManyRun(e *env) {
	const limit, total = 2, 6
	var running, most atomic.Int64
	release := make(chan struct{}, total)
	p := e.probe(func(context.Context, *jobs.Job) error {
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		select {
		case <-release:
		case <-e.ctx.Done():
		}
		return nil
	})
	other := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.limited", 0, p.handle, jobs.Concurrency(limit)))
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.start()
	for range total {
		e.trigger("test.limited", nil)
	}
	p.next()
	p.next()
	// Another job runs from trigger to end while the limited runs hold their slots. In that time a third of them
	// could have started too.
	e.trigger("test.other", nil)
	other.next()
	e.total(jobs.StateCompleted, 1)
	require.Equal(e, total-limit, e.queueSize("test.limited"), "runs waiting for one of %d slots", limit)
	for range total {
		release <- struct{}{}
	}
	e.total(jobs.StateCompleted, total+1)
	require.EqualValues(e, limit, most.Load(), "most runs at once")
}

func otherJobsDoNotTakeOwnSlots(e *env) {
	release := e.gate()
	limited := e.probe(release.wait)
	crowd := e.probe(release.wait)
	e.noError(e.s.RegisterDelayed("test.limited", 0, limited.handle, jobs.Concurrency(1)))
	e.noError(e.s.RegisterDelayed("test.crowd", 0, crowd.handle))
	// Enough to fill the shared workers, however many there are.
	const many = 600
	_, err := e.s.TriggerMany(e.ctx, "test.crowd", make([]any, many))
	e.noError(err)
	e.start()
	crowd.next()
	e.trigger("test.limited", nil)
	limited.next()
	close(release.open)
	for range many - 1 {
		crowd.next()
	}
	e.eventually("the crowd to end", func() (any, bool) {
		st := e.status("test.crowd")
		return st, st.Waiting+st.Retrying+st.Running == 0
	})
}

func safeForConcurrentUse(e *env) {
	const n = 50
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := e.s.Trigger(e.ctx, "test.job", map[string]int{"n": i})
			if err == nil {
				_, err = e.s.QueueSize(e.ctx, "test.job")
			}
			if err == nil {
				_, err = e.s.Jobs(e.ctx)
			}
			if err == nil {
				_, err = e.s.Health(e.ctx)
			}
			errs <- err
		}()
	}
	for range n {
		require.NoError(e, receive(e, errs, "the calls to return"))
	}
	seen := map[string]bool{}
	for range n {
		r := p.next()
		require.False(e, seen[r.ID], "a job ran twice")
		seen[r.ID] = true
	}
	e.total(jobs.StateCompleted, n)
	p.none("all runs have ended")
}

// What a trigger inserts.
var triggerRules = []rule{
	{name: "Unique returns the live run with that key instead of inserting another", check: uniqueReturnsTheLiveJob},
	{name: "a Unique key is free again when its run has ended", check: uniqueKeyIsFreeAgain},
	{name: "a Unique key is private to its job", check: uniqueKeyIsPrivateToItsName},
	{name: "ticks of a schedule and Unique triggers don't merge", check: ticksAndUniqueDoNotMerge},
	{name: "TriggerMany returns the IDs in the order of the data", check: triggerManyReturnsIDsInOrder},
	{name: "TriggerMany without data inserts nothing", check: triggerManyWithoutData},
	{name: "TriggerMany inserts all or none", check: triggerManyIsAllOrNone},
	{name: "TriggerBulk inserts all or none, and returns how many", check: triggerBulkIsAllOrNone},
	{name: "a handler may trigger jobs and read their status", check: handlerMayTriggerAndRead},
}

func uniqueReturnsTheLiveJob(e *env) {
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		_ = release.wait(ctx, job)
		if job.Attempt == 1 {
			return jobs.RetryAfter(time.Hour, errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	key := jobs.Unique("invoice 7")
	id := e.trigger("test.job", nil, key)
	require.Equal(e, id, e.trigger("test.job", map[string]int{"n": 2}, key), "ID while the job waits")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
	e.start()
	p.next()
	require.Equal(e, id, e.trigger("test.job", nil, key), "ID while the job runs")
	close(release.open)
	e.eventually("the job to wait for its retry", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Retrying == 1 && st.Running == 0
	})
	require.Equal(e, id, e.trigger("test.job", nil, key), "ID while the job is to be retried")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
	p.none("the key is taken")
}

func uniqueKeyIsFreeAgain(e *env) {
	for name, result := range map[string]error{"test.done": nil, "test.failed": jobs.Permanent(errAgain)} {
		e.noError(e.s.RegisterDelayed(name, 0, e.probe(fail(result)).handle))
	}
	e.start()
	for _, name := range []string{"test.done", "test.failed"} {
		first := e.trigger(name, nil, jobs.Unique("key"))
		e.eventually("the job to end", func() (any, bool) {
			st := e.status(name)
			return st, st.Running+st.Waiting == 0
		})
		second := e.trigger(name, nil, jobs.Unique("key"))
		require.NotEqual(e, first, second, "ID of a second trigger of %s", name)
	}
	e.total(jobs.StateCompleted, 2)
	e.total(jobs.StateFailed, 2)
}

func uniqueKeyIsPrivateToItsName(e *env) {
	p := e.probe(nil)
	names := []string{"test.job", "test.jobs", "test.job.k"}
	for _, name := range names {
		e.noError(e.s.RegisterDelayed(name, time.Hour, p.handle))
	}
	ids := map[string]bool{}
	for _, name := range names {
		for _, key := range []string{"key", "Key", "key "} {
			ids[e.trigger(name, nil, jobs.Unique(key))] = true
		}
		ids[e.trigger(name, nil)] = true
		ids[e.trigger(name, nil)] = true
		require.Equal(e, 5, e.queueSize(name), "QueueSize of %s after 3 different keys and 2 without", name)
	}
	require.Len(e, ids, 15, "different IDs")
}

func ticksAndUniqueDoNotMerge(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.start()
	id := e.trigger("test.tick", nil, jobs.Unique("key"), jobs.Delay(time.Hour))
	require.False(e, p.next().Tick.IsZero())
	require.False(e, p.next().Tick.IsZero())
	require.Equal(e, id, e.trigger("test.tick", nil, jobs.Unique("key")))
}

func triggerManyReturnsIDsInOrder(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	data := make([]any, 20)
	for i := range data {
		data[i] = map[string]int{"n": i}
	}
	ids, err := e.s.TriggerMany(e.ctx, "test.job", data)
	e.noError(err)
	require.Len(e, ids, len(data))
	for range data {
		r := p.next()
		var got struct{ N int }
		e.noError(r.Decode(&got))
		require.Equal(e, ids[got.N], r.ID, "ID of the job with element %d", got.N)
	}
}

func triggerManyWithoutData(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	ids, err := e.s.TriggerMany(e.ctx, "test.job", nil)
	e.noError(err)
	require.Empty(e, ids)
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
}

func triggerManyIsAllOrNone(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	_, err := e.s.TriggerMany(e.ctx, "test.job", []any{map[string]int{"n": 1}, "not an object", map[string]int{"n": 3}})
	require.ErrorIs(e, err, jobs.ErrInvalidData)
	require.Zero(e, e.queueSize("test.job"), "QueueSize after an element was refused")
	_, err = e.s.TriggerMany(e.ctx, "test.job", []any{nil, nil}, jobs.Unique("key"))
	require.ErrorIs(e, err, jobs.ErrInvalidOption, "Unique does not apply to TriggerMany")
	require.Zero(e, e.queueSize("test.job"), "QueueSize after an option was refused")
	ids, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil, nil}, jobs.Delay(time.Hour), jobs.Priority(4))
	e.noError(err)
	require.Len(e, ids, 2)
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize after two were accepted")
}

func triggerBulkIsAllOrNone(e *env) {
	bulk := role[jobs.BulkTriggerer](e)
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	_, err := bulk.TriggerBulk(e.ctx, "test.job", []any{map[string]int{"n": 1}, "not an object", map[string]int{"n": 3}})
	require.ErrorIs(e, err, jobs.ErrInvalidData)
	_, err = bulk.TriggerBulk(e.ctx, "test.job", []any{nil, nil}, jobs.Unique("key"))
	require.ErrorIs(e, err, jobs.ErrInvalidOption, "Unique does not apply to TriggerBulk")
	require.Zero(e, e.queueSize("test.job"), "QueueSize after refused calls")
	n, err := bulk.TriggerBulk(e.ctx, "test.job", nil)
	e.noError(err)
	require.Zero(e, n, "TriggerBulk without data")
	data := []any{map[string]int{"n": 1}, map[string]int{"n": 2}, map[string]int{"n": 3}}
	n, err = bulk.TriggerBulk(e.ctx, "test.job", data, jobs.Priority(2))
	e.noError(err)
	require.Equal(e, 3, n)
	require.Equal(e, 3, e.queueSize("test.job"), "QueueSize after three were accepted")
	n, err = bulk.TriggerBulk(e.ctx, "test.job", []any{nil}, jobs.Delay(time.Hour))
	e.noError(err)
	require.Equal(e, 1, n)
	e.start()
	seen := map[string]bool{}
	for range data {
		seen[string(p.next().Data)] = true
	}
	require.Len(e, seen, 3, "data of the jobs")
	e.total(jobs.StateCompleted, 3)
	p.none("one is due in an hour")
}

func handlerMayTriggerAndRead(e *env) {
	child := e.probe(nil)
	ids := make(chan string, 1)
	p := e.probe(func(ctx context.Context, _ *jobs.Job) error {
		if _, err := e.s.Jobs(ctx); err != nil {
			return err
		}
		id, err := e.s.Trigger(ctx, "test.child", map[string]string{"from": "parent"})
		ids <- id
		return err
	})
	e.noError(e.s.RegisterDelayed("test.parent", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.child", 0, child.handle))
	e.start()
	e.trigger("test.parent", nil)
	require.Equal(e, receive(e, ids, "the handler to trigger"), child.next().ID)
	e.total(jobs.StateCompleted, 2)
}
