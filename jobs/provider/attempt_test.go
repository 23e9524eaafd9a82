package provider_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// frozen returns a job of a frozen registry.
func frozen(t *testing.T, h jobs.Handler) (d *provider.Definition, thaw func()) {
	t.Helper()
	r, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, r.RegisterDelayed("test.job", 0, h))
	require.NoError(t, r.Freeze())
	d, err = r.Job("test.job")
	require.NoError(t, err)
	return d, r.Thaw
}

func TestDefinition_RunReturnsEachAttemptsOwnResult(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	failure := errors.New("of this attempt")
	d, thaw := frozen(t, func(_ context.Context, job *jobs.Job) error {
		calls.Add(1)
		switch job.Attempt % 4 {
		case 0:
			runtime.Goexit()
		case 1:
			panic(job.ID)
		case 2:
			return failure
		}
		return nil
	})
	var runs sync.WaitGroup
	for range 8 {
		runs.Go(func() {
			for n := range 500 {
				err := d.Run(t.Context(), &jobs.Job{Attempt: n, ID: "the job"}, quiet)
				switch n % 4 {
				case 0:
					require.ErrorContains(t, err, "runtime.Goexit")
				case 1:
					require.EqualError(t, err, "panic: the job")
				case 2:
					requireError(t, failure, err)
				case 3:
					require.NoError(t, err)
				}
			}
		})
	}
	runs.Wait()
	thaw()
	require.EqualValues(t, 8*500, calls.Load())
}

func TestDefinition_RunLogsAHandlerThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		longer time.Duration // than the timeout
		logged bool
	}{
		"longer than 10 s": {11 * time.Second, true},
		"less than 10 s":   {9 * time.Second, false},
		"not at all":       {-time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				failure := errors.New("of the handler")
				d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error {
					time.Sleep(time.Minute + test.longer)
					return failure
				}}
				err := d.Run(t.Context(), &jobs.Job{ID: "17"}, slog.New(slog.NewTextHandler(&log, nil)))
				requireError(t, failure, err)
				if !test.logged {
					require.Empty(t, log.String())
					return
				}
				require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
				require.Contains(t, log.String(), "handler still running after its context ended")
				require.Contains(t, log.String(), "timed out after 1m0s")
				require.Contains(t, log.String(), "job_id=17")
			})
		})
	}
}

// Errors of foreign code whose methods panic, some only after a number of calls.
type (
	isPanics     struct{ error }
	asPanics     struct{ error }
	unwrapPanics struct{ text string }
	manyPanic    struct{ text string }
	latePanics   struct{ left *atomic.Int64 } // calls
)

func (e isPanics) Is(target error) bool { return target.(isPanics) == e }
func (e asPanics) As(target any) bool   { *target.(*asPanics) = e; return true }
func (e unwrapPanics) Error() string    { return e.text }
func (e unwrapPanics) Unwrap() error    { panic("unwrap") }
func (e manyPanic) Error() string       { return e.text }
func (e manyPanic) Unwrap() []error     { panic("unwrap") }

func (e latePanics) Error() string {
	if e.left.Add(-1) < 0 {
		panic("called again")
	}
	return "of the handler"
}

func panicsAfter(calls int64) error {
	e := latePanics{new(atomic.Int64)}
	e.left.Store(calls)
	return e
}

func TestDefinition_RunReturnsASafeErrorIfItsMethodsPanic(t *testing.T) {
	t.Parallel()
	failure := errors.New("of the handler")
	for name, test := range map[string]struct {
		err  error
		text string
	}{
		"Is":                       {isPanics{failure}, "of the handler"},
		"As":                       {asPanics{failure}, "of the handler"},
		"Unwrap":                   {unwrapPanics{"of the handler"}, "of the handler"},
		"Unwrap of several":        {manyPanic{"of the handler"}, "of the handler"},
		"wrapped":                  {fmt.Errorf("wrapped: %w", isPanics{failure}), "wrapped: of the handler"},
		"in RetryAfter":            {jobs.RetryAfter(time.Hour, asPanics{failure}), "of the handler (retry after 1h0m0s)"},
		"Error in the second call": {panicsAfter(1), "panic: called again"},
		"Error in the third call":  {panicsAfter(2), "the error's Error method panicked: called again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log strings.Builder
			r, err := provider.NewRegistry()
			require.NoError(t, err)
			require.NoError(t, r.RegisterDelayed("test.job", 0, failing(test.err), jobs.Use(func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error {
					err := next(ctx, job)
					require.True(t, job.Retries(err), "in middleware")
					require.Equal(t, "retried", job.Outcome(ctx, err), "in middleware")
					return err
				}
			}), jobs.RetryDelay(time.Hour)))
			d, err := r.Job("test.job")
			require.NoError(t, err)
			job := &jobs.Job{Attempt: 1, MaxAttempts: 2}
			err = d.Run(t.Context(), job, quiet)
			delay, again := d.Retry(job, err)
			require.True(t, again)
			require.InDelta(t, time.Hour, delay, float64(6*time.Minute)+1)
			slog.New(slog.NewTextHandler(&log, nil)).Error("failed", "error", err)
			require.EqualError(t, err, test.text)
			require.Contains(t, log.String(), test.text)
			require.NotErrorIs(t, err, context.Canceled)
			require.NotErrorAs(t, err, new(*os.PathError))
			require.NotPanics(t, func() { _ = fmt.Sprintf("%v %+v %s %d", err, err, err, err) })
		})
	}
}

func TestDefinition_RunKeepsPermanentIfTheErrorsMethodsPanic(t *testing.T) {
	t.Parallel()
	for _, err := range []error{jobs.Permanent(asPanics{errors.New("x")}), jobs.Permanent(isPanics{errors.New("x")})} {
		d := &provider.Definition{Name: "a.b", Timeout: time.Minute, Handler: failing(err)}
		job := &jobs.Job{Attempt: 1, MaxAttempts: 2}
		_, again := d.Retry(job, d.Run(t.Context(), job, quiet))
		require.False(t, again)
	}
}

func TestRun_TheTextOfAnErrorCanBeStored(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want string }{
		{"plain", "größe 👩‍👩‍👧", "größe 👩‍👩‍👧"},
		{"invalid UTF-8", "a\xffb\xc3", "a\ufffdb\ufffd"},
		{"U+0000", "a\x00b", `a\x00b`},
		{"as long as is allowed", strings.Repeat("x", 8<<10), strings.Repeat("x", 8<<10)},
		{"too long", strings.Repeat("x", 1<<20), strings.Repeat("x", 8<<10) + "… (1048576 bytes)"},
		{"cut within a character", "x" + strings.Repeat("ö", 4<<10), "x" + strings.Repeat("ö", 4<<10-1) + "\ufffd… (8193 bytes)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			failed := errors.New(test.text)
			d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error { return failed }}
			err := d.Run(t.Context(), &jobs.Job{}, quiet)
			require.ErrorIs(t, err, failed)
			require.EqualError(t, err, test.want)
		})
	}
}
