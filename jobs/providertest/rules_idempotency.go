package providertest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Triggers that may be repeated; see [jobs.IdempotencyKey].
var idempotencyRules = []rule{
	{name: "a repeated trigger returns the run of its idempotency key, even after that has ended", check: repeatReturnsTheRun},
	{name: "an idempotency key of a different trigger is refused", check: differentTriggerIsRefused},
	{name: "an idempotency key is private to its job and apart from Unique keys", check: idempotencyKeyIsPrivate},
	{name: "concurrent triggers with one idempotency key insert one run", check: concurrentRepeatsInsertOne},
	{name: "a run retried by hand keeps its idempotency key", check: retriedRunKeepsItsIdempotencyKey},
	{name: "an idempotency key in a transaction is taken once that commits", needs: needsDB, check: idempotencyKeyInTx},
}

func repeatReturnsTheRun(e *env) {
	ends := map[string]error{"test.done": nil, "test.failed": jobs.Permanent(errAgain)}
	probes := map[string]*probe{}
	for name, result := range ends {
		probes[name] = e.probe(fail(result))
		e.noError(e.s.RegisterDelayed(name, time.Second, probes[name].handle))
	}
	repeat := func(name string) string {
		e.Helper()
		return e.trigger(name, map[string]any{"b": 2, "a": []int{1}}, jobs.IdempotencyKey("order 7"))
	}
	e.start()
	for name := range ends {
		id := repeat(name)
		require.Equal(e, id, repeat(name), "ID while the run of %s waits", name)
		require.Equal(e, 1, e.queueSize(name), "QueueSize of %s", name)
		probes[name].next()
		e.eventually("the run to end", func() (any, bool) {
			st := e.status(name)
			return st, st.Running+st.Waiting == 0
		})
		require.Equal(e, id, repeat(name), "ID after the run of %s has ended", name)
		require.Zero(e, e.queueSize(name), "QueueSize of %s", name)
		require.NotEqual(e, id, e.trigger(name, nil, jobs.IdempotencyKey("order 8")), "ID of another key")
		probes[name].next()
		probes[name].none("the other trigger was a repeat")
	}
	canceller, ok := jobs.As[jobs.Canceller](e.s)
	if !ok {
		return
	}
	id := e.trigger("test.done", nil, jobs.IdempotencyKey("cancelled"), jobs.Delay(time.Hour))
	e.noError(canceller.Cancel(e.ctx, "test.done", id))
	require.Equal(e, id, e.trigger("test.done", nil, jobs.IdempotencyKey("cancelled"), jobs.Delay(time.Hour)), "ID after a Cancel")
}

func differentTriggerIsRefused(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", time.Hour, e.probe(nil).handle))
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	key := jobs.IdempotencyKey("key")
	id := e.trigger("test.job", map[string]int{"n": 1}, key)
	for what, other := range map[string]struct {
		data any
		opts []jobs.TriggerOption
	}{
		"other data":     {map[string]int{"n": 2}, nil},
		"no data":        {nil, nil},
		"another field":  {map[string]int{"n": 1, "m": 1}, nil},
		"no delay":       {map[string]int{"n": 1}, []jobs.TriggerOption{jobs.Delay(0)}},
		"a delay":        {map[string]int{"n": 1}, []jobs.TriggerOption{jobs.Delay(time.Minute)}},
		"a time":         {map[string]int{"n": 1}, []jobs.TriggerOption{jobs.At(at)}},
		"a priority":     {map[string]int{"n": 1}, []jobs.TriggerOption{jobs.Priority(4)}},
		"first priority": {map[string]int{"n": 1}, []jobs.TriggerOption{jobs.Priority(1)}},
	} {
		got, err := e.s.Trigger(e.ctx, "test.job", other.data, append(other.opts, key)...)
		require.ErrorIs(e, err, jobs.ErrKeyReused, "Trigger with %s", what)
		require.Empty(e, got, "ID of a Trigger with %s", what)
	}
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
	require.Equal(e, id, e.trigger("test.job", map[string]int{"n": 1}, key), "ID of a repeat")
	timed := e.trigger("test.job", nil, jobs.IdempotencyKey("timed"), jobs.At(at), jobs.Priority(2))
	local := at.In(time.FixedZone("east", 3600))
	require.Equal(e, timed, e.trigger("test.job", nil, jobs.IdempotencyKey("timed"), jobs.At(local), jobs.Priority(2)), "the same time")
}

func idempotencyKeyIsPrivate(e *env) {
	ids := map[string]bool{}
	for _, name := range []string{"test.job", "test.jobs"} {
		e.noError(e.s.RegisterDelayed(name, time.Hour, e.probe(nil).handle))
		for _, opt := range []jobs.TriggerOption{
			jobs.IdempotencyKey("key"), jobs.IdempotencyKey("Key"), jobs.IdempotencyKey("key "), jobs.Unique("key"), jobs.Priority(2),
		} {
			ids[e.trigger(name, nil, opt)] = true
		}
	}
	require.Len(e, ids, 10, "different IDs")
}

func concurrentRepeatsInsertOne(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", time.Hour, e.probe(nil).handle))
	type answer struct {
		id  string
		err error
	}
	const n = 20
	for round := range 3 {
		answers := make(chan answer, n)
		for i := range n {
			go func() { // half of them are not repeats of the other half
				id, err := e.s.Trigger(e.ctx, "test.job", map[string]int{"n": i % 2}, jobs.IdempotencyKey(fmt.Sprint("key", round)))
				answers <- answer{id, err}
			}()
		}
		ids, refused := map[string]bool{}, 0
		for range n {
			got := receive(e, answers, "the Triggers to return")
			if got.err != nil {
				require.ErrorIs(e, got.err, jobs.ErrKeyReused)
				refused++
				continue
			}
			ids[got.id] = true
		}
		require.Len(e, ids, 1, "IDs of the triggers with the data that came first")
		require.Equal(e, n/2, refused, "triggers with the other data")
		require.Equal(e, round+1, e.queueSize("test.job"), "QueueSize")
	}
}

func retriedRunKeepsItsIdempotencyKey(e *env) {
	retrier := role[jobs.Retrier](e)
	p := e.probe(fail(jobs.Permanent(errAgain)))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	id := e.trigger("test.job", nil, jobs.IdempotencyKey("key"))
	p.next()
	e.total(jobs.StateFailed, 1)
	e.noError(retrier.Retry(e.ctx, "test.job", id))
	p.next()
	e.total(jobs.StateFailed, 1)
	require.Equal(e, id, e.trigger("test.job", nil, jobs.IdempotencyKey("key")), "ID after a Retry")
	p.none("the trigger was a repeat")
}

func idempotencyKeyInTx(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", time.Hour, e.probe(nil).handle))
	first := e.trigger("test.job", nil, jobs.IdempotencyKey("taken"))
	for _, commit := range []bool{false, true} {
		key := fmt.Sprint("fresh ", commit)
		tx := e.begin()
		trigger := func(key string, data any) (string, error) {
			return tt.TriggerTx(e.ctx, tx, "test.job", data, jobs.IdempotencyKey(key))
		}
		id, err := trigger("taken", nil)
		e.noError(err)
		require.Equal(e, first, id, "ID of a repeat in a transaction")
		_, err = trigger("taken", map[string]int{"n": 1})
		require.ErrorIs(e, err, jobs.ErrKeyReused, "a different trigger in a transaction")
		fresh, err := trigger(key, nil)
		e.noError(err)
		id, err = trigger(key, nil)
		e.noError(err)
		require.Equal(e, fresh, id, "ID of a repeat in the same transaction")

		got := e.triggerWaitsFor(tx, commit, jobs.IdempotencyKey(key))
		require.Equal(e, commit, got == fresh, "ID %s after commit=%t of %s", got, commit, fresh)
		require.Equal(e, got, e.trigger("test.job", nil, jobs.IdempotencyKey(key)), "ID of a repeat")
	}
	require.Equal(e, 3, e.queueSize("test.job"), "QueueSize")
}
