package provider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var quiet = slog.New(slog.DiscardHandler)

type oneTick time.Time

func (s oneTick) Next(t time.Time) time.Time {
	if t.Before(time.Time(s)) {
		return time.Time(s)
	}
	return time.Time{}
}
func (oneTick) String() string { return "once" }

func TestDefinition_Backoff(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, test := range []struct {
		rule    string
		delay   time.Duration
		attempt int
		want    time.Duration
	}{
		{"after the first attempt", 5 * time.Second, 1, 5 * time.Second},
		{"after the second, twice", 5 * time.Second, 2, 10 * time.Second},
		{"after the third, four times", 5 * time.Second, 3, 20 * time.Second},
		{"the last below the cap", 5 * time.Second, 15, 5 * 1 << 14 * time.Second},
		{"the first at the cap", 5 * time.Second, 16, day},
		{"long after the cap", 5 * time.Second, 17, day},
		{"no overflow where doubling would", 5 * time.Second, 64, day},
		{"no overflow on the last possible attempt", 5 * time.Second, 30_001, day},
		{"no overflow for any number", 5 * time.Second, math.MaxInt, day},
		{"the smallest delay", 1, 46, 1 << 45},
		{"the smallest delay at the cap", 1, 48, day},
		{"no delay", 0, 1, 0},
		{"no delay, doubled", 0, 2, 0},
		{"no delay on the last possible attempt", 0, 30_001, 0},
		{"the largest delay", day, 1, day},
		{"the largest delay does not double", day, 2, day},
		{"half the largest delay doubles", day / 2, 2, day},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			d := provider.Definition{RetryDelay: test.delay}
			got := d.Backoff("7", test.attempt)
			require.InDelta(t, float64(test.want)*provider.Jitter("7", test.attempt), float64(got), float64(time.Millisecond))
			if test.want >= 2*time.Second {
				require.Zero(t, got%time.Millisecond, "%s", got)
			}
		})
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	// Providers compute it in SQL as well, so it must not change.
	for _, test := range []struct {
		id      string
		attempt int
		want    float64
	}{
		{"1", 1, 0.929093}, {"1", 2, 1.069708}, {"2", 1, 0.923047}, {"9223372036854775807", 30_000, 0.988054}, {"memory-1", 1, 1.089560},
	} {
		require.InDelta(t, test.want, provider.Jitter(test.id, test.attempt), 1e-6, "run %s, attempt %d", test.id, test.attempt)
	}
	var least, most, sum float64 = 2, 0, 0
	const n = 10_000
	for i := range n {
		factor := provider.Jitter(strconv.Itoa(i), 1)
		least, most, sum = min(least, factor), max(most, factor), sum+factor
	}
	require.GreaterOrEqual(t, least, 0.9)
	require.LessOrEqual(t, most, 1.1)
	require.InDelta(t, 0.2, most-least, 0.001, "the whole range")
	require.InDelta(t, 1, sum/n, 0.002, "evenly spread")
}

func TestDefinition_Retry(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	deep := func(err error) error {
		return fmt.Errorf("outer: %w", errors.Join(io.EOF, fmt.Errorf("inner: %w", err)))
	}
	for _, test := range []struct {
		rule         string
		attempt, max int
		err          error
		delay        time.Duration
		usual        bool // the delay is the usual one, with jitter
		again        bool
	}{
		{"an error is retried after the delay", 1, 3, boom, 5 * time.Second, true, true},
		{"the delay doubles", 2, 3, boom, 10 * time.Second, true, true},
		{"not after the last attempt", 3, 3, boom, 0, false, false},
		{"not after a later attempt", 4, 3, boom, 0, false, false},
		{"not after the only attempt", 1, 1, boom, 0, false, false},
		{"Permanent gives up", 1, 3, jobs.Permanent(boom), 0, false, false},
		{"a wrapped Permanent gives up", 1, 3, deep(jobs.Permanent(boom)), 0, false, false},
		{"RetryAfter sets the delay", 1, 3, jobs.RetryAfter(time.Hour, boom), time.Hour, false, true},
		{"a wrapped RetryAfter sets the delay", 2, 3, deep(jobs.RetryAfter(time.Hour, boom)), time.Hour, false, true},
		{"RetryAfter may exceed a day", 1, 3, jobs.RetryAfter(48*time.Hour, boom), 48 * time.Hour, false, true},
		{"RetryAfter 0 retries at once", 1, 3, jobs.RetryAfter(0, boom), 0, false, true},
		{"a negative RetryAfter retries at once", 1, 3, jobs.RetryAfter(-time.Hour, boom), 0, false, true},
		{"RetryAfter adds no attempt", 3, 3, jobs.RetryAfter(time.Hour, boom), 0, false, false},
		{"the outermost RetryAfter applies", 1, 3, jobs.RetryAfter(time.Minute, deep(jobs.RetryAfter(time.Hour, boom))), time.Minute, false, true},
		{"Permanent inside RetryAfter gives up", 1, 3, jobs.RetryAfter(time.Hour, jobs.Permanent(boom)), 0, false, false},
		{"Permanent around RetryAfter gives up", 1, 3, jobs.Permanent(jobs.RetryAfter(time.Hour, boom)), 0, false, false},
		{"a panic is retried", 1, 3, &jobs.PanicError{Value: boom}, 5 * time.Second, true, true},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			d := provider.Definition{RetryDelay: 5 * time.Second}
			delay, again := d.Retry(&jobs.Job{ID: "7", Attempt: test.attempt, MaxAttempts: test.max}, test.err)
			want := test.delay
			if test.usual {
				want = d.Backoff("7", test.attempt)
			}
			require.Equal(t, want, delay)
			require.Equal(t, test.again, again)
		})
	}
}

func TestDefinition_SnoozeReturnsAReasonThatCanBeStored(t *testing.T) {
	t.Parallel()
	d := define(t, nil, failing(jobs.Snooze(time.Hour, "a\x00b\xff"+strings.Repeat("x", 9000))))
	after, reason, ok := d.Snooze(attempt(t, d))
	require.True(t, ok)
	require.Equal(t, time.Hour, after)
	require.True(t, strings.HasPrefix(reason, `a\x00b`+"\ufffdxxx"), "%.20q", reason)
	require.Less(t, len(reason), 9000)
	_, _, ok = d.Snooze(attempt(t, define(t, nil, failing(io.EOF))))
	require.False(t, ok)
}

func TestDefinition_RunCollectsTheOutputOfEachAttempt(t *testing.T) {
	t.Parallel()
	late := make(chan *jobs.Job, 2)
	d := define(t, nil, func(_ context.Context, job *jobs.Job) error {
		late <- job
		if job.Attempt == 1 {
			return job.SetOutput("first")
		}
		return nil
	})
	job := &jobs.Job{Name: "a.b", Attempt: 1, MaxAttempts: 3}
	require.NoError(t, d.Run(t.Context(), job, quiet))
	require.Equal(t, `"first"`, string(job.Output()))
	require.EqualError(t, (<-late).SetOutput("late"), `jobs: SetOutput of "a.b": the attempt has ended`)
	require.Equal(t, `"first"`, string(job.Output()))
	job.Attempt = 2
	require.NoError(t, d.Run(t.Context(), job, quiet))
	require.Nil(t, job.Output(), "of the second attempt")
}

func TestDefinition_RunPassesTheJobAndALogger(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	job := &jobs.Job{Name: "a.b", ID: "7", Attempt: 2}
	d := provider.Definition{Name: "a.b", Timeout: time.Minute, Handler: func(ctx context.Context, got *jobs.Job) error {
		require.Equal(t, *job, *got)
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.LessOrEqual(t, time.Until(deadline), time.Minute)
		got.Logger.Info("hello")
		return nil
	}}
	require.NoError(t, d.Run(t.Context(), job, slog.New(slog.NewTextHandler(&log, nil))))
	require.Contains(t, log.String(), "msg=hello job=a.b job_id=7 attempt=2\n")
}

// requireError requires got to wrap want and have the same text, or to be nil if want is.
func requireError(t *testing.T, want, got error) {
	t.Helper()
	if want == nil {
		require.NoError(t, got)
		return
	}
	require.ErrorIs(t, got, want)
	require.EqualError(t, got, want.Error())
}

func TestDefinition_RunReturnsTheHandlersError(t *testing.T) {
	t.Parallel()
	for _, want := range []error{nil, io.EOF, jobs.Permanent(io.EOF), context.Canceled, context.DeadlineExceeded} {
		d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error { return want }}
		requireError(t, want, d.Run(t.Context(), &jobs.Job{}, quiet))
	}
}

func TestDefinition_RunTimesOut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule    string
		handler func(context.Context) error
		want    string
	}{
		{"the context's error", func(ctx context.Context) error { return ctx.Err() }, `jobs: "a.b" timed out after 1m0s: context deadline exceeded`},
		{"the context's cause", context.Cause, `jobs: "a.b" timed out after 1m0s: context deadline exceeded`},
		{
			"the handler's text is kept", func(ctx context.Context) error { return fmt.Errorf("loading page 7: %w", ctx.Err()) },
			`jobs: "a.b" timed out after 1m0s: loading page 7: context deadline exceeded`,
		},
		{
			"the cause, wrapped by the handler", func(ctx context.Context) error { return fmt.Errorf("loading page 7: %w", context.Cause(ctx)) },
			`loading page 7: jobs: "a.b" timed out after 1m0s: context deadline exceeded`,
		},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				d := provider.Definition{Name: "a.b", Timeout: time.Minute, Handler: func(ctx context.Context, _ *jobs.Job) error {
					<-ctx.Done()
					return test.handler(ctx)
				}}
				err := d.Run(t.Context(), &jobs.Job{}, quiet)
				require.Equal(t, time.Minute, time.Since(started))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.EqualError(t, err, test.want)
			})
		})
	}
}

func TestDefinition_RunKeepsPermanentAndRetryAfterOnTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		run := func(mark func(error) error) (time.Duration, bool) {
			d := provider.Definition{Name: "a.b", Timeout: time.Minute, RetryDelay: time.Second, Handler: func(ctx context.Context, _ *jobs.Job) error {
				<-ctx.Done()
				return mark(ctx.Err())
			}}
			job := &jobs.Job{Attempt: 1, MaxAttempts: 3}
			return d.Retry(job, d.Run(t.Context(), job, quiet))
		}
		delay, again := run(func(err error) error { return err })
		require.True(t, again)
		require.InDelta(t, time.Second, delay, float64(100*time.Millisecond)+1)

		_, again = run(jobs.Permanent)
		require.False(t, again)

		delay, again = run(func(err error) error { return jobs.RetryAfter(time.Hour, err) })
		require.True(t, again)
		require.Equal(t, time.Hour, delay)
	})
}

func TestDefinition_RunReportsNoTimeoutWithoutOne(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule    string
		parent  time.Duration // 0 means that the caller never cancels
		handler func(context.Context) error
		want    error
	}{
		{"success despite the timeout", 0, func(ctx context.Context) error { <-ctx.Done(); return nil }, nil},
		{"another error after the timeout", 0, func(ctx context.Context) error { <-ctx.Done(); return io.EOF }, io.EOF},
		{"the caller's deadline", time.Second, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, context.DeadlineExceeded},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.parent > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.parent)
					defer cancel()
				}
				d := provider.Definition{Timeout: time.Minute, Handler: func(ctx context.Context, _ *jobs.Job) error { return test.handler(ctx) }}
				requireError(t, test.want, d.Run(ctx, &jobs.Job{}, quiet))
			})
		})
	}
}

func TestDefinition_RunEndsTheHandlersContextWithTheCallers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	d := provider.Definition{Timeout: time.Minute, Handler: func(ctx context.Context, _ *jobs.Job) error {
		cancel(io.ErrClosedPipe)
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	requireError(t, io.ErrClosedPipe, d.Run(ctx, &jobs.Job{}, quiet))
}

//go:noinline
func panicsItself() { panic("boom") }

//go:noinline
func indexesBeyond(list []int) int { return list[len(list)] }

//go:noinline
func readsNil(job *jobs.Job) string { return job.Name }

//go:noinline
func writesNilMap(m map[string]int) { m["x"] = 1 }

//go:noinline
func divides(by int) int { return 1 / by }

//go:noinline
func asserts(v any) string { return v.(string) }

//go:noinline
func panicsWhenDeferred() { defer panicsItself() }

//go:noinline
func panicsAgain() {
	defer func() {
		panic(fmt.Sprint("again: ", recover()))
	}()
	panicsItself()
}

func TestDefinition_RunTurnsAPanicIntoAnErrorWithItsStack(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule, function, message string
		handler                 func()
	}{
		{"panic", "panicsItself", "panic: boom", panicsItself},
		{"panic with an error", "TestDefinition_RunTurnsAPanic", "panic: EOF", func() { panic(io.EOF) }},
		{"panic with nil", "TestDefinition_RunTurnsAPanic", "panic: panic called with nil argument", func() { panic(nil) }},
		{"index out of range", "indexesBeyond", "panic: runtime error: index out of range [0] with length 0", func() { indexesBeyond(nil) }},
		{"nil pointer", "readsNil", "panic: runtime error: invalid memory address", func() { readsNil(nil) }},
		{"nil map", "writesNilMap", "panic: assignment to entry in nil map", func() { writesNilMap(nil) }},
		{"division by zero", "divides", "panic: runtime error: integer divide by zero", func() { _ = divides(0) }},
		{"type assertion", "asserts", "panic: interface conversion: interface {} is int, not string", func() { asserts(1) }},
		{"panic in a deferred function", "panicsItself", "panic: boom", panicsWhenDeferred},
		{"panic while recovering", "panicsAgain", "panic: again: boom", panicsAgain},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error { test.handler(); return nil }}
			err := d.Run(t.Context(), &jobs.Job{}, quiet)
			var panicked *jobs.PanicError
			require.ErrorAs(t, err, &panicked)
			require.ErrorContains(t, err, test.message)
			require.NotContains(t, err.Error(), "definition_test.go", "the stack is not part of the message")
			first, second, _ := strings.Cut(panicked.Stack, "\n")
			require.Contains(t, first, "provider_test."+test.function)
			require.Regexp(t, `^\t.*definition_test\.go:\d+\n`, second)
			require.NotContains(t, panicked.Stack, "jobs.(*Definition).Run", "callers of the handler are omitted")
		})
	}
}

func TestDefinition_RunKeepsTheValueOfAPanic(t *testing.T) {
	t.Parallel()
	d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error { panic(io.EOF) }}
	var panicked *jobs.PanicError
	require.ErrorAs(t, d.Run(t.Context(), &jobs.Job{}, quiet), &panicked)
	require.Equal(t, io.EOF, panicked.Value)
}

func TestDefinition_RunTruncatesADeepStack(t *testing.T) {
	t.Parallel()
	var dive func(int)
	dive = func(n int) {
		if n == 0 {
			panicsItself()
		}
		dive(n - 1)
	}
	d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error { dive(10_000); return nil }}
	var panicked *jobs.PanicError
	require.ErrorAs(t, d.Run(t.Context(), &jobs.Job{}, quiet), &panicked)
	require.True(t, strings.HasPrefix(panicked.Stack, "github.com/everytick/everytick/jobs/provider_test.panicsItself\n"))
	require.LessOrEqual(t, strings.Count(panicked.Stack, "\n"), 2*64)
}

// A handler exits its goroutine if a test fails in it, which must not exit the provider's.
func TestDefinition_RunTurnsGoexitIntoAnError(t *testing.T) {
	t.Parallel()
	d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error { runtime.Goexit(); return nil }}
	require.ErrorContains(t, d.Run(t.Context(), &jobs.Job{}, quiet), "runtime.Goexit")
}

func TestDefinition_RunGivesTheHandlerACopyOfTheJob(t *testing.T) {
	t.Parallel()
	d := provider.Definition{Timeout: time.Minute, Handler: func(_ context.Context, job *jobs.Job) error {
		job.Attempt, job.MaxAttempts = 7, 7
		return nil
	}}
	job := &jobs.Job{Attempt: 1, MaxAttempts: 3}
	require.NoError(t, d.Run(t.Context(), job, quiet))
	require.Equal(t, 1, job.Attempt)
}

func TestDefinition_Skip(t *testing.T) {
	t.Parallel()
	due := at(t, "2025-01-01T03:00:00Z")
	for _, test := range []struct {
		rule        string
		within      time.Duration
		overlap     jobs.OverlapPolicy
		attempt     int
		late        time.Duration
		overlapping bool
		triggered   bool
		want        string
	}{
		{"no limit", 0, jobs.OverlapAllow, 1, 100 * time.Hour, false, false, ""},
		{"within the limit", time.Minute, jobs.OverlapAllow, 1, 59 * time.Second, false, false, ""},
		{"at the limit", time.Minute, jobs.OverlapAllow, 1, time.Minute, false, false, ""},
		{"beyond the limit", time.Minute, jobs.OverlapAllow, 1, time.Minute + time.Millisecond, false, false, "skipped: 1m0.001s late, StartWithin is 1m0s"},
		{"beyond the limit when triggered", time.Minute, jobs.OverlapAllow, 1, time.Hour, false, true, "skipped: 1h0m0s late, StartWithin is 1m0s"},
		{"early, because a clock is behind", time.Minute, jobs.OverlapAllow, 1, -time.Hour, false, false, ""},
		{"a retry is not late", time.Minute, jobs.OverlapAllow, 2, time.Hour, false, false, ""},
		{"an allowed overlap", 0, jobs.OverlapAllow, 1, 0, true, false, ""},
		{"an overlap that is skipped", 0, jobs.OverlapSkip, 1, 0, true, false, "skipped: another run of this job is in progress"},
		{"a retry is not skipped for an overlap", 0, jobs.OverlapSkip, 2, 0, true, false, ""},
		{"no overlap", 0, jobs.OverlapSkip, 1, 0, false, false, ""},
		{"a triggered job is not skipped for an overlap", 0, jobs.OverlapSkip, 1, 0, true, true, ""},
		{"lateness is reported before an overlap", time.Minute, jobs.OverlapSkip, 1, time.Hour, true, false, "skipped: 1h0m0s late, StartWithin is 1m0s"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			d := provider.Definition{StartWithin: test.within, Overlap: test.overlap}
			job := &jobs.Job{Attempt: test.attempt, StartedAt: due.Add(test.late)}
			if !test.triggered {
				job.Tick = due
			}
			require.Equal(t, test.want, d.Skip(job, due, test.overlapping))
			job.Snoozes = 1
			require.Empty(t, d.Skip(job, due, test.overlapping), "a run that was snoozed is not skipped")
		})
	}
}

func TestDefinition_Describe(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		d              provider.Definition
		schedule, zone string
	}{
		{provider.Definition{}, "on demand", ""},
		{provider.Definition{Delay: 2 * time.Second}, "after 2s", ""},
		{provider.Definition{Schedule: every(t, 5*time.Minute)}, "every 5m0s", ""},
		{provider.Definition{Schedule: cron(t, "0 3 * * *", "UTC")}, "0 3 * * *", "UTC"},
		{provider.Definition{Schedule: cron(t, "@daily", "Europe/Berlin")}, "@daily", "Europe/Berlin"},
		{provider.Definition{Schedule: oneTick{}}, "once", ""},
	} {
		schedule, zone := test.d.Describe()
		require.Equal(t, test.schedule, schedule)
		require.Equal(t, test.zone, zone)
	}
}
