package memory_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
	"github.com/everytick/everytick/jobs/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fakeDB struct{ jobs.DB }

func (*fakeDB) Begin(context.Context) (pgx.Tx, error) { return new(memory.Tx), nil }

func TestScheduler_Conformance(t *testing.T) {
	t.Parallel()
	db := new(fakeDB)
	providertest.Run(t, providertest.Harness{
		Bubble: true,
		DB:     func(jobs.Scheduler) jobs.DB { return db },
		New: func(t testing.TB, cfg providertest.Config) jobs.Scheduler {
			s, err := memory.New(&memory.Config{Logger: cfg.Logger, DB: db, Defaults: cfg.Defaults})
			require.NoError(t, err)
			return s
		},
	})
}

func TestNew_RefusesAConfigOutOfRange(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]*memory.Config{
		"MaxWorkers":        {MaxWorkers: -1},
		"memory: Retention": {Retention: -1},
		"FailedRetention":   {FailedRetention: -1},
		"MaxRetries":        {Defaults: []jobs.Option{jobs.MaxRetries(-1)}},
	} {
		_, err := memory.New(cfg)
		require.ErrorContains(t, err, "memory: ")
		require.ErrorContains(t, err, want)
	}
	_, err := memory.New(nil)
	require.NoError(t, err)
}

// bubble runs a test in a synctest bubble with a started scheduler and its log.
func bubble(t *testing.T, cfg memory.Config, register func(*memory.Scheduler) error, test func(t *testing.T, s *memory.Scheduler, log func() string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var buf lockedBuffer
		cfg.Logger = slog.New(slog.NewTextHandler(&buf, nil))
		s, err := memory.New(&cfg)
		require.NoError(t, err)
		require.NoError(t, register(s))
		require.NoError(t, s.Start(t.Context()))
		t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
		test(t, s, buf.String)
	})
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func done(context.Context, *jobs.Job) error { return nil }

func TestScheduler_MaxWorkersLimitsJobsWithoutConcurrency(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{MaxWorkers: 3}, func(s *memory.Scheduler) error {
		wait := func(context.Context, *jobs.Job) error {
			time.Sleep(time.Second)
			return nil
		}
		return errors.Join(
			s.RegisterDelayed("test.one", 0, wait),
			s.RegisterDelayed("test.two", 0, wait),
			s.RegisterDelayed("test.own", 0, wait, jobs.Concurrency(2)),
		)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		for range 3 {
			for _, name := range []string{"test.one", "test.two", "test.own"} {
				_, err := s.Trigger(t.Context(), name, nil)
				require.NoError(t, err)
			}
		}
		synctest.Wait()
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[jobs.State]jobs.Count{jobs.StateRunning: {N: 5}, jobs.StateWaiting: {N: 4}}, h.Totals)
	})
}

// run returns the run with the given ID, nil if there is none.
func run(t *testing.T, s *memory.Scheduler, name, id string) *jobs.Run {
	t.Helper()
	all, err := s.Runs(t.Context(), name, 1000)
	require.NoError(t, err)
	for i := range all {
		if all[i].ID == id {
			return &all[i]
		}
	}
	return nil
}

func TestRuns_KeepsRunsUntilRetentionEnds(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{Retention: time.Hour}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(_ context.Context, job *jobs.Job) error {
			if job.Attempt == 1 {
				return errors.New("not this time")
			}
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		start := time.Now().UTC()
		id, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		delay := time.Duration(float64(5*time.Second) * provider.Jitter(id, 1)).Round(time.Millisecond)
		second := start.Add(delay)
		require.Equal(t, &jobs.Run{
			ID: id, Name: "test.job", State: jobs.StateCompleted, Attempt: 2, MaxAttempts: 3,
			CreatedAt: start, DueAt: second, StartedAt: second, EndedAt: second, Error: "not this time", Process: "memory-process-1", Data: []byte("{}"),
		}, run(t, s, "test.job", id))
		a, err := s.Activity(t.Context(), time.Minute, 70)
		require.NoError(t, err)
		require.Equal(t, time.Now().UTC().Add(-time.Hour), a.CompleteSince, "older runs are deleted")
		time.Sleep(time.Hour - time.Minute + delay - 1)
		require.NotNil(t, run(t, s, "test.job", id))
		time.Sleep(time.Nanosecond)
		require.Nil(t, run(t, s, "test.job", id))
		require.ErrorIs(t, s.Retry(t.Context(), "test.job", id), jobs.ErrUnknownID)
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Empty(t, h.Totals)
	})
}

func TestScheduler_SkipIsRecordedAndLogged(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			time.Sleep(time.Minute)
			return nil
		}, jobs.Concurrency(1), jobs.StartWithin(time.Second))
	}, func(t *testing.T, s *memory.Scheduler, log func() string) {
		ids, err := s.TriggerMany(t.Context(), "test.job", []any{nil, nil})
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		skipped := run(t, s, "test.job", ids[1])
		require.Equal(t, jobs.StateSkipped, skipped.State)
		require.Equal(t, "skipped: 1m0s late, StartWithin is 1s", skipped.Error)
		require.Zero(t, skipped.Attempt)
		require.Zero(t, skipped.StartedAt)
		require.Contains(t, log(), skipped.Error)

		require.NoError(t, s.Retry(t.Context(), "test.job", ids[1]))
		time.Sleep(2 * time.Minute)
		again := run(t, s, "test.job", ids[1])
		require.Equal(t, jobs.StateCompleted, again.State)
		require.Equal(t, 1, again.Attempt)
		require.Empty(t, again.Error)
	})
}

func TestPause_SkipIsLoggedAtInfo(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Minute, func(context.Context, *jobs.Job) error { return nil })
	}, func(t *testing.T, s *memory.Scheduler, log func() string) {
		require.NoError(t, s.Pause(t.Context(), "test.tick"))
		time.Sleep(2 * time.Minute)
		require.Regexp(t, `level=INFO msg="memory: job skipped" .*reason="skipped: the job is paused"`, log())
	})
}

func TestScheduler_MissedTicksAreCountedAndLogged(t *testing.T) {
	t.Parallel()
	for policy, want := range map[jobs.CatchUpPolicy]struct {
		log   string
		ticks []int
	}{
		// The scheduler is stopped from 00:30 to 20:30 and misses the ticks from 01:00 to 20:00.
		jobs.CatchUpOnce: {"tick=2000-01-01T20:00:00.000Z missed=19", []int{20, 21}},
		jobs.CatchUpAll:  {"tick=2000-01-01T09:00:00.000Z missed=8", []int{9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}}, // those from 01:00 to 08:00 are over 12 h old
	} {
		var ticks, missed []int
		bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
			return s.RegisterInterval("test.tick", time.Hour, func(_ context.Context, job *jobs.Job) error {
				ticks, missed = append(ticks, job.Tick.Hour()), append(missed, job.Missed)
				return nil
			}, jobs.CatchUp(policy), jobs.Concurrency(1))
		}, func(t *testing.T, s *memory.Scheduler, log func() string) {
			time.Sleep(30 * time.Minute)
			require.NoError(t, s.Shutdown(t.Context()))
			time.Sleep(20 * time.Hour)
			require.NoError(t, s.Start(t.Context()))
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Contains(t, log(), want.log)
			require.Equal(t, want.ticks, ticks)
			require.Positive(t, missed[0])
			require.Equal(t, make([]int, len(missed)-1), missed[1:])
		})
	}
}

func TestScheduler_PanicIsLoggedWithStackWithoutData(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { panic("oh") }, jobs.MaxRetries(0))
	}, func(t *testing.T, s *memory.Scheduler, log func() string) {
		_, err := s.Trigger(t.Context(), "test.job", map[string]string{"password": "secret"})
		require.NoError(t, err)
		synctest.Wait()
		require.Contains(t, log(), "panic: oh")
		require.Contains(t, log(), "memory_test.go")
		require.NotContains(t, log(), "secret")
	})
}

func TestScheduler_GoexitFailsTheAttempt(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			runtime.Goexit()
			return nil
		}, jobs.Concurrency(1))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		id, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		failed := run(t, s, "test.job", id)
		require.Equal(t, jobs.StateFailed, failed.State)
		require.Equal(t, 3, failed.Attempt)
		require.Contains(t, failed.Error, "Goexit")
	})
}

func TestShutdown_WaitsFiveSecondsForHandlersThatIgnoreTheirContext(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			if calls.Add(1) > 2 {
				return nil
			}
			time.Sleep(time.Minute)
			return errors.New("at last")
		}, jobs.MaxRetries(0))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		_, err := s.TriggerMany(t.Context(), "test.job", []any{nil, nil})
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err = s.Shutdown(ctx)
		require.Equal(t, 6*time.Second, time.Since(start))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "2 handlers")

		// The runs still count as interrupted: they wait for the next start.
		require.NoError(t, s.Start(t.Context()))
		st, err := s.Jobs(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, st[0].Running)
		require.NoError(t, s.Shutdown(t.Context()), "a soft stop waits for handlers of the last session")
		require.Equal(t, time.Minute, time.Since(start).Round(time.Second))
		n, err := s.QueueSize(t.Context(), "test.job")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		require.EqualValues(t, 4, calls.Load())
	})
}

func TestShutdown_LeavesNoGoroutine(t *testing.T) { //nolint:paralleltest // it counts goroutines
	s, err := memory.New(nil)
	require.NoError(t, err)
	before := goleak.IgnoreCurrent()
	require.NoError(t, s.RegisterInterval("test.tick", time.Second, done))
	require.NoError(t, s.RegisterDelayed("test.job", 0, done))
	_, err = s.Trigger(t.Context(), "test.job", nil)
	require.NoError(t, err)
	goleak.VerifyNone(t, before) // none before Start
	for range 3 {
		require.NoError(t, s.Start(t.Context()))
		_, err = s.TriggerMany(t.Context(), "test.job", make([]any, 10))
		require.NoError(t, err)
		require.NoError(t, s.Shutdown(t.Context()))
		goleak.VerifyNone(t, before)
	}
}

// In real time, every accepted job runs exactly once.
func TestScheduler_StartAndShutdownUnderLoadLoseNoJob(t *testing.T) {
	t.Parallel()
	const goroutines, each = 8, 50
	s, err := memory.New(&memory.Config{MaxWorkers: 4})
	require.NoError(t, err)
	var ran sync.Map
	var twice atomic.Int64
	h := func(ctx context.Context, job *jobs.Job) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, again := ran.LoadOrStore(job.ID, true); again {
			twice.Add(1)
		}
		return nil
	}
	require.NoError(t, s.RegisterDelayed("test.shared", 0, h))
	require.NoError(t, s.RegisterDelayed("test.own", 0, h, jobs.Concurrency(2)))
	require.NoError(t, s.RegisterInterval("test.tick", time.Second, done))

	stop := make(chan struct{})
	var toggling, triggering sync.WaitGroup
	for range 2 {
		toggling.Go(func() {
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_ = s.Start(context.Background())
				ctx := context.Background()
				if i%2 == 0 {
					ctx = ended // a hard stop
				}
				_ = s.Shutdown(ctx)
			}
		})
	}
	ids := make(chan string, goroutines*each)
	for g := range goroutines {
		triggering.Go(func() {
			for i := range each {
				name := []string{"test.shared", "test.own"}[(g+i)%2]
				id, err := s.Trigger(context.Background(), name, map[string]int{"n": i}, jobs.Priority(1+i%4), jobs.Delay(time.Duration(i%3)*time.Millisecond))
				if err == nil {
					ids <- id
				}
				_, _ = s.QueueSize(context.Background(), name)
				_, _ = s.Jobs(context.Background())
				_, _ = s.Health(context.Background())
			}
		})
	}
	triggering.Wait()
	close(stop)
	toggling.Wait()
	_ = s.Shutdown(context.Background())
	require.NoError(t, s.Start(context.Background()))
	require.Eventually(t, func() bool {
		h, err := s.Health(context.Background())
		return err == nil && h.Totals[jobs.StateCompleted].N >= goroutines*each
	}, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, s.Shutdown(context.Background()))
	require.Len(t, ids, goroutines*each)
	for range goroutines * each {
		_, ok := ran.Load(<-ids)
		require.True(t, ok, "lost a job")
	}
	require.Zero(t, twice.Load(), "jobs that ran twice")
}

func TestScheduler_RunsManyJobs(t *testing.T) {
	t.Parallel()
	const n = 10_000
	var ran atomic.Int64
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			ran.Add(1)
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		for i := range n {
			_, err := s.Trigger(t.Context(), "test.job", nil, jobs.Priority(1+i%4), jobs.Delay(time.Duration(i%1000)*time.Millisecond))
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		require.EqualValues(t, n, ran.Load())
	})
}

func TestScheduler_AdvancesTheScheduleBeforeTheTickRuns(t *testing.T) {
	t.Parallel()
	var s *memory.Scheduler
	bubble(t, memory.Config{}, func(sched *memory.Scheduler) error {
		s = sched
		return s.RegisterInterval("test.tick", time.Hour, func(ctx context.Context, job *jobs.Job) error {
			all, err := s.Jobs(ctx)
			if err == nil && !all[0].NextTick.Equal(job.Tick.Add(time.Hour)) {
				panic("not advanced")
			}
			return err
		}, jobs.MaxRetries(0))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		time.Sleep(24*time.Hour + 1)
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[jobs.State]jobs.Count{jobs.StateCompleted: {N: 24}}, h.Totals, "no tick is inserted before it is due")
	})
}

func TestJobs_PrevTickAndLastSuccessOutliveTheirRuns(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	bubble(t, memory.Config{Retention: time.Minute, FailedRetention: time.Minute}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, func(context.Context, *jobs.Job) error {
			if fails.Load() {
				return jobs.Permanent(errAgain)
			}
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		first := time.Now().UTC().Truncate(time.Hour).Add(time.Hour)
		check := func(prev time.Time, state jobs.State, success time.Time) {
			t.Helper()
			runs, err := s.Runs(t.Context(), "test.tick", 10)
			require.NoError(t, err)
			require.Empty(t, runs)
			st := statusOf(t, s, "test.tick")
			require.Equal(t, [2]time.Time{prev, success}, [2]time.Time{st.PrevTick, st.LastSuccess})
			require.Equal(t, state, st.PrevState)
		}
		check(time.Time{}, "", time.Time{})
		time.Sleep(time.Until(first.Add(30 * time.Minute)))
		check(first, jobs.StateCompleted, first)
		fails.Store(true)
		time.Sleep(2 * time.Hour)
		check(first.Add(2*time.Hour), jobs.StateFailed, first)
		require.NoError(t, s.Shutdown(t.Context()))
		fails.Store(false)
		time.Sleep(3 * time.Hour)
		check(first.Add(2*time.Hour), jobs.StateFailed, first)
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		check(first.Add(5*time.Hour), jobs.StateCompleted, first.Add(5*time.Hour))
		require.Equal(t, 2, statusOf(t, s, "test.tick").Missed)
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Empty(t, h.Totals)
	})
}

// Otherwise a run that covers more and more ticks would never start while other jobs keep coming.
func TestScheduler_RunThatCoversLaterTicksKeepsItsPlace(t *testing.T) {
	t.Parallel()
	var order []string
	bubble(t, memory.Config{MaxWorkers: 1}, func(s *memory.Scheduler) error {
		h := func(_ context.Context, job *jobs.Job) error {
			order = append(order, job.Name)
			time.Sleep(90 * time.Second)
			return nil
		}
		return errors.Join(s.RegisterInterval("test.tick", time.Minute, h), s.RegisterDelayed("test.job", 0, h))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		start := time.Now()
		_, err := s.TriggerMany(t.Context(), "test.job", []any{nil, nil, nil})
		require.NoError(t, err)
		time.Sleep(70 * time.Second)
		_, err = s.TriggerMany(t.Context(), "test.job", []any{nil, nil, nil})
		require.NoError(t, err)
		time.Sleep(time.Until(start.Add(265 * time.Second)))
		st := statusOf(t, s, "test.tick")
		require.Equal(t, 1, st.Waiting)
		require.Equal(t, start.Add(4*time.Minute).UTC(), st.NextTick)
		require.Equal(t, 205*time.Second, st.OverdueBy, "since its first tick")
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, 205*time.Second, h.OldestWaiting)
		require.Equal(t, []string{"memory-4"}, []string{runs(t, s, "test.tick")[0].ID})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"test.job", "test.job", "test.job", "test.tick"}, order)
		st = statusOf(t, s, "test.tick")
		require.Equal(t, start.Add(4*time.Minute).UTC(), st.PrevTick)
		require.Equal(t, 3, st.Missed)
	})
}

func runs(t *testing.T, s *memory.Scheduler, name string) []jobs.Run {
	t.Helper()
	all, err := s.Runs(t.Context(), name, 1000)
	require.NoError(t, err)
	return all
}

func TestScheduler_TicksSkippedAsTooLateHoldUpNoOther(t *testing.T) {
	t.Parallel()
	var ran atomic.Int64
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, func(context.Context, *jobs.Job) error {
			ran.Add(1)
			return nil
		}, jobs.CatchUp(jobs.CatchUpAll), jobs.StartWithin(90*time.Minute))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		require.NoError(t, s.Shutdown(t.Context()))
		time.Sleep(10*time.Hour + 15*time.Minute)
		require.NoError(t, s.Start(t.Context()))
		time.Sleep(time.Second)
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[jobs.State]jobs.Count{jobs.StateSkipped: {N: 8}, jobs.StateCompleted: {N: 2}}, h.Totals)
		require.EqualValues(t, 2, ran.Load())
	})
}

func TestConfig_WithoutDBEachMethodReturnsAnError(t *testing.T) {
	t.Parallel()
	const want = "memory: no DB was configured"
	var db jobs.DB
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(_ context.Context, job *jobs.Job) error {
			db = job.DB
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		_, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		ctx := t.Context()
		_, err = db.Begin(ctx)
		require.EqualError(t, err, want)
		_, err = db.Exec(ctx, "DELETE FROM users")
		require.EqualError(t, err, want)
		require.EqualError(t, db.QueryRow(ctx, "SELECT 1").Scan(new(int)), want)
		rows, err := db.Query(ctx, "SELECT 1")
		require.EqualError(t, err, want)
		_, err = pgx.CollectRows(rows, pgx.RowTo[int]) // the error comes with the rows
		require.EqualError(t, err, want)
		rows, _ = db.Query(ctx, "SELECT 1")
		_, err = pgx.CollectOneRow(rows, pgx.RowToStructByName[struct{ N int }])
		require.EqualError(t, err, want)
		require.EqualError(t, pgx.BeginFunc(ctx, db, func(pgx.Tx) error { return nil }), want)
	})
}
