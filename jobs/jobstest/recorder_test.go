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

func TestRecorder_RepeatRunsAHandlerThatSucceededOnceMore(t *testing.T) {
	t.Parallel()
	errAgain := errors.New("again")
	for _, test := range []struct {
		name     string
		result   func(call int) error
		retries  int
		attempts []int // of the calls
		outcome  int   // the number of attempts
		err      error
	}{
		{"succeeds twice", func(int) error { return nil }, 2, []int{1, 2}, 1, nil},
		{"fails the second time, as it is not idempotent", func(call int) error { return map[bool]error{true: errAgain}[call > 1] }, 2, []int{1, 2, 2, 3}, 3, errAgain},
		{"fails the second time, then succeeds", func(call int) error { return map[bool]error{true: errAgain}[call == 2] }, 2, []int{1, 2, 2, 3}, 2, nil},
		{"fails at first", func(call int) error { return map[bool]error{true: errAgain}[call == 1] }, 2, []int{1, 2, 3}, 2, nil},
		{"is on its last attempt", func(call int) error { return map[bool]error{true: errAgain}[call == 1] }, 1, []int{1, 2}, 2, nil},
		{"has one attempt", func(int) error { return nil }, 0, []int{1}, 1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rec := newRecorder(t)
				rec.Repeat = true
				var calls []int
				ids := map[string]bool{}
				require.NoError(t, rec.RegisterDelayed("test.job", 0, func(_ context.Context, job *jobs.Job) error {
					require.JSONEq(t, `{"n": 1}`, string(job.Data))
					require.NotNil(t, job.Logger)
					job.Data[1] = 'x' // ends with the call
					calls = append(calls, job.Attempt)
					ids[job.ID] = true
					return test.result(len(calls))
				}, jobs.MaxRetries(test.retries)))
				require.NoError(t, rec.Start(t.Context()))
				outcome := rec.TriggerAndWait(t, "test.job", map[string]int{"n": 1})
				require.Equal(t, test.attempts, calls)
				require.Len(t, ids, 1)
				require.Equal(t, test.outcome, outcome.Attempts)
				require.ErrorIs(t, outcome.Err, test.err)
				require.Len(t, rec.Outcomes("test.job"), 1)
			})
		})
	}
}

func TestRecorder_RepeatDoesNotRepeatATransactionalJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		rec.Repeat = true
		calls := 0
		require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			calls++
			return nil
		}, jobs.Transactional()))
		require.NoError(t, rec.Start(t.Context()))
		require.NoError(t, rec.TriggerAndWait(t, "test.job", nil).Err)
		require.Equal(t, 1, calls)
	})
}

func TestRecorder_RepeatSurvivesAPanicOfTheSecondCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(t)
		rec.Repeat = true
		calls := 0
		require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			if calls++; calls == 2 {
				panic("a second row with the same key")
			}
			return nil
		}, jobs.MaxRetries(1)))
		require.NoError(t, rec.Start(t.Context()))
		outcome := rec.TriggerAndWait(t, "test.job", nil)
		require.NoError(t, outcome.Err)
		require.Equal(t, 2, outcome.Attempts)
		require.Equal(t, 3, calls)
	})
}

func TestOf_IsTheTypedViewOfAKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type mail struct{ To, Subject string }
		const send jobs.Kind[mail] = "test.send"
		rec := newRecorder(t)
		var sent []mail
		require.NoError(t, send.Register(rec, func(_ context.Context, _ *jobs.Job, m mail) error {
			sent = append(sent, m)
			return nil
		}))
		require.NoError(t, rec.RegisterDelayed("test.other", 0, func(context.Context, *jobs.Job) error { return nil }))
		require.NoError(t, rec.Start(t.Context()))
		typed := jobstest.Of(rec, send)
		to := func(name string) func(mail) bool { return func(m mail) bool { return m.To == name } }
		typed.RequireNotEnqueued(t)
		ann, bob := mail{"ann", "hi"}, mail{"bob", "hello"}
		require.NoError(t, typed.TriggerAndWait(t, ann, jobs.Delay(time.Second)).Err)
		require.NoError(t, typed.TriggerAndWait(t, bob).Err)
		_, err := rec.Trigger(t.Context(), "test.other", nil)
		require.NoError(t, err)
		require.Equal(t, []mail{ann, bob}, sent)
		require.Len(t, typed.Outcomes(), 2)
		require.Equal(t, []mail{ann, bob}, typed.Enqueued(t))
		require.Equal(t, []mail{bob}, typed.Enqueued(t, to("bob")))
		require.Equal(t, bob, typed.RequireEnqueued(t, to("bob"), func(m mail) bool { return m.Subject == "hello" }))
		typed.RequireNotEnqueued(t, to("eve"))
		typed.RequireNotEnqueued(t, to("bob"), func(m mail) bool { return m.Subject == "hi" })

		require.Contains(t, failing(t, func(t testing.TB) { typed.RequireEnqueued(t, to("eve")) })[0], `"To":"ann"`)
		require.Contains(t, failing(t, func(t testing.TB) { typed.RequireNotEnqueued(t, to("ann")) })[0], "{To:ann Subject:hi}")
		_, err = rec.Trigger(t.Context(), "test.send", map[string]int{"To": 7})
		require.NoError(t, err)
		require.Contains(t, failing(t, func(t testing.TB) { typed.Enqueued(t) })[0], "does not decode as jobstest_test.mail")
	})
}

func TestRecorder_RecordsWhatLatestReplaces(t *testing.T) {
	t.Parallel()
	rec := newRecorder(t)
	ctx := t.Context()
	require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	n := func(n int) map[string]int { return map[string]int{"n": n} }
	first, err := rec.Trigger(ctx, "test.job", n(1), jobs.Latest("key"), jobs.Delay(time.Minute))
	require.NoError(t, err)
	tx := new(memory.Tx)
	again, err := rec.TriggerTx(ctx, tx, "test.job", n(2), jobs.Latest("key"), jobs.Priority(3))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, []jobstest.Enqueued{{
		ID: first, Name: "test.job", Data: []byte(`{"n":2}`), Priority: 3,
		Unique: "key", UniqueMode: jobs.UniqueModeLatest, Tx: true,
	}}, rec.Enqueued("test.job"))
	require.NoError(t, tx.Commit(ctx))

	_, err = rec.Trigger(ctx, "test.job", n(3), jobs.UniqueWaiting("key"))
	require.NoError(t, err)
	require.Len(t, rec.Enqueued("test.job"), 1)
	rec.RequireNotEnqueued(t, "test.job", jobstest.DataWith("n", 3))
}

func TestRecorder_RecordsTriggerManyTx(t *testing.T) {
	t.Parallel()
	rec := newRecorder(t)
	require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	ids, err := jobs.TriggerManyTx(t.Context(), rec, new(memory.Tx), "test.job", []any{nil, map[string]int{"n": 2}})
	require.NoError(t, err)
	require.Equal(t, []jobstest.Enqueued{
		{ID: ids[0], Name: "test.job", Data: []byte(`{}`), Tx: true},
		{ID: ids[1], Name: "test.job", Data: []byte(`{"n":2}`), Tx: true},
	}, rec.Enqueued("test.job"))
}

func TestRecorder_RecordsTriggerBulk(t *testing.T) {
	t.Parallel()
	rec := newRecorder(t)
	require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	bulk, ok := jobs.As[jobs.BulkTriggerer](rec)
	require.True(t, ok)
	n, err := bulk.TriggerBulk(t.Context(), "test.job", []any{nil, map[string]int{"n": 2}}, jobs.Priority(2))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []jobstest.Enqueued{
		{Name: "test.job", Data: []byte(`{}`), Priority: 2}, {Name: "test.job", Data: []byte(`{"n":2}`), Priority: 2},
	}, rec.Enqueued("test.job"))
	_, err = bulk.TriggerBulk(t.Context(), "no.such", []any{nil})
	require.ErrorIs(t, err, jobs.ErrUnknownJob)
	require.Empty(t, rec.Enqueued("no.such"))
}

func TestRecorder_TriggerTxNeedsTheRole(t *testing.T) {
	t.Parallel()
	s, err := memory.New(nil)
	require.NoError(t, err)
	rec := jobstest.Record(struct{ jobs.Scheduler }{s})
	require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	_, err = jobs.TriggerTx(t.Context(), rec, new(memory.Tx), "test.job", nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = jobs.TriggerManyTx(t.Context(), rec, new(memory.Tx), "test.job", []any{nil})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = rec.TriggerBulk(t.Context(), "test.job", []any{nil})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	rec.RequireNotEnqueued(t, "test.job")
}

// failing returns the failures of f, which must fail its test.
func failing(t *testing.T, f func(testing.TB)) []string {
	t.Helper()
	failures := failuresOf(t, f)
	require.NotEmpty(t, failures, "f did not fail")
	return failures
}

// failuresOf returns the failures of f.
func failuresOf(t *testing.T, f func(testing.TB)) []string {
	t.Helper()
	c := &captured{TB: t}
	done := make(chan struct{})
	go func() { // a failure ends its goroutine
		defer close(done)
		f(c)
	}()
	<-done
	return c.failures
}

// captured is a testing.TB that records failures instead of failing the test.
type captured struct {
	testing.TB
	failures []string
}

// Errorf implements [testing.TB].
func (c *captured) Errorf(format string, args ...any) {
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
}

// Fatalf ends the goroutine, like that of a testing.T.
func (c *captured) Fatalf(format string, args ...any) {
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
	runtime.Goexit()
}
