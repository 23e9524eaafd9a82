package river_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// newScheduler returns a scheduler on pool that is shut down at the end of the test.
func newScheduler(t testing.TB, pool *pgxpool.Pool, cfg river.Config) *river.Scheduler {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	s, err := river.New(pool, &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = shutdown(s) })
	return s
}

func shutdown(s *river.Scheduler) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.Shutdown(ctx)
}

// interrupt shuts down without waiting for running jobs, which are cancelled.
func interrupt(s *river.Scheduler) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.Shutdown(ctx)
}

// forward returns a handler that sends its job to ch.
func forward(ch chan<- jobs.Job) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		select {
		case ch <- *job:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// untilCancelled returns a handler that sends its job to ch and runs until it is cancelled.
func untilCancelled(ch chan<- jobs.Job) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		ch <- *job
		<-ctx.Done()
		return ctx.Err()
	}
}

// receive waits for the next value. Its limit is long because shared machines are slow at times.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(time.Minute):
		require.FailNow(t, "nothing arrived in a minute")
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, time.Minute, 20*time.Millisecond, what)
}

// pass lets time go by where a test has no event to wait for.
func pass(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// openPool returns a pool that is closed at the end of the test.
func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// awaitLockWait waits until a session of the database waits for a lock.
func awaitLockWait(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	eventually(t, "a session waits for a lock", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	})
}

func scalar[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return v
}

func execSQL(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) int64 {
	t.Helper()
	tag, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	return tag.RowsAffected()
}

func noop(context.Context, *jobs.Job) error { return nil }

func TestNew_RejectsBadConfigBeforeAnySQL(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "host=/nowhere user=x dbname=x") // connects when first used
	require.NoError(t, err)
	defer pool.Close()
	single, err := pgxpool.New(t.Context(), "host=/nowhere user=x dbname=x pool_max_conns=1")
	require.NoError(t, err)
	defer single.Close()
	for name, row := range map[string]struct {
		pool *pgxpool.Pool
		cfg  river.Config
		want string
	}{
		"nil pool":             {nil, river.Config{}, "pool is nil"},
		"one connection":       {single, river.Config{}, "at least 2"},
		"schema with quote":    {pool, river.Config{Schema: `a"; DROP`}, "schema name"},
		"schema with digit":    {pool, river.Config{Schema: "1a"}, "schema name"},
		"schema with umlaut":   {pool, river.Config{Schema: "schön"}, "schema name"},
		"schema too long":      {pool, river.Config{Schema: strings.Repeat("a", 47)}, "46 at most"},
		"too many workers":     {pool, river.Config{MaxWorkers: 10_001}, "1 to 10000"},
		"negative workers":     {pool, river.Config{MaxWorkers: -1}, "1 to 10000"},
		"retention too short":  {pool, river.Config{Retention: time.Second}, "river: Retention 1s: must be at least 1m"},
		"failed jobs too":      {pool, river.Config{FailedRetention: -1}, "river: FailedRetention -1ns: must be at least 1m"},
		"short DeadAfter":      {pool, river.Config{DeadAfter: time.Second}, "10s to 12h"},
		"queue with a dot":     {pool, river.Config{Queue: "a.b"}, "a-z, 0-9, _ and -"},
		"queue of paused jobs": {pool, river.Config{Queue: river.PausedQueue}, "and not"},
		"default out of range": {pool, river.Config{Defaults: []jobs.Option{jobs.MaxRetries(-1)}}, "MaxRetries(-1)"},
		"nil default":          {pool, river.Config{Defaults: []jobs.Option{nil}}, "nil"},
	} {
		_, err := river.New(row.pool, &row.cfg)
		require.ErrorContains(t, err, row.want, name)
	}
	_, err = river.New(pool, nil)
	require.NoError(t, err, "a nil config means the defaults")
	require.ErrorContains(t, river.Migrate(t.Context(), pool, &river.MigrateOptions{Schema: "a b"}), "schema name")
}

func TestScheduler_NeverReportsThePassword(t *testing.T) {
	t.Parallel()
	const dsn = "postgres://ann:hunter2secret@127.0.0.1:1/db?sslmode=disable&connect_timeout=1"
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	defer pool.Close()
	var log bytes.Buffer
	s, err := river.New(pool, &river.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.False(t, health.Healthy)
	_, triggerErr := s.Trigger(t.Context(), "a.job", nil)
	_, sizeErr := s.QueueSize(t.Context(), "a.job")
	_, jobsErr := s.Jobs(t.Context())
	reported := errors.Join(triggerErr, sizeErr, jobsErr, s.Start(t.Context()), river.Migrate(t.Context(), pool, nil)).Error() +
		fmt.Sprint(health.Reasons) + log.String()
	require.NotContains(t, reported, "hunter2secret")
	require.NotContains(t, reported, "postgres://")
	require.Contains(t, reported, "refused", "the cause is reported")
}

func TestStart_ReportsASchemaThatIsNotMigrated(t *testing.T) {
	t.Parallel()
	pool := empty.Pool(t)
	s := newScheduler(t, pool, river.Config{Schema: "elsewhere"})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.ErrorContains(t, s.Start(t.Context()), "call river.Migrate")
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.ErrorContains(t, err, "call river.Migrate")
	_, err = s.TriggerMany(t.Context(), "a.job", []any{nil, nil})
	require.ErrorContains(t, err, "call river.Migrate")
	triggerOnly := newScheduler(t, pool, river.Config{Schema: "elsewhere", TriggerOnly: true})
	for what, ask := range map[string]func() error{
		"Jobs":      func() error { _, err := s.Jobs(t.Context()); return err },
		"QueueSize": func() error { _, err := s.QueueSize(t.Context(), "a.job"); return err },
		"Activity":  func() error { _, err := s.Activity(t.Context(), time.Hour, 1); return err },
		"Runs":      func() error { _, err := s.Runs(t.Context(), "a.job", 1); return err },
		"Run":       func() error { _, err := s.Run(t.Context(), "1"); return err },
		"FindRuns":  func() error { _, err := s.FindRuns(t.Context(), jobs.RunQuery{}); return err },
		"RetryMany": func() error { _, err := s.RetryMany(t.Context(), jobs.RunQuery{}); return err },
		"Cancel":    func() error { return s.Cancel(t.Context(), "a.job", "1") },
		"Retry":     func() error { return s.Retry(t.Context(), "a.job", "1") },
		"FindRuns of a TriggerOnly scheduler": func() error {
			_, err := triggerOnly.FindRuns(t.Context(), jobs.RunQuery{})
			return err
		},
	} {
		err := ask()
		require.ErrorContains(t, err, "call river.Migrate", what)
		require.Equal(t, 1, strings.Count(err.Error(), "call river.Migrate"), err)
	}
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(health.Reasons), "call river.Migrate")

	require.NoError(t, river.Migrate(t.Context(), pool, &river.MigrateOptions{Schema: "elsewhere"}))
	require.NoError(t, s.Start(t.Context()), "a failed Start can be repeated")
}

// empty is a template database without tables.
var empty = dbtest.New(nil)

func TestMigrate_ConcurrentCallsOnAPoolOfTwo(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(empty.URL(t))
	require.NoError(t, err)
	cfg.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			errs[i] = river.Migrate(t.Context(), pool, &river.MigrateOptions{Schema: []string{"one", "two"}[i%2]})
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, river.Migrate(t.Context(), pool, &river.MigrateOptions{Schema: "one"}), "migrating again does nothing")
}

func TestTrigger_StoresNameAndDataUnchanged(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("audit.retention", 0, forward(ran), jobs.MaxRetries(6), jobs.Priority(3)))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "audit.retention", map[string]any{"n": 1, "nested": map[string]string{"a": "<ä>"}})
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)

	row, err := pool.Query(t.Context(), `SELECT kind, args::text, max_attempts, priority, queue, metadata::text FROM river.river_job WHERE id = $1::text::bigint`, id)
	require.NoError(t, err)
	values, err := pgx.CollectExactlyOneRow(row, pgx.RowToMap)
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"kind": "audit.retention", "args": `{"n": 1, "nested": {"a": "<ä>"}}`,
		"max_attempts": int16(7), "priority": int16(3), "queue": "default", "metadata": "{}",
	}, values)
}

func TestTriggerTx_FollowsTheTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))

	tx := begin(t, pool)
	_, err := s.TriggerTx(t.Context(), tx, "a.job", nil)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))

	var id string
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		id, err = jobs.TriggerTx(t.Context(), s, tx, "a.job", nil)
		return err
	})
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID, "the job that was rolled back did not run")
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestTrigger_StoresJobsDueSoonAsAvailable(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	for delay, want := range map[time.Duration]string{0: "available", 4 * time.Second: "available", time.Minute: "scheduled"} {
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(delay))
		require.NoError(t, err)
		require.Equal(t, want, scalar[string](t, pool, `SELECT state::text FROM river.river_job WHERE id = $1::text::bigint`, id), "delay %s", delay)
	}
}

func TestTriggerOnly_LeavesOptionsToTheWorkers(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	require.ErrorContains(t, remote.RegisterDelayed("a.job", 0, noop), "TriggerOnly")
	require.NoError(t, remote.Start(t.Context()))
	_, err := remote.Trigger(t.Context(), "Not A Name", nil)
	require.ErrorIs(t, err, jobs.ErrInvalidName)
	id, err := remote.Trigger(t.Context(), "a.job", map[string]int{"n": 7})
	require.NoError(t, err)
	n, err := remote.QueueSize(t.Context(), "a.job")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	health, err := remote.Health(t.Context())
	require.NoError(t, err)
	require.True(t, health.Healthy, "%v", health.Reasons)

	ran := make(chan jobs.Job, 1)
	worker := newScheduler(t, pool, river.Config{})
	require.NoError(t, worker.RegisterDelayed("a.job", 0, forward(ran), jobs.MaxRetries(8), jobs.Concurrency(2)))
	require.NoError(t, worker.Start(t.Context()))
	job := receive(t, ran)
	require.Equal(t, id, job.ID)
	require.Equal(t, 1, job.Attempt, "moving the job to its own queue uses no attempt")
	require.Equal(t, 9, job.MaxAttempts)
	require.JSONEq(t, `{"n":7}`, string(job.Data))
}

func TestConcurrency_ChangeMovesWaitingJobs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := newScheduler(t, pool, river.Config{})
	require.NoError(t, before.RegisterDelayed("a.job", 0, noop, jobs.Concurrency(1)))
	id, err := before.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)

	after := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, after.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, after.Start(t.Context()))
	require.Equal(t, id, receive(t, ran).ID)
}

func TestScheduler_StoresPanicsWithTheirStack(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, panicOnPurpose, jobs.MaxRetries(0)))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	var stored string
	eventually(t, "the job has failed", func() bool {
		stored = scalar[string](t, pool, `SELECT coalesce(errors[1]->>'error', '') FROM river.river_job WHERE id = $1::text::bigint`, id)
		return stored != ""
	})
	require.Contains(t, stored, "panic: on purpose")
	require.Contains(t, stored, "panicOnPurpose", "the stack names the function that panicked")
}

func panicOnPurpose(context.Context, *jobs.Job) error { panic("on purpose") }

func TestScheduler_ProcessesShareTicksAndOneCarriesOn(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	schedulers := make([]*river.Scheduler, 2)
	ran := make(chan jobs.Job, 100)
	for i := range schedulers {
		schedulers[i] = newScheduler(t, openPool(t, url), river.Config{})
		require.NoError(t, schedulers[i].RegisterInterval("a.tick", time.Second, forward(ran)))
	}
	for _, s := range schedulers {
		require.NoError(t, s.Start(t.Context()))
	}
	seen := map[time.Time]int{}
	for range 3 {
		seen[receive(t, ran).Tick]++
	}
	require.NoError(t, shutdown(schedulers[0]))
	for range 3 {
		seen[receive(t, ran).Tick]++
	}
	require.Len(t, seen, 6, "each tick ran once: %v", seen)
	require.Zero(t, scalar[int](t, schedulers[1].Pool(), `SELECT count(*) FROM (
		SELECT FROM river.river_job GROUP BY kind, metadata->>'everytick_tick' HAVING count(*) > 1) AS doubled`))
}

func TestConfigRiver_AppliesToBothClientsWithinLimits(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	var calls atomic.Int64
	s := newScheduler(t, pool, river.Config{River: func(cfg *riverqueue.Config) {
		calls.Add(1)
		cfg.MaxAttempts = 7
	}})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	inserting := s.Client()
	for range 2 {
		require.NoError(t, s.Start(t.Context()))
		require.NotSame(t, inserting, s.Client())
		require.NoError(t, s.Shutdown(t.Context()))
	}
	require.EqualValues(t, 3, calls.Load(), "once by New and once by each Start")

	for field, change := range map[string]func(cfg *riverqueue.Config){
		"ID":                     func(cfg *riverqueue.Config) { cfg.ID = "chosen" },
		"Schema":                 func(cfg *riverqueue.Config) { cfg.Schema = "other" },
		"Workers":                func(cfg *riverqueue.Config) { cfg.Workers = riverqueue.NewWorkers() },
		"LeaderElectionDisabled": func(cfg *riverqueue.Config) { cfg.LeaderElectionDisabled = true },
		"RescueStuckJobsAfter":   func(cfg *riverqueue.Config) { cfg.RescueStuckJobsAfter = 2 * time.Hour },
		"JobTimeout":             func(cfg *riverqueue.Config) { cfg.JobTimeout = time.Minute },
		"SoftStopTimeout":        func(cfg *riverqueue.Config) { cfg.SoftStopTimeout = time.Minute },
		"Queues":                 func(cfg *riverqueue.Config) { cfg.Queues = map[string]riverqueue.QueueConfig{"mine": {MaxWorkers: 1}} },
		"PeriodicJobs":           func(cfg *riverqueue.Config) { cfg.PeriodicJobs = []*riverqueue.PeriodicJob{nil} },
	} {
		_, err := river.New(pool, &river.Config{River: change})
		require.ErrorContains(t, err, "Config.River has changed "+field+":")
	}
	late := newScheduler(t, pool, river.Config{River: func(cfg *riverqueue.Config) {
		if cfg.Workers != nil {
			cfg.Queues["mine"] = riverqueue.QueueConfig{MaxWorkers: 1}
		}
	}})
	require.NoError(t, late.RegisterDelayed("a.job", 0, noop))
	require.ErrorContains(t, late.Start(t.Context()), "Config.River has changed Queues:")
}

func TestPollOnly_DoesNotListen(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{PollOnly: true})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'`))
}

func TestScheduler_StartsAndStopsWithoutJobs(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	require.NoError(t, s.Start(t.Context()))
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.True(t, health.Healthy, "%v", health.Reasons)
	require.NoError(t, shutdown(s))
}

func TestStart_StartsNothingIfItsContextHasEnded(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Start(ctx), context.Canceled)
	require.NoError(t, s.Start(t.Context()), "it can still be started")
}

func TestStart_JobsOutliveItsContext(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, s.Start(ctx))
	cancel()
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
}

func TestShutdown_LeavesBehindAHandlerThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	running, release := make(chan struct{}), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.deaf", 0, func(context.Context, *jobs.Job) error {
		close(running)
		<-release
		return nil
	}))
	t.Cleanup(func() { close(release) })
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.deaf", nil)
	require.NoError(t, err)
	receive(t, running)
	err = interrupt(s)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "ignore their context")
}

// It is not parallel, because it checks all goroutines of the process.
func TestShutdown_LeavesNoGoroutine(t *testing.T) { //nolint:paralleltest // counts goroutines
	pool := migrated.Pool(t)
	before := goleak.IgnoreCurrent()
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, noop))
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.Concurrency(2)))
	goleak.VerifyNone(t, before)
	for range 3 {
		require.NoError(t, s.Start(t.Context()))
		require.NoError(t, shutdown(s))
	}
	pool.Reset()
	goleak.VerifyNone(t, before, goleak.IgnoreTopFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"))
}

func TestConfigRiver_HooksAndMiddlewareSeeEachAttempt(t *testing.T) {
	t.Parallel()
	for name, add := range map[string]func(cfg *riverqueue.Config, seen func()){
		"middleware": func(cfg *riverqueue.Config, seen func()) {
			cfg.Middleware = append(cfg.Middleware, riverqueue.WorkerMiddlewareFunc(
				func(ctx context.Context, _ *rivertype.JobRow, doInner func(context.Context) error) error {
					seen()
					return doInner(ctx)
				}))
		},
		"hook": func(cfg *riverqueue.Config, seen func()) {
			cfg.Hooks = append(cfg.Hooks, riverqueue.HookWorkBeginFunc(func(context.Context, *rivertype.JobRow) error {
				seen()
				return nil
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int32
			s := newScheduler(t, migrated.Pool(t), river.Config{River: func(cfg *riverqueue.Config) { add(cfg, func() { seen.Add(1) }) }})
			ran := make(chan jobs.Job, 10)
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
				if job.Attempt < 3 {
					return jobs.RetryAfter(time.Millisecond, errAgain)
				}
				return forward(ran)(ctx, job)
			}))
			require.NoError(t, s.Start(t.Context()))
			_, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			require.Equal(t, 3, receive(t, ran).Attempt)
			require.EqualValues(t, 3, seen.Load())
		})
	}
}

// River gives up after a few tries, and its Stop still returns nil.
func TestShutdown_ReportsLostResults(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	execSQL(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$`)
	execSQL(t, pool, `CREATE TRIGGER refuse BEFORE UPDATE ON river.river_job FOR EACH ROW WHEN (new.state = 'completed') EXECUTE FUNCTION refuse()`)
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.ErrorContains(t, s.Shutdown(ctx), "the results of 1 jobs could not be stored; they run again")
}

func TestShutdown_ReportsLostResultsOfInterruptedJobs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	begun := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, untilCancelled(begun)))
	execSQL(t, pool, `CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`)
	execSQL(t, pool, `CREATE TRIGGER ignore BEFORE UPDATE ON river.river_job FOR EACH ROW WHEN (new.state = 'available') EXECUTE FUNCTION ignore()`)
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, begun)
	err = interrupt(s)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "the results of 1 jobs could not be stored; they run again")
}

// endsOn is a tracer that ends a context when a statement begins.
type endsOn struct {
	statement string
	end       context.CancelFunc
}

func (e endsOn) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, e.statement) {
		e.end()
	}
	return ctx
}

func (endsOn) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestShutdown_SucceedsIfItsContextEndsDuringTheLastCheck(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.Tracer = endsOn{`SELECT count(*) FROM "river".river_job WHERE state = 'running'`, cancel}
	})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Shutdown(ctx))
	require.Error(t, ctx.Err())
}

func TestShutdown_ReportsAnUnreachableDatabase(t *testing.T) {
	t.Parallel()
	pool, network := breakablePool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	network.cut()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.ErrorContains(t, s.Shutdown(ctx), "could not confirm that the last results were stored")
}

// In a stricter isolation level, concurrent starts and River's own statements would fail with 40001.
func TestScheduler_ItsOwnPoolIsReadCommitted(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
	})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, "read committed", scalar[string](t, s.OwnPool(), `SHOW default_transaction_isolation`))
	require.Equal(t, "serializable", scalar[string](t, pool, `SHOW default_transaction_isolation`), "handlers keep the configured level")
}

func TestTriggerOnly_RetryByHandGivesAnotherAttempt(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	id, err := remote.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	ran := make(chan jobs.Job, 10)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		return errors.Join(forward(ran)(ctx, job), errAgain)
	}, jobs.MaxRetries(0)))
	require.NoError(t, s.Start(t.Context()))
	for attempt := 1; attempt <= 3; attempt++ {
		job := receive(t, ran)
		require.Equal(t, [2]int{attempt, attempt}, [2]int{job.Attempt, job.MaxAttempts})
		eventually(t, "the job has failed", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateFailed })
		require.NoError(t, s.Retry(t.Context(), "a.job", id))
	}
}

func TestPollOnly_SendsNoNotifications(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{PollOnly: true})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	next := listening(t, pool.Config().ConnString(), "river")
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	_, err = s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
	require.NoError(t, err)
	_, err = s.TriggerMany(t.Context(), "a.job", numbered(501))
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := s.TriggerTx(t.Context(), tx, "a.job", nil)
		return err
	}))
	execSQL(t, pool, `SELECT pg_notify('river.river_insert', '{"queue": "last"}')`)
	require.JSONEq(t, `{"queue": "last"}`, next())
}

// The context of Start ends while River starts one queue after the other: jobs of the first queues run already, and are
// interrupted. As after a Shutdown, that is no failure of theirs.
func TestStart_JobsThatItInterruptsDoNotFail(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran, failed := make(chan jobs.Job, 10), make(chan jobs.Run, 10)
	const n = 8
	for i := range n {
		require.NoError(t, s.RegisterDelayed(fmt.Sprintf("a.job%d", i), 0, untilCancelled(ran),
			jobs.MaxRetries(0), jobs.Concurrency(1), failuresTo(failed)))
	}
	require.NoError(t, s.Start(t.Context())) // stores the queues
	require.NoError(t, shutdown(s))
	for i := range n {
		_, err := s.Trigger(t.Context(), fmt.Sprintf("a.job%d", i), nil)
		require.NoError(t, err)
	}
	interrupted := func() bool { // River starts the queues in no particular order, and waits for the locked one
		tx := begin(t, pool)
		_, err := tx.Exec(t.Context(), `SELECT FROM river.river_queue WHERE name LIKE 'a-job0-%' FOR UPDATE`)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		started := make(chan error, 1)
		go func() { started <- s.Start(ctx) }()
		runs := false
		select {
		case <-ran:
			runs = true
		case <-time.After(2 * time.Second):
		}
		cancel()
		require.NoError(t, tx.Rollback(t.Context()))
		require.Error(t, receive(t, started))
		return runs
	}
	for !interrupted() {
	}
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE attempt > 0`), "attempts")
	require.Empty(t, failed)
}
