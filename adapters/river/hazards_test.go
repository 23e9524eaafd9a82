package river_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// poolOf returns a pool of at most conns connections that sends queries in this mode.
func poolOf(t testing.TB, conns int32, mode pgx.QueryExecMode) *pgxpool.Pool {
	t.Helper()
	return poolWith(t, func(cfg *pgxpool.Config) { cfg.MaxConns, cfg.ConnConfig.DefaultQueryExecMode = conns, mode })
}

// poolWith returns a pool, configured by set, on a migrated database of its own.
func poolWith(t testing.TB, set func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	set(cfg)
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// awaitLeader waits until a process leads, and then for three ticks.
func awaitLeader(t testing.TB, pool *pgxpool.Pool, ran <-chan jobs.Job) {
	t.Helper()
	eventually(t, "a process leads", func() bool { return scalar[int](t, pool, `SELECT count(*) FROM river.river_leader`) == 1 })
	for range 3 {
		receive(t, ran)
	}
}

// PostgreSQL rejects U+0000, and River stores the results of many jobs in one statement.
func TestScheduler_StoresErrorsThatContainNUL(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.bad", 0, func(context.Context, *jobs.Job) error { return errors.New("cannot parse \x00") }, jobs.MaxRetries(0)))
	require.NoError(t, s.RegisterDelayed("a.panics", 0, func(context.Context, *jobs.Job) error { panic("nul: \x00") }, jobs.MaxRetries(0)))
	require.NoError(t, s.RegisterDelayed("a.good", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	for _, name := range []string{"a.bad", "a.panics", "a.good", "a.good", "a.good"} {
		_, err := s.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
	}
	eventually(t, "all jobs have ended", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state IN ('completed', 'discarded')`) == 5
	})
	require.Equal(t, `cannot parse \x00`, scalar[string](t, pool, `SELECT errors[1]->>'error' FROM river.river_job WHERE kind = 'a.bad'`))
}

// River stores the results of many jobs in one statement, and the metadata and output that a handler sets through River
// go with them unchecked.
func TestScheduler_OneBadResultHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	require.NoError(t, s.RegisterDelayed("a.good", 0, noop))
	fails := map[string]jobs.Handler{
		"b.error":    func(context.Context, *jobs.Job) error { return errors.New("upstream said \xff\xfe") },
		"b.panic":    func(context.Context, *jobs.Job) error { panic("not UTF-8: \xff\x00") },
		"b.goexit":   func(context.Context, *jobs.Job) error { runtime.Goexit(); return nil },
		"b.long":     func(context.Context, *jobs.Job) error { return errors.New(strings.Repeat("\xc3", 1<<20)) },
		"b.output":   func(ctx context.Context, _ *jobs.Job) error { return riverqueue.RecordOutput(ctx, "U+0000: \x00") },
		"b.metadata": func(ctx context.Context, _ *jobs.Job) error { return riverqueue.MetadataSet(ctx, "a\x00", "b") },
	}
	for name, h := range fails {
		require.NoError(t, s.RegisterDelayed(name, 0, h, jobs.MaxRetries(0)))
	}
	require.NoError(t, s.RegisterDelayed("c.unknown", 0, func(ctx context.Context, _ *jobs.Job) error {
		return riverqueue.MetadataSet(ctx, "no JSON", make(chan int))
	}))
	require.NoError(t, s.Start(t.Context()))
	for name := range fails {
		for _, name := range []string{name, "a.good"} {
			_, err := s.TriggerMany(t.Context(), name, make([]any, 3))
			require.NoError(t, err)
		}
	}
	eventually(t, "all jobs have ended", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state IN ('completed', 'discarded')`) == 6*len(fails)
	})
	require.Equal(t, 3*len(fails)+6, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'completed'`))
	require.Equal(t, 6, strings.Count(logged.String(), "the database refuses a job's metadata; its result is stored without"))
	require.Empty(t, reasonsOf(t, s))

	// River does not report this result at all.
	_, err := s.Trigger(t.Context(), "c.unknown", nil)
	require.NoError(t, err)
	awaitReason(t, s, "the result of 1 ended job could not be stored for 1")
}

func TestTrigger_WaitingForAUniqueKeyDelaysNoOther(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 10, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.unique", time.Hour, noop))
	require.NoError(t, s.RegisterDelayed("a.other", time.Hour, noop))
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	receive(t, ran)
	tx := begin(t, pool)
	_, err := s.TriggerTx(t.Context(), tx, "a.unique", nil, jobs.Unique("key"))
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := s.Trigger(context.Background(), "a.unique", nil, jobs.Unique("key"))
		waiting <- err
	}()
	awaitLockWait(t, pool)
	_, err = s.Trigger(t.Context(), "a.other", nil)
	require.NoError(t, err)
	for range 4 {
		job := receive(t, ran)
		require.Less(t, job.Late(), 10*time.Second)
	}
	require.Empty(t, waiting)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, receive(t, waiting))
}

// River's multi-row statements wait for every locked row, and all other jobs wait for River.
func TestTriggerTx_UniqueLocksOnlyAJobThatCouldStart(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
	require.NoError(t, err)
	live := scalar[string](t, pool, `SELECT string_agg(any_state.state::text, ' ' ORDER BY any_state.state::text)
		FROM river.river_job AS row, unnest(enum_range(NULL::river.river_job_state)) AS any_state (state)
		WHERE river.river_job_state_in_bitmask(row.unique_states, any_state.state)`)
	require.Equal(t, "available pending retryable running scheduled", live)
	for state, locked := range map[string]bool{
		"available": true, "pending": false, "retryable": false, "running": false, "scheduled": false,
	} {
		execSQL(t, pool, `UPDATE river.river_job SET state = $1::text::river.river_job_state`, state)
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			for range 2 {
				found, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Unique("key"))
				require.NoError(t, err)
				require.Equal(t, id, found, state)
			}
			free := scalar[int](t, pool, `WITH free AS (SELECT FROM river.river_job FOR UPDATE SKIP LOCKED) SELECT count(*) FROM free`)
			require.Equal(t, locked, free == 0, "whether a job in state %s is locked", state)
			return nil
		}))
	}
}

func TestTriggerTx_UniqueReportsThatTheJobCannotBeLocked(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{PollOnly: true}) // with nothing else to send, which would fail too
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	_, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
	require.NoError(t, err)
	_, err = begin(t, pool).Exec(t.Context(), `SELECT FROM river.river_job FOR UPDATE`)
	require.NoError(t, err)
	tx := begin(t, pool)
	_, err = tx.Exec(t.Context(), `SET LOCAL lock_timeout = '50ms'`)
	require.NoError(t, err)
	_, err = s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Unique("key"))
	require.ErrorContains(t, err, "lock timeout")
}

func TestSchedule_ContinuesWhileHandlersHoldConnections(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 2, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{})
	ran, holding := make(chan jobs.Job, 1000), make(chan struct{})
	release := make(chan struct{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.holds", 0, func(ctx context.Context, job *jobs.Job) error {
		return pgx.BeginFunc(ctx, job.DB, func(pgx.Tx) error {
			close(holding)
			<-release
			return nil
		})
	}))
	require.NoError(t, s.Start(t.Context()))
	awaitLeader(t, pool, ran)
	_, err := s.Trigger(t.Context(), "a.holds", nil)
	require.NoError(t, err)
	receive(t, holding)
	for range 10 {
		job := receive(t, ran)
		require.Less(t, job.Late(), 5*time.Second)
	}
	close(release)
}

func TestTriggerTx_DelayNeedsNoSecondConnection(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 1, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := s.TriggerTx(ctx, tx, "a.job", nil, jobs.Delay(time.Second))
		return err
	}))
}

func TestScheduler_MovesJobsFromQueuesWithoutWorkers(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran, ticks := make(chan jobs.Job, 10), make(chan jobs.Job, 1000)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.Start(t.Context()))
	awaitLeader(t, pool, ticks)
	older := newScheduler(t, pool, river.Config{}) // an older version, which only triggers
	require.NoError(t, older.RegisterDelayed("a.job", 0, noop, jobs.Concurrency(3)))
	id, err := older.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
}

func TestRehome_LeavesQueuesOfOtherVersionsUnlessLate(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	const columns = `kind, state, queue, scheduled_at`
	insertRows(t, pool, 1, columns, `'a.job', 'available', 'a-job-1', now()`)
	insertRows(t, pool, 2, columns, `'a.job', 'available', 'a-job-1', now() - interval '1 minute'`)
	insertRows(t, pool, 4, columns, `'a.job', 'scheduled', 'a-job-1', now() + interval '1 hour'`)
	insertRows(t, pool, 8, columns, `'other.job', 'available', 'a-job-1', now() - interval '1 minute'`)
	moved := func() int {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE queue = 'default'`)
	}
	require.NoError(t, s.Rehome(t.Context(), false))
	require.Equal(t, 2, moved())
	require.NoError(t, s.Rehome(t.Context(), true))
	require.Equal(t, 2+1+4, moved(), "all registered jobs, as at Start")
}

func TestShutdown_WaitsForAnotherUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	running, release := make(chan struct{}), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error {
		close(running)
		<-release
		return nil
	}))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, running)
	first := make(chan error, 1)
	go func() { first <- shutdown(s) }()
	eventually(t, "the first Shutdown is in progress", func() bool {
		health, err := s.Health(t.Context())
		return err == nil && !health.Started
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	require.ErrorIs(t, s.Start(ctx), context.DeadlineExceeded)
	close(release)
	require.NoError(t, receive(t, first))
}

func TestTimeout_MaxDurationMeansNone(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(math.MaxInt64)))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran)
}

func TestStartWithin_RunsAnInterruptedTickAgain(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", 5*time.Second, untilCancelled(ran), jobs.StartWithin(time.Second)))
	require.NoError(t, s.Start(t.Context()))
	first := receive(t, ran)
	require.ErrorIs(t, interrupt(s), context.Canceled)
	<-time.After(time.Until(first.Tick.Add(2 * time.Second))) // past StartWithin
	require.NoError(t, s.Start(t.Context()))
	again := receive(t, ran)
	for again.ID != first.ID { // on a slow machine the next tick comes first
		again = receive(t, ran)
	}
	require.Equal(t, 1, again.Attempt)
	require.ErrorIs(t, interrupt(s), context.Canceled)
}

// PgBouncer in transaction mode may rule out prepared statements.
func TestScheduler_WorksInEveryQueryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := poolOf(t, 8, mode)
			s := newScheduler(t, pool, river.Config{PollOnly: true})
			ran := make(chan jobs.Job, 1000)
			require.NoError(t, s.RegisterInterval("a.all", time.Second, forward(ran), jobs.CatchUp(jobs.CatchUpAll), jobs.Overlap(jobs.OverlapSkip)))
			require.NoError(t, s.RegisterDelayed("a.job", time.Second, noop, jobs.Concurrency(2)))
			require.NoError(t, s.Start(t.Context()))
			remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
			_, err := remote.Trigger(t.Context(), "a.job", map[string]any{"tick": "abc"}, jobs.Unique("x"))
			require.NoError(t, err)
			_, err = s.TriggerMany(t.Context(), "a.job", []any{nil, map[string]any{"a": 1}})
			require.NoError(t, err)
			awaitLeader(t, pool, ran)
			eventually(t, "the queue is empty", func() bool {
				n, err := s.QueueSize(t.Context(), "a.job")
				require.NoError(t, err)
				return n == 0
			})
			health, err := s.Health(t.Context())
			require.NoError(t, err)
			require.True(t, health.Healthy, "%v", health.Reasons)
		})
	}
}

// In this isolation level, a statement that has waited for a row that changed meanwhile fails with 40001.
func TestScheduler_WaitsForLocksUnderRepeatableRead(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", time.Hour, noop))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	for what, waits := range map[string]struct {
		lock func(tx pgx.Tx) error
		do   func(ctx context.Context) error
	}{
		"Cancel": {
			func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE river.river_job SET priority = 2`)
				return err
			},
			func(ctx context.Context) error { return s.Cancel(ctx, "a.job", id) },
		},
		"Trigger of a unique job": {
			func(tx pgx.Tx) error {
				_, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Unique("key"))
				return err
			},
			func(ctx context.Context) error {
				_, err := s.Trigger(ctx, "a.job", nil, jobs.Unique("key"))
				return err
			},
		},
	} {
		tx := begin(t, pool)
		require.NoError(t, waits.lock(tx), what)
		done := make(chan error, 1)
		go func() { done <- waits.do(t.Context()) }()
		awaitLockWait(t, pool)
		require.NoError(t, tx.Commit(t.Context()), what)
		require.NoError(t, receive(t, done), what)
	}
}
