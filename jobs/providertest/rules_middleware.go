package providertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Middleware of handlers and triggers.
var middlewareRules = []rule{
	{
		name: "middleware wraps a handler in the order given, with the defaults outermost", check: middlewareWrapsInOrder,
		defaults: []jobs.Option{jobs.Use(passing("first")), jobs.Use(passing("second"))},
	},
	{name: "middleware sees the handler's result: a panic as a PanicError, with texts redacted", check: middlewareSeesTheResult},
	{name: "the result of middleware is the result of the attempt", check: middlewareDecidesTheOutcome},
	{name: "Retries reports to middleware whether another attempt follows", check: retriesReportsToMiddleware},
	{name: "Redact keeps secrets in errors and panics out of the log and the stored runs", check: redactHidesSecrets},
	{
		name: "trigger middleware wraps a trigger in the order given, with the defaults outermost", check: triggerMiddlewareWrapsInOrder,
		defaults: []jobs.Option{jobs.UseTrigger(tracing("first")), jobs.UseTrigger(tracing("second"))},
	},
	{name: "the metadata of a trigger reaches every attempt of its run, and no other run", check: metadataReachesEveryAttempt},
	{name: "a trigger that middleware refuses inserts nothing", check: triggerMiddlewareRefuses},
	{name: "trigger middleware sees the IDs that the trigger returns", check: triggerMiddlewareSeesIDs},
}

func middlewareWrapsInOrder(e *env) {
	paths := make(chan []string, 10_000)
	p := e.probe(func(ctx context.Context, _ *jobs.Job) error {
		path, _ := ctx.Value(pathKey{}).([]string)
		paths <- path
		return nil
	})
	own := []jobs.Option{jobs.Use(passing("third"), passing("fourth")), jobs.Use(passing("fifth"))}
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, own...))
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, own...))
	e.start()
	e.trigger("test.job", nil)
	for range 2 {
		require.Equal(e, []string{"first", "second", "third", "fourth", "fifth"}, receive(e, paths, "a run"), "middleware that a run passed through")
	}
}

func middlewareSeesTheResult(e *env) {
	seen := make(chan error, 10)
	h := func(_ context.Context, job *jobs.Job) error {
		switch job.Attempt {
		case 1:
			panic("the password is " + secret)
		case 2:
			return fmt.Errorf("the password is %s: %w", secret, errAgain)
		}
		return nil
	}
	e.noError(e.s.RegisterDelayed("test.job", 0, h, jobs.RetryDelay(0), redacted, jobs.Use(func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			err := next(ctx, job)
			seen <- err
			return err
		}
	})))
	e.start()
	e.trigger("test.job", nil)
	err := receive(e, seen, "the end of attempt 1")
	var panicked *jobs.PanicError
	require.ErrorAs(e, err, &panicked, "error of an attempt that panicked")
	require.NotEmpty(e, panicked.Stack, "Stack")
	require.EqualError(e, err, "panic: the password is [redacted]", "text of a panic")
	err = receive(e, seen, "the end of attempt 2")
	require.EqualError(e, err, "the password is [redacted]: "+errAgain.Error(), "text of an error")
	require.ErrorIs(e, err, errAgain, "error of the handler")
	require.NoError(e, receive(e, seen, "the end of attempt 3"))
}

func middlewareDecidesTheOutcome(e *env) {
	for name, m := range map[string]func(*jobs.Job, error) error{
		"test.forgives":  func(*jobs.Job, error) error { return nil },
		"test.gives-up":  func(_ *jobs.Job, err error) error { return jobs.Permanent(err) },
		"test.panics":    func(*jobs.Job, error) error { panic("a panic of the conformance suite") },
		"test.passes-on": func(_ *jobs.Job, err error) error { return err },
		"test.postpones": func(_ *jobs.Job, err error) error { return jobs.RetryAfter(time.Hour, err) },
		"test.omits":     nil,
	} {
		e.noError(e.s.RegisterDelayed(name, 0, fail(errAgain), jobs.RetryDelay(0), jobs.Use(func(next jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if m == nil {
					return nil // without calling the handler
				}
				return m(job, next(ctx, job))
			}
		})))
	}
	e.start()
	for _, name := range []string{"test.forgives", "test.gives-up", "test.panics", "test.passes-on", "test.postpones", "test.omits"} {
		e.trigger(name, nil)
	}
	e.total(jobs.StateCompleted, 2)
	e.total(jobs.StateFailed, 3)
	e.eventually("a retry to be postponed", func() (any, bool) {
		st := e.status("test.postpones")
		return st, st.Retrying == 1 && st.Running == 0
	})
}

func retriesReportsToMiddleware(e *env) {
	reported := make(chan bool, 10)
	use := jobs.Use(func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			err := next(ctx, job)
			reported <- job.Retries(err)
			return err
		}
	})
	e.noError(e.s.RegisterDelayed("test.fails", 0, fail(errAgain), use, jobs.RetryDelay(0)))
	e.noError(e.s.RegisterDelayed("test.panics", 0, func(context.Context, *jobs.Job) error { panic(errAgain) }, use, jobs.RetryDelay(0), jobs.MaxRetries(1)))
	e.noError(e.s.RegisterDelayed("test.gives-up", 0, fail(jobs.Permanent(errAgain)), use))
	e.noError(e.s.RegisterDelayed("test.done", 0, fail(nil), use))
	e.start()
	for _, c := range []struct {
		name string
		want []bool
	}{
		{"test.fails", []bool{true, true, false}},
		{"test.panics", []bool{true, false}},
		{"test.gives-up", []bool{false}},
		{"test.done", []bool{false}},
	} {
		e.trigger(c.name, nil)
		for i, want := range c.want {
			require.Equal(e, want, receive(e, reported, "an attempt"), "Retries after attempt %d of %s", i+1, c.name)
		}
	}
	e.total(jobs.StateFailed, 3)
	require.Empty(e, reported, "attempts after the last")
}

func redactHidesSecrets(e *env) {
	results := []func() error{
		func() error { return fmt.Errorf("the password is %s", secret) },
		func() error { panic("the password is " + secret) },
		func() error { panic(fmt.Errorf("the password is %s", secret)) },
		func() error { return jobs.RetryAfter(0, fmt.Errorf("the password is %s", secret)) },
		func() error { return jobs.Permanent(fmt.Errorf("the password is %s", secret)) },
	}
	p := e.probe(func(_ context.Context, job *jobs.Job) error { return results[job.Attempt-1]() })
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, redacted, jobs.RetryDelay(0), jobs.MaxRetries(len(results)+5)))
	careless := jobs.Redact(func(string) string { panic("the password is " + secret) })
	e.noError(e.s.RegisterDelayed("test.careless", 0, fail(errors.New(secret)), careless, jobs.MaxRetries(0)))
	e.start()
	e.trigger("test.job", nil)
	e.trigger("test.careless", nil)
	for i := range results {
		require.Equal(e, i+1, p.next().Attempt, "Attempt")
		if lister, ok := e.s.(jobs.RunLister); ok {
			runs, err := lister.Runs(e.ctx, "test.job", 10)
			e.noError(err)
			require.Len(e, runs, 1, "Runs")
			require.NotContains(e, runs[0].Error, secret, "Error of a run")
		}
	}
	e.total(jobs.StateFailed, 2)
	if lister, ok := e.s.(jobs.RunLister); ok {
		for _, name := range []string{"test.job", "test.careless"} {
			runs, err := lister.Runs(e.ctx, name, 10)
			e.noError(err)
			require.Len(e, runs, 1, "Runs")
			require.NotEmpty(e, runs[0].Error, "Error of %s", name)
			require.NotContains(e, runs[0].Error, secret, "Error of %s", name)
		}
	}
	e.stop() // now everything is logged
	e.logs.mu.Lock()
	defer e.logs.mu.Unlock()
	for _, en := range e.logs.entries {
		require.NotContains(e, fmt.Sprint(en.message, en.attrs), secret, "log entry")
	}
}

func triggerMiddlewareWrapsInOrder(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.UseTrigger(tracing("third"), tracing("fourth")), jobs.UseTrigger(tracing("fifth"))))
	e.start()
	e.trigger("test.job", nil)
	_, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil})
	e.noError(err)
	for range 2 {
		require.Equal(e, map[string]string{"path": " first second third fourth fifth"}, p.next().Metadata, "Metadata")
	}
}

func metadataReachesEveryAttempt(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		for key := range job.Metadata {
			job.Metadata[key] = "changed by the handler"
		}
		return errAgain
	})
	n := 0
	number := func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			for _, req := range reqs {
				n++
				req.Metadata = map[string]string{"n": fmt.Sprint(n), "größe": "日本語 \"\\\n", "": "", "data": string(req.Data)}
			}
			return next(ctx, reqs)
		}
	}
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.UseTrigger(number), jobs.RetryDelay(0)))
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.UseTrigger(number), jobs.MaxRetries(0)))
	e.noError(e.s.RegisterDelayed("test.none", 0, p.handle, jobs.MaxRetries(0)))
	ids := []string{e.trigger("test.job", map[string]int{"a": 1})}
	many, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil, nil})
	e.noError(err)
	ids = append(ids, many...)
	e.trigger("test.none", nil)
	e.start()
	want := map[string]string{}
	for i, id := range ids {
		want[id] = fmt.Sprint(i + 1)
	}
	var attempts, ticks, others int
	for attempts < 3*len(ids) || ticks == 0 || others == 0 {
		r := p.next()
		if r.Name != "test.job" {
			require.Nil(e, r.Metadata, "Metadata of %s", r.Name)
			if r.Name == "test.tick" {
				ticks++
			} else {
				others++
			}
			continue
		}
		attempts++
		require.Equal(e, want[r.ID], r.Metadata["n"], "Metadata of attempt %d of job %s", r.Attempt, r.ID)
		require.Equal(e, "日本語 \"\\\n", r.Metadata["größe"], "Metadata of attempt %d", r.Attempt)
		require.Contains(e, r.Metadata, "", "Metadata of attempt %d", r.Attempt)
		require.Len(e, r.Metadata, 4, "Metadata of attempt %d", r.Attempt)
	}
}

func triggerMiddlewareRefuses(e *env) {
	p := e.probe(nil)
	errRefused := errors.New("not today")
	var refusal error
	var metadata map[string]string
	var calls []int // how many requests each had
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			calls = append(calls, len(reqs))
			if refusal != nil {
				return refusal
			}
			reqs[len(reqs)-1].Metadata = metadata
			return next(ctx, reqs)
		}
	})))
	e.noError(e.s.RegisterDelayed("test.silent", 0, p.handle, jobs.UseTrigger(func(jobs.Enqueue) jobs.Enqueue {
		return func(context.Context, []*jobs.Request) error { return nil }
	})))
	// A nil want means any error.
	refused := func(name string, want error) {
		e.Helper()
		check := func(method string, err error) {
			e.Helper()
			require.Error(e, err, method)
			if want != nil {
				require.ErrorIs(e, err, want, method)
			}
		}
		id, err := e.s.Trigger(e.ctx, name, nil)
		check("Trigger", err)
		require.Empty(e, id, "ID of a Trigger that was refused")
		ids, err := e.s.TriggerMany(e.ctx, name, []any{nil, nil, nil})
		check("TriggerMany", err)
		require.Empty(e, ids, "IDs of a TriggerMany that was refused")
		e.inTx(func(trigger func(string, ...jobs.TriggerOption) (string, error)) {
			_, err := trigger(name)
			check("TriggerTx", err)
		})
		require.Zero(e, e.queueSize(name), "QueueSize of %s after refusals", name)
	}
	refusal = errRefused
	refused("test.job", errRefused)
	require.Equal(e, []int{1, 3}, calls[:2], "requests given to middleware by Trigger, and by TriggerMany of three")
	before := len(calls)
	_, err := e.s.Trigger(e.ctx, "test.job", "not an object")
	require.ErrorIs(e, err, jobs.ErrInvalidData)
	_, err = e.s.TriggerMany(e.ctx, "test.job", nil)
	require.NoError(e, err, "TriggerMany without data")
	require.Len(e, calls, before, "calls of trigger middleware by triggers with invalid data, and without data")
	refusal = nil
	for _, metadata = range []map[string]string{{"zero": "a\x00b"}, {"a\x00b": ""}, {"bytes": "a\xffb"}, {"large": strings.Repeat("a", jobs.MaxDataBytes)}, {"\xe6\x97": "\xa5"}} {
		refused("test.job", jobs.ErrInvalidData)
	}
	metadata = nil
	refused("test.silent", nil)
	e.start()
	id := e.trigger("test.job", nil)
	require.Equal(e, id, p.next().ID, "ID of the job that was not refused")
	e.total(jobs.StateCompleted, 1)
	p.none("the other triggers were refused")
}

func triggerMiddlewareSeesIDs(e *env) {
	var seen []string
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle, jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			for _, req := range reqs {
				require.Equal(e, "test.job", req.Name, "name of the job")
				require.Empty(e, req.ID, "ID before the job is stored")
			}
			err := next(ctx, reqs)
			seen = nil
			for _, req := range reqs {
				seen = append(seen, req.ID)
			}
			return err
		}
	})))
	id := e.trigger("test.job", nil, jobs.Unique("key"))
	require.Equal(e, []string{id}, seen, "IDs seen in a Trigger")
	again := e.trigger("test.job", nil, jobs.Unique("key"))
	require.Equal(e, id, again, "ID of the live job with that key")
	require.Equal(e, []string{id}, seen, "IDs seen in a Trigger that found a live job")
	ids, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil, nil, nil})
	e.noError(err)
	require.Equal(e, ids, seen, "IDs seen in a TriggerMany")
	e.inTx(func(trigger func(string, ...jobs.TriggerOption) (string, error)) {
		id, err := trigger("test.job")
		e.noError(err)
		require.Equal(e, []string{id}, seen, "IDs seen in a TriggerTx")
		again, err := trigger("test.job", jobs.Unique("key"))
		e.noError(err)
		require.Equal(e, []string{again}, seen, "IDs seen in a TriggerTx that found a live job")
	})
}

const secret = "hunter2"

var redacted = jobs.Redact(func(text string) string { return strings.ReplaceAll(text, secret, "[redacted]") })

type pathKey struct{}

// passing returns middleware that appends its name to a path in the context.
func passing(name string) jobs.Middleware {
	return func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			path, _ := ctx.Value(pathKey{}).([]string)
			return next(context.WithValue(ctx, pathKey{}, append(slices.Clone(path), name)), job)
		}
	}
}

// tracing returns trigger middleware that appends its name to a path in the metadata.
func tracing(name string) jobs.TriggerMiddleware {
	return func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			for _, req := range reqs {
				path := req.Metadata["path"] + " " + name
				req.Metadata = map[string]string{"path": path}
			}
			return next(ctx, reqs)
		}
	}
}

// inTx calls test with a function that triggers in a transaction, and then commits it. It does nothing if the provider
// lacks the role.
func (e *env) inTx(test func(trigger func(name string, opts ...jobs.TriggerOption) (string, error))) {
	e.Helper()
	tt, ok := e.s.(jobs.TxTriggerer)
	if !ok || e.h.DB == nil {
		return
	}
	tx := e.begin()
	test(func(name string, opts ...jobs.TriggerOption) (string, error) {
		return tt.TriggerTx(e.ctx, tx, name, nil, opts...)
	})
	e.noError(tx.Commit(e.ctx))
}
