package jobstest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
	"github.com/everytick/everytick/jobs/providertest"
)

func TestRecorder_PassesTheConformanceSuite(t *testing.T) {
	t.Parallel()
	providertest.Run(t, providertest.Harness{
		Bubble: true,
		New: func(t testing.TB, cfg providertest.Config) jobs.Scheduler {
			s, err := memory.New(&memory.Config{Logger: cfg.Logger, Defaults: cfg.Defaults})
			require.NoError(t, err)
			return jobstest.Record(s)
		},
	})
}

func newRecorder(t *testing.T) *jobstest.Recorder {
	t.Helper()
	s, err := memory.New(nil)
	require.NoError(t, err)
	rec := jobstest.Record(s)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = rec.Shutdown(ctx)
	})
	return rec
}

func TestRecorder_TriggerAndWaitReturnsTheFinalOutcome(t *testing.T) {
	t.Parallel()
	errAgain := errors.New("again")
	for name, tt := range map[string]struct {
		result   func(*jobs.Job) error
		attempts int
		err      string
	}{
		"done":               {func(*jobs.Job) error { return nil }, 1, ""},
		"done after retries": {func(job *jobs.Job) error { return map[bool]error{true: errAgain}[job.Attempt < 3] }, 3, ""},
		"failed":             {func(*jobs.Job) error { return errAgain }, 3, "again"},
		"failed for good":    {func(*jobs.Job) error { return jobs.Permanent(errAgain) }, 1, "again"},
		"failed with wait":   {func(*jobs.Job) error { return jobs.RetryAfter(time.Second, errAgain) }, 3, "again"},
		"panicked":           {func(*jobs.Job) error { panic("oh") }, 3, "panic: oh"},
		"Goexit":             {func(*jobs.Job) error { runtime.Goexit(); return nil }, 3, "Goexit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rec := newRecorder(t)
				require.NoError(t, rec.RegisterDelayed("test.job", 0, func(_ context.Context, job *jobs.Job) error {
					return tt.result(job)
				}))
				require.NoError(t, rec.Start(t.Context()))
				outcome := rec.TriggerAndWait(t, "test.job", map[string]int{"n": 1})
				require.Equal(t, tt.attempts, outcome.Attempts)
				require.Equal(t, tt.attempts, outcome.Job.Attempt)
				require.JSONEq(t, `{"n": 1}`, string(outcome.Job.Data))
				if tt.err == "" {
					require.NoError(t, outcome.Err)
				} else {
					require.ErrorContains(t, outcome.Err, tt.err)
				}
				require.Equal(t, []jobstest.Outcome{outcome}, rec.Outcomes("test.job"))
				require.Empty(t, rec.Outcomes("test.other"))
			})
		})
	}
}

func TestRecorder_ListsSnoozesBesideOutcomes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		rec.Wait = 4 * time.Hour
		require.NoError(t, rec.RegisterDelayed("a.job", 0, func(_ context.Context, job *jobs.Job) error {
			if job.Snoozes < 2 {
				return jobs.Snooze(time.Duration(job.Snoozes+1)*time.Hour, "not yet")
			}
			return nil
		}))
		require.NoError(t, rec.RegisterDelayed("b.job", 0, func(context.Context, *jobs.Job) error { return nil }))
		require.NoError(t, rec.Start(t.Context()))
		outcome := rec.TriggerAndWait(t, "a.job", nil)
		require.NoError(t, outcome.Err)
		require.Equal(t, 1, outcome.Attempts)
		snoozes := rec.Snoozes("a.job")
		require.Len(t, snoozes, 2)
		for i, snooze := range snoozes {
			require.Equal(t, outcome.Job.ID, snooze.Job.ID)
			require.Equal(t, i, snooze.Job.Snoozes)
			require.Equal(t, time.Duration(i+1)*time.Hour, snooze.After)
			require.Equal(t, "not yet", snooze.Reason)
		}
		require.Len(t, rec.Outcomes("a.job"), 1)
		require.NoError(t, rec.TriggerAndWait(t, "b.job", nil).Err)
		require.Empty(t, rec.Snoozes("b.job"))
	})
}

func TestRecorder_AnInterruptedAttemptIsNotAnOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		calls := 0
		require.NoError(t, rec.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
			if calls++; calls > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, jobs.MaxRetries(0)))
		require.NoError(t, rec.Start(t.Context()))
		id, err := rec.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, rec.Shutdown(ctx), context.DeadlineExceeded)
		require.Empty(t, rec.Outcomes("test.job"))
		require.NoError(t, rec.Start(t.Context()))
		outcome := rec.Await(t, id)
		require.NoError(t, outcome.Err)
		require.Equal(t, 1, outcome.Attempts)
	})
}

func TestRecorder_ATimeoutIsAnOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		require.NoError(t, rec.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
			<-ctx.Done()
			return ctx.Err()
		}, jobs.MaxRetries(1), jobs.Timeout(10*time.Minute)))
		require.NoError(t, rec.Start(t.Context()))
		rec.Wait = time.Hour
		outcome := rec.TriggerAndWait(t, "test.job", nil)
		require.ErrorIs(t, outcome.Err, context.DeadlineExceeded)
		require.Equal(t, 2, outcome.Attempts)
	})
}

func TestRecorder_OutcomeHasTheErrorOfTheMiddleware(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { panic("the secret") },
			jobs.Redact(func(string) string { return "redacted" }),
			jobs.Use(func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error { return jobs.Permanent(next(ctx, job)) }
			})))
		require.NoError(t, rec.Start(t.Context()))
		outcome := rec.TriggerAndWait(t, "test.job", nil)
		require.ErrorAs(t, outcome.Err, new(*jobs.PanicError))
		require.ErrorContains(t, outcome.Err, "redacted")
		require.NotContains(t, outcome.Err.Error(), "secret")
		require.Equal(t, 1, outcome.Attempts)
	})
}

func TestRecorder_AsFindsRolesOfTheWrappedScheduler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		rec.Wait = time.Minute
		require.NoError(t, rec.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		require.NoError(t, rec.Start(t.Context()))
		id, err := rec.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		canceller, ok := jobs.As[jobs.Canceller](rec)
		require.True(t, ok, "a role of the wrapped scheduler")
		require.NoError(t, canceller.Cancel(t.Context(), "test.job", id))
		failures := failing(t, func(t testing.TB) { rec.Await(t, id) })
		require.Contains(t, failures[0], "attempt 1 was interrupted or cancelled")
	})
}

func TestRecorder_TicksHaveOutcomes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		require.NoError(t, rec.RegisterCron("test.cron", "0 3 * * *", func(context.Context, *jobs.Job) error { return nil }))
		require.NoError(t, rec.RegisterInterval("test.tick", 12*time.Hour, func(context.Context, *jobs.Job) error { return nil }))
		require.NoError(t, rec.Start(t.Context()))
		time.Sleep(48*time.Hour + time.Second)
		require.Len(t, rec.Outcomes("test.cron"), 2)
		require.Len(t, rec.Outcomes("test.tick"), 4)
		require.Equal(t, 3, rec.Outcomes("test.cron")[1].Job.Tick.Hour())
		rec.RequireNotEnqueued(t, "test.tick")
	})
}

func TestRecorder_AwaitReportsWhyThereIsNoOutcome(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		start bool
		call  func(t testing.TB, rec *jobstest.Recorder)
		want  string
	}{
		"not started": {false, func(t testing.TB, rec *jobstest.Recorder) { rec.TriggerAndWait(t, "test.fails", nil) }, "is not started"},
		"unknown job": {true, func(t testing.TB, rec *jobstest.Recorder) { rec.TriggerAndWait(t, "test.unknown", nil) }, "unknown job"},
		"retrying": {
			true, func(t testing.TB, rec *jobstest.Recorder) { rec.TriggerAndWait(t, "test.fails", nil) },
			"no outcome of job memory-1 within 1m0s: attempt 1 of 3 failed: again",
		},
		"delayed": {true, func(t testing.TB, rec *jobstest.Recorder) {
			rec.TriggerAndWait(t, "test.fails", nil, jobs.Delay(time.Hour))
		}, "no attempt has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rec := newRecorder(t)
				require.NoError(t, rec.RegisterDelayed("test.fails", 0, func(context.Context, *jobs.Job) error {
					return jobs.RetryAfter(time.Hour, errors.New("again"))
				}))
				if tt.start {
					require.NoError(t, rec.Start(t.Context()))
				}
				failures := failing(t, func(t testing.TB) { tt.call(t, rec) })
				require.Contains(t, failures[0], tt.want)
			})
		})
	}
}

func TestRecorder_RequireEnqueuedFindsTriggeredJobs(t *testing.T) {
	t.Parallel()
	rec := newRecorder(t)
	ctx := t.Context()
	require.NoError(t, rec.RegisterDelayed("test.job", time.Hour, func(context.Context, *jobs.Job) error { return nil }))
	type args struct {
		User int      `json:"user"`
		Tags []string `json:"tags"`
	}
	at := time.Now().Add(time.Hour).UTC()
	first, err := rec.Trigger(ctx, "test.job", args{7, []string{"<a>"}}, jobs.Unique("key"), jobs.Priority(2))
	require.NoError(t, err)
	again, err := rec.Trigger(ctx, "test.job", args{8, nil}, jobs.Unique("key"))
	require.NoError(t, err)
	require.Equal(t, first, again)
	many, err := rec.TriggerMany(ctx, "test.job", []any{args{9, nil}, nil}, jobs.At(at))
	require.NoError(t, err)
	_, err = rec.Trigger(ctx, "test.job", "not an object")
	require.ErrorIs(t, err, jobs.ErrInvalidData)

	require.Len(t, rec.Enqueued("test.job"), 3, "a unique job that was found, and a refused one, are not recorded")
	require.Equal(t, jobstest.Enqueued{
		ID: first, Name: "test.job", Data: []byte(`{"user":7,"tags":["\u003ca\u003e"]}`), Unique: "key", Priority: 2,
	}, rec.RequireEnqueued(t, "test.job"))
	found := rec.RequireEnqueued(t, "test.job", jobstest.Data(map[string]any{"tags": nil, "user": 9.0}))
	require.Equal(t, many[0], found.ID)
	require.True(t, at.Equal(found.At), found.At)
	require.Equal(t, first, rec.RequireEnqueued(t, "test.job", jobstest.DataWith("user", 7), jobstest.DataWith("tags", []string{"<a>"})).ID)
	require.Equal(t, many[1], rec.RequireEnqueued(t, "test.job", func(e jobstest.Enqueued) bool { return string(e.Data) == "{}" }).ID)
	rec.RequireNotEnqueued(t, "test.other")
	rec.RequireNotEnqueued(t, "test.job", jobstest.DataWith("user", 8))
	rec.RequireNotEnqueued(t, "test.job", jobstest.DataWith("user", 9), jobstest.DataWith("tags", []string{}))

	require.Contains(t, failing(t, func(t testing.TB) { rec.RequireEnqueued(t, "test.job", jobstest.DataWith("user", 8)) })[0], first)
	require.Contains(t, failing(t, func(t testing.TB) { rec.RequireEnqueued(t, "test.other") })[0], "triggers of this job: none")
	require.Contains(t, failing(t, func(t testing.TB) { rec.RequireNotEnqueued(t, "test.job", jobstest.DataWith("user", 9)) })[0], many[0])
}

func TestRecorder_TriggerTxNeedsTheRole(t *testing.T) {
	t.Parallel()
	s, err := memory.New(nil)
	require.NoError(t, err)
	rec := jobstest.Record(struct{ jobs.Scheduler }{s})
	require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	_, err = jobs.TriggerTx(t.Context(), rec, new(memory.Tx), "test.job", nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	rec.RequireNotEnqueued(t, "test.job")
}

// failing returns the failures of f, which must fail its test.
func failing(t *testing.T, f func(testing.TB)) []string {
	t.Helper()
	c := &captured{TB: t}
	done := make(chan struct{})
	go func() { // a failure ends its goroutine
		defer close(done)
		f(c)
	}()
	<-done
	require.NotEmpty(t, c.failures, "f did not fail")
	return c.failures
}

// captured is a testing.TB that records failures instead of failing the test.
type captured struct {
	testing.TB
	failures []string
}

// Fatalf ends the goroutine, like that of a testing.T.
func (c *captured) Fatalf(format string, args ...any) {
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
	runtime.Goexit()
}
