package provider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// define returns the definition of one registration.
func define(t *testing.T, defaults []jobs.Option, h jobs.Handler, opts ...jobs.Option) *provider.Definition {
	t.Helper()
	r := newRegistry(t, defaults...)
	require.NoError(t, r.RegisterDelayed("a.b", 0, h, opts...))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	return d
}

func attempt(t *testing.T, d *provider.Definition) error {
	t.Helper()
	return d.Run(t.Context(), &jobs.Job{ID: "7", Name: "a.b", Attempt: 1, MaxAttempts: 3}, quiet)
}

func TestUse_RefusesMiddlewareThatReturnsNoHandler(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	fine := func(next jobs.Handler) jobs.Handler { return next }
	none := func(jobs.Handler) jobs.Handler { return nil }
	panics := func(jobs.Handler) jobs.Handler { panic("no meter") }
	for want, m := range map[string]jobs.Middleware{
		"middleware 2 of 2 returns a nil handler": none,
		"middleware 2 of 2 panics: no meter":      panics,
	} {
		err := r.RegisterDelayed("a.b", 0, nothing, jobs.Use(fine, m))
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, `job "a.b" at `)
	}
	require.Empty(t, r.Jobs())
}

func TestUseTrigger_FailsIfMiddlewareReturnsNil(t *testing.T) {
	t.Parallel()
	d := define(t, nil, nothing, jobs.UseTrigger(func(jobs.Enqueue) jobs.Enqueue { return nil }))
	req, err := d.Request(nil)
	require.NoError(t, err)
	err = d.Enqueue(t.Context(), []*jobs.Request{req}, func(context.Context, []*jobs.Request) error { return nil })
	require.ErrorContains(t, err, `trigger middleware 1 of 1 of "a.b" returned nil`)
}

func TestUse_WrapsInOrder(t *testing.T) {
	t.Parallel()
	var path []string
	m := func(name string) jobs.Middleware {
		return func(next jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				path = append(path, name)
				defer func() { path = append(path, "/"+name) }()
				return next(ctx, job)
			}
		}
	}
	d := define(t, []jobs.Option{jobs.Use(m("1"), m("2"))}, func(context.Context, *jobs.Job) error {
		path = append(path, "handler")
		return nil
	}, jobs.Use(m("3")), jobs.Use(), jobs.Use(m("4"), m("5")))
	for range 2 {
		path = nil
		require.NoError(t, attempt(t, d))
		require.Equal(t, "1 2 3 4 5 handler /5 /4 /3 /2 /1", strings.Join(path, " "))
	}
}

func TestUse_CallsMiddlewareOncePerRegistration(t *testing.T) {
	t.Parallel()
	calls := 0
	r := newRegistry(t, jobs.Use(func(next jobs.Handler) jobs.Handler {
		calls++
		return next
	}))
	require.Zero(t, calls, "calls before a registration")
	_, err := r.Undefined("a.b")
	require.NoError(t, err)
	require.NoError(t, r.RegisterDelayed("a.b", 0, nothing))
	require.NoError(t, r.RegisterInterval("a.c", time.Hour, nothing))
	require.Equal(t, 2, calls)
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.NoError(t, attempt(t, d))
	require.NoError(t, attempt(t, d))
	require.Equal(t, 2, calls)
}

func TestUse_OfAJobDoesNotWrapOtherJobs(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, jobs.Use(func(next jobs.Handler) jobs.Handler { return next }))
	forgive := func(jobs.Handler) jobs.Handler { return nothing }
	require.NoError(t, r.RegisterDelayed("a.b", 0, failing(io.EOF), jobs.Use(forgive)))
	require.NoError(t, r.RegisterDelayed("a.c", 0, failing(io.EOF)))
	for name, want := range map[string]error{"a.b": nil, "a.c": io.EOF} {
		d, err := r.Job(name)
		require.NoError(t, err)
		requireError(t, want, attempt(t, d))
	}
}

func failing(err error) jobs.Handler {
	return func(context.Context, *jobs.Job) error { return err }
}

func TestMiddlewareOptions_RefuseNil(t *testing.T) {
	t.Parallel()
	same := func(next jobs.Handler) jobs.Handler { return next }
	sameTrigger := func(next jobs.Enqueue) jobs.Enqueue { return next }
	for want, opt := range map[string]jobs.Option{
		"Use: middleware 2 of 2 is nil":        jobs.Use(same, nil),
		"UseTrigger: middleware 1 of 2 is nil": jobs.UseTrigger(nil, sameTrigger),
		"Redact: the function is nil":          jobs.Redact(nil),
	} {
		err := newRegistry(t).RegisterDelayed("a.b", 0, nothing, opt)
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, want)
		_, err = provider.NewRegistry(opt)
		require.ErrorIs(t, err, jobs.ErrInvalidOption, "as a default")
	}
}

func TestUse_MiddlewareSeesTheResultOfTheHandler(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler jobs.Handler
		check   func(t *testing.T, seen error)
	}{
		"success":  {nothing, func(t *testing.T, seen error) { t.Helper(); require.NoError(t, seen) }},
		"an error": {failing(io.EOF), func(t *testing.T, seen error) { t.Helper(); require.Equal(t, io.EOF, seen) }},
		"a panic": {func(context.Context, *jobs.Job) error { panicsItself(); return nil }, func(t *testing.T, seen error) {
			t.Helper()
			var panicked *jobs.PanicError
			require.ErrorAs(t, seen, &panicked)
			require.Equal(t, "boom", panicked.Value)
			require.True(t, strings.HasPrefix(panicked.Stack, "github.com/everytick/everytick/jobs/provider_test.panicsItself\n"), panicked.Stack)
			require.NotContains(t, panicked.Stack, "jobs.(*Definition)")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen error
			d := define(t, nil, test.handler, jobs.Use(func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error {
					seen = next(ctx, job)
					return seen
				}
			}))
			requireError(t, seen, attempt(t, d))
			test.check(t, seen)
		})
	}
}

func TestUse_MiddlewareSeesAPanicOfInnerMiddlewareAsAnError(t *testing.T) {
	t.Parallel()
	var seen error
	d := define(t, nil, nothing, redact, jobs.Use(func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			seen = next(ctx, job)
			return nil
		}
	}, func(jobs.Handler) jobs.Handler {
		return func(context.Context, *jobs.Job) error { panic("the secret") }
	}))
	require.NoError(t, attempt(t, d))
	require.ErrorAs(t, seen, new(*jobs.PanicError))
	require.EqualError(t, seen, "panic: the …")
}

func TestUse_TurnsAPanicOfMiddlewareIntoAFailedAttempt(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]jobs.Middleware{
		"before": func(jobs.Handler) jobs.Handler {
			return func(context.Context, *jobs.Job) error { panicsItself(); return nil }
		},
		"after": func(next jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				defer panicsItself()
				return next(ctx, job)
			}
		},
	} {
		var panicked *jobs.PanicError
		err := attempt(t, define(t, nil, nothing, jobs.Use(m)))
		require.ErrorAs(t, err, &panicked, name)
		require.Contains(t, panicked.Stack, "panicsItself", name)
	}
}

func TestUse_TurnsGoexitIntoAnError(t *testing.T) {
	t.Parallel()
	for _, d := range []*provider.Definition{
		define(t, nil, func(context.Context, *jobs.Job) error { runtime.Goexit(); return nil },
			jobs.Use(func(next jobs.Handler) jobs.Handler { return next })),
		define(t, nil, nothing, jobs.Use(func(jobs.Handler) jobs.Handler {
			return func(context.Context, *jobs.Job) error { runtime.Goexit(); return nil }
		})),
	} {
		require.ErrorContains(t, attempt(t, d), "runtime.Goexit")
	}
}

// typedNil is an error whose Error method panics on a nil pointer, which as an error is not nil.
type typedNil struct{ text string }

func (e *typedNil) Error() string { return e.text }

func TestDefinition_RunTurnsAPanicOfErrorIntoAPanicError(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]jobs.Option{nil, {redact}, {jobs.Use(func(jobs.Handler) jobs.Handler {
		return func(context.Context, *jobs.Job) error { return (*typedNil)(nil) }
	})}} {
		err := attempt(t, define(t, nil, func(context.Context, *jobs.Job) error { return (*typedNil)(nil) }, opts...))
		require.ErrorAs(t, err, new(*jobs.PanicError))
		require.ErrorContains(t, err, "nil pointer")
	}
}

func TestJob_Retries(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		attempt, max int
		err          error
		want         bool
	}{
		{1, 3, io.EOF, true},
		{2, 3, io.EOF, true},
		{3, 3, io.EOF, false},
		{4, 3, io.EOF, false},
		{1, 3, nil, false},
		{1, 3, jobs.Permanent(io.EOF), false},
		{1, 3, fmt.Errorf("deep: %w", jobs.RetryAfter(0, jobs.Permanent(io.EOF))), false},
		{1, 3, jobs.RetryAfter(time.Hour, io.EOF), true},
		{1, 3, &jobs.PanicError{Value: "boom"}, true},
	} {
		job := &jobs.Job{Attempt: test.attempt, MaxAttempts: test.max}
		require.Equal(t, test.want, job.Retries(test.err), "attempt %d of %d with %v", test.attempt, test.max, test.err)
		_, again := new(provider.Definition).Retry(job, test.err)
		require.Equal(t, test.want, again, "result of Retry")
	}
}

var redact = jobs.Redact(func(text string) string { return strings.ReplaceAll(text, "secret", "…") })

func TestRedact_ChangesOnlyTexts(t *testing.T) {
	t.Parallel()
	cause := errors.New("the secret")
	for _, opts := range [][]jobs.Option{{redact}, {redact, jobs.Use(func(next jobs.Handler) jobs.Handler { return next })}} {
		run := func(h jobs.Handler) error { return attempt(t, define(t, nil, h, opts...)) }
		require.NoError(t, run(nothing))
		requireError(t, io.EOF, run(failing(io.EOF)))

		err := run(failing(fmt.Errorf("wrapped: %w", cause)))
		require.EqualError(t, err, "wrapped: the …")
		require.ErrorIs(t, err, cause)

		var panicked *jobs.PanicError
		err = run(func(context.Context, *jobs.Job) error { panic(cause) })
		require.ErrorAs(t, err, &panicked)
		require.EqualError(t, err, "panic: the …")
		require.Equal(t, "the …", panicked.Value)
		require.NotEmpty(t, panicked.Stack)
	}
}

func TestRedact_KeepsPermanentAndRetryAfter(t *testing.T) {
	t.Parallel()
	job := &jobs.Job{Name: "a.b", Attempt: 1, MaxAttempts: 3}
	d := define(t, nil, failing(jobs.Permanent(errors.New("the secret"))), redact)
	err := d.Run(t.Context(), job, quiet)
	require.EqualError(t, err, "the …")
	_, again := d.Retry(job, err)
	require.False(t, again)

	d = define(t, nil, failing(jobs.RetryAfter(time.Hour, errors.New("the secret"))), redact)
	err = d.Run(t.Context(), job, quiet)
	require.EqualError(t, err, "the … (retry after 1h0m0s)")
	delay, again := d.Retry(job, err)
	require.True(t, again)
	require.Equal(t, time.Hour, delay)
}

func TestRedact_AppliesToTheReasonOfASnooze(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"plain": jobs.Snooze(time.Hour, "the secret"), "wrapped": fmt.Errorf("no: %w", jobs.Snooze(time.Hour, "the secret")),
		"in an error without its text": silent{jobs.Snooze(time.Hour, "the secret")},
	} {
		d := define(t, nil, failing(err), redact)
		after, reason, ok := d.Snooze(d.Run(t.Context(), &jobs.Job{Name: "a.b", Attempt: 1, MaxAttempts: 3}, quiet))
		require.True(t, ok, name)
		require.Equal(t, time.Hour, after, name)
		require.Equal(t, "the …", reason, name)
	}
}

// silent is an error that hides the text of its cause.
type silent struct{ error }

func (silent) Error() string   { return "nothing" }
func (s silent) Unwrap() error { return s.error }

func TestRedact_AppliesToMiddleware(t *testing.T) {
	t.Parallel()
	adds := jobs.Use(func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			if err := next(ctx, job); err != nil {
				return fmt.Errorf("the secret middleware: %w", err)
			}
			panic("a secret panic")
		}
	})
	require.EqualError(t, attempt(t, define(t, nil, failing(io.EOF), redact, adds)), "the … middleware: EOF")
	require.EqualError(t, attempt(t, define(t, nil, nothing, redact, adds)), "panic: a … panic")
}

func TestRedact_TheLastOneApplies(t *testing.T) {
	t.Parallel()
	d := define(t, []jobs.Option{jobs.Redact(strings.ToUpper)}, failing(errors.New("the secret")), redact)
	require.EqualError(t, attempt(t, d), "the …")
}

func TestRedact_OmitsTheTextIfItPanics(t *testing.T) {
	t.Parallel()
	broken := jobs.Redact(func(text string) string { panic("cannot redact " + text) })
	const out = "(omitted: the Redact function panicked)"
	cause := errors.New("the secret")
	err := attempt(t, define(t, nil, failing(jobs.Permanent(cause)), broken))
	require.EqualError(t, err, out)
	require.ErrorIs(t, err, cause)
	err = attempt(t, define(t, nil, func(context.Context, *jobs.Job) error { panic(cause) }, broken))
	require.EqualError(t, err, "panic: "+out)
	require.ErrorAs(t, err, new(*jobs.PanicError))
	require.NoError(t, attempt(t, define(t, nil, nothing, broken)), "without an error, Redact is not called")
}

func TestDefinition_EnqueueCallsMiddlewareInOrder(t *testing.T) {
	t.Parallel()
	var path []string
	m := func(name string) jobs.TriggerMiddleware {
		return func(next jobs.Enqueue) jobs.Enqueue {
			return func(ctx context.Context, reqs []*jobs.Request) error {
				path = append(path, name)
				err := next(ctx, reqs)
				path = append(path, "/"+name+":"+reqs[0].ID)
				return err
			}
		}
	}
	d := define(t, []jobs.Option{jobs.UseTrigger(m("1"))}, nothing, jobs.UseTrigger(m("2"), m("3")), jobs.UseTrigger(m("4")))
	req, err := d.Request(nil)
	require.NoError(t, err)
	require.NoError(t, d.Enqueue(t.Context(), []*jobs.Request{req}, func(_ context.Context, reqs []*jobs.Request) error {
		path = append(path, "store")
		reqs[0].ID = "7"
		return nil
	}))
	require.Equal(t, "1 2 3 4 store /4:7 /3:7 /2:7 /1:7", strings.Join(path, " "))
}

func TestDefinition_EnqueuePassesOnContextRequestsAndErrors(t *testing.T) {
	t.Parallel()
	type key struct{}
	errStore := errors.New("the store is full")
	store := func(ctx context.Context, reqs []*jobs.Request) error {
		require.Equal(t, "value", ctx.Value(key{}))
		require.Len(t, reqs, 2)
		return errStore
	}
	ctx := context.WithValue(t.Context(), key{}, "value")
	same := jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue { return next })
	for _, opts := range [][]jobs.Option{nil, {same}} {
		d := define(t, nil, nothing, opts...)
		reqs, err := d.Requests([]any{nil, nil})
		require.NoError(t, err)
		require.Equal(t, errStore, d.Enqueue(ctx, reqs, store))
	}
}

func TestDefinition_EnqueueStoresNothingIfMiddlewareChangesTheRequests(t *testing.T) {
	t.Parallel()
	store := func(context.Context, []*jobs.Request) error { panic("stored") }
	for _, change := range []func([]*jobs.Request) []*jobs.Request{
		func([]*jobs.Request) []*jobs.Request { return nil },
		func(reqs []*jobs.Request) []*jobs.Request { return reqs[:1] },
		func(reqs []*jobs.Request) []*jobs.Request { return append(reqs, reqs[0]) },
		func(reqs []*jobs.Request) []*jobs.Request { return []*jobs.Request{reqs[1], reqs[0]} },
	} {
		d := define(t, nil, nothing, jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
			return func(ctx context.Context, reqs []*jobs.Request) error { return next(ctx, change(reqs)) }
		}))
		reqs, err := d.Requests([]any{nil, nil})
		require.NoError(t, err)
		require.EqualError(t, d.Enqueue(t.Context(), reqs, store),
			`jobs: trigger middleware of "a.b" has changed the requests: it must pass on all, and only those`)
	}
}

func TestDefinition_EnqueueStoresNothingIfMiddlewareRefuses(t *testing.T) {
	t.Parallel()
	store := func(context.Context, []*jobs.Request) error { panic("stored") }
	for _, want := range []error{io.EOF, nil} {
		d := define(t, nil, nothing, jobs.UseTrigger(func(jobs.Enqueue) jobs.Enqueue {
			return func(context.Context, []*jobs.Request) error { return want }
		}))
		req, err := d.Request(nil)
		require.NoError(t, err)
		err = d.Enqueue(t.Context(), []*jobs.Request{req}, store)
		if want != nil {
			require.Equal(t, want, err)
		} else {
			require.EqualError(t, err, `jobs: trigger middleware of "a.b" has neither inserted nor refused the job`)
		}
	}
}

func TestDefinition_EnqueueCallsNoMiddlewareWithoutRequests(t *testing.T) {
	t.Parallel()
	d := define(t, nil, nothing, jobs.UseTrigger(func(jobs.Enqueue) jobs.Enqueue { panic("called without requests") }))
	called := false
	require.NoError(t, d.Enqueue(t.Context(), nil, func(context.Context, []*jobs.Request) error {
		called = true
		return nil
	}))
	require.True(t, called, "store is called nevertheless")
}

func TestDefinition_EnqueueChecksMetadata(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		metadata map[string]string
		ok       bool
	}{
		{nil, true},
		{map[string]string{}, true},
		{map[string]string{"": "", "größe": "日本語", "control": "\t\n\x7f", "replacement": "\ufffd"}, true},
		{map[string]string{"a": "b\x00"}, false},
		{map[string]string{"a\x00": "b"}, false},
		{map[string]string{"a": "\xff"}, false},
		{map[string]string{"\xff": "a"}, false},
		{map[string]string{"\xe6\x97": "\xa5"}, false}, // valid together, but not separately
		{map[string]string{"a": "\xed\xa0\x80"}, false},
	} {
		d := define(t, nil, nothing, jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
			return func(ctx context.Context, reqs []*jobs.Request) error {
				reqs[1].Metadata = test.metadata
				return next(ctx, reqs)
			}
		}))
		reqs, err := d.Requests([]any{nil, nil})
		require.NoError(t, err)
		stored := false
		err = d.Enqueue(t.Context(), reqs, func(_ context.Context, reqs []*jobs.Request) error {
			stored = true
			reqs[0].ID, reqs[1].ID = "1", "2"
			return nil
		})
		require.Equal(t, test.ok, stored, "%q", test.metadata)
		if test.ok {
			require.NoError(t, err, "%q", test.metadata)
			require.Equal(t, len(test.metadata) == 0, reqs[1].Metadata == nil, "an empty map becomes nil")
			continue
		}
		require.ErrorIs(t, err, jobs.ErrInvalidData, "%q", test.metadata)
		require.ErrorContains(t, err, `"a.b"`)
		require.NotContains(t, err.Error(), "\x00")
	}
}
