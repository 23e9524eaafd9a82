package river_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// insertFailed inserts a failed run of a job and returns its ID.
func insertFailed(t testing.TB, pool *pgxpool.Pool, name string, more ...string) int64 {
	t.Helper()
	columns, values := "", ""
	for i := 0; i < len(more); i += 2 {
		columns, values = columns+", "+more[i], values+", "+more[i+1]
	}
	return scalar[int64](t, pool, `INSERT INTO river.river_job (kind, args, state, finalized_at, attempt, max_attempts, errors`+columns+`)
		SELECT $1, '{}', 'discarded', now(), 1, 1, ARRAY['{"attempt": 1, "error": "again", "at": "2026-01-01T00:00:00Z", "trace": ""}'::jsonb]`+
		values+` RETURNING id`, name)
}

func retryFailed(t testing.TB, s *river.Scheduler) int {
	t.Helper()
	n, err := s.RetryMany(t.Context(), jobs.RunQuery{States: []jobs.State{jobs.StateFailed}})
	require.NoError(t, err)
	return n
}

// Last night's failures: thousands, of all jobs, while the cause is not quite gone.
func TestRetryMany_RetriesThousandsOnceWhileOthersFail(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	const n, names = 5000, 106
	var failNew atomic.Bool
	var mu sync.Mutex
	attempts := map[string][]int{} // by ID
	for i := range names {
		require.NoError(t, s.RegisterDelayed(fmt.Sprintf("a.job%d", i), 0, func(_ context.Context, job *jobs.Job) error {
			mu.Lock()
			attempts[job.ID] = append(attempts[job.ID], job.Attempt)
			mu.Unlock()
			if id, _ := strconv.Atoi(job.ID); id%3 == 0 || failNew.Load() && job.Attempt == 1 {
				return errAgain
			}
			return nil
		}, jobs.MaxRetries(0)))
	}
	execSQL(t, pool, `INSERT INTO river.river_job (kind, args, state, finalized_at, scheduled_at, attempt, max_attempts, errors)
		SELECT 'a.job' || n % $2, '{}', 'discarded', now() - n * interval '2 s', now() - n * interval '2 s', 1, 1, ARRAY['{}'::jsonb]
		FROM generate_series(1, $1) AS n`, n, names)
	old := map[string]bool{}
	q := jobs.RunQuery{States: []jobs.State{jobs.StateFailed}, Limit: 1000}
	for {
		page, err := s.FindRuns(t.Context(), q)
		require.NoError(t, err)
		for _, r := range page.Runs {
			require.False(t, old[r.ID], "run %s is on two pages", r.ID)
			old[r.ID] = true
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	require.Len(t, old, n)

	require.NoError(t, s.Start(t.Context()))
	failNew.Store(true)
	stop, failing := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				failing <- nil
				return
			default:
			}
			if _, err := s.TriggerMany(context.Background(), "a.job7", make([]any, 20)); err != nil {
				failing <- err
				return
			}
		}
	}()
	got, err := s.RetryMany(t.Context(), jobs.RunQuery{States: []jobs.State{jobs.StateFailed}, Until: time.Now().Add(-time.Second)})
	close(stop)
	require.NoError(t, err)
	require.NoError(t, <-failing)
	require.Equal(t, n, got)
	eventually(t, "all have run", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL`) == 0
	})
	require.NoError(t, shutdown(s))
	for id := range old {
		require.Equal(t, []int{2}, attempts[id], "attempts of run %s after RetryMany", id)
	}
	for id, made := range attempts {
		if !old[id] {
			require.Equal(t, []int{1}, made, "attempts of run %s, which failed meanwhile", id)
		}
	}
}

// Two operators press the button at the same time.
func TestRetryMany_TwoCallsRetryEachRunOnce(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return errAgain }, jobs.MaxRetries(0)))
	const n = 1500
	for range n / 500 {
		execSQL(t, pool, `INSERT INTO river.river_job (kind, args, state, finalized_at, attempt, max_attempts, errors)
			SELECT 'a.job', '{}', 'discarded', now(), 1, 1, ARRAY['{}'::jsonb] FROM generate_series(1, 500)`)
	}
	require.NoError(t, s.Start(t.Context()))
	before := time.Now()
	counts := make(chan int, 2)
	for range 2 {
		go func() {
			n, err := s.RetryMany(context.Background(), jobs.RunQuery{Until: before})
			if err != nil {
				n = -n
			}
			counts <- n
		}()
	}
	require.Equal(t, n, receive(t, counts)+receive(t, counts))
	eventually(t, "all have failed again", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'discarded'`) == n
	})
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE attempt <> 2`))
}

func TestRetryMany_WaitsForALockedRun(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	for _, c := range []struct {
		name, change string
		want         int
	}{
		{"and retries it", `SELECT`, 3},
		{"and leaves it alone if it was retried meanwhile", `UPDATE river.river_job SET finalized_at = now() WHERE id = $1`, 2},
	} {
		execSQL(t, pool, `DELETE FROM river.river_job`)
		locked := insertFailed(t, pool, "a.job")
		insertFailed(t, pool, "a.job")
		insertFailed(t, pool, "a.job")
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT FROM river.river_job WHERE id = $1 FOR UPDATE`, locked)
		require.NoError(t, err)
		done := make(chan int, 1)
		go func() {
			n, err := s.RetryMany(context.Background(), jobs.RunQuery{})
			if err != nil {
				n = -1
			}
			done <- n
		}()
		eventually(t, "the others are retried", func() bool {
			return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available'`) == 2
		})
		var args []any
		if c.change != "SELECT" {
			args = append(args, locked)
		}
		_, err = tx.Exec(t.Context(), c.change, args...)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		require.Equal(t, c.want, receive(t, done), c.name)
	}
}

func TestRetryMany_ALockedRunDelaysNoOther(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	locked := insertFailed(t, pool, "a.job")
	insertFailed(t, pool, "a.job")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM river.river_job WHERE id = $1 FOR UPDATE`, locked)
	require.NoError(t, err)
	n, err := s.RetryMany(t.Context(), jobs.RunQuery{})
	require.Equal(t, 1, n)
	require.ErrorContains(t, err, "river: retry many: 1 of 2 runs are left, the first because: ")
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, 1, retryFailed(t, s), "the call can be repeated")
}

// One run that cannot be retried stops no other.
func TestRetryMany_OneBadRunStopsNoOther(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	for range 5 {
		insertFailed(t, pool, "a.job")
	}
	bad := insertFailed(t, pool, "a.job")
	execSQL(t, pool, `UPDATE river.river_job SET attempt = 32767, max_attempts = 32767 WHERE id = $1`, bad) // no number is left
	n, err := s.RetryMany(t.Context(), jobs.RunQuery{})
	require.Equal(t, 5, n)
	require.ErrorContains(t, err, "1 of 6 runs are left")
	require.ErrorContains(t, err, "out of range")
	count, err := s.CountRetryable(t.Context(), jobs.RunQuery{})
	require.NoError(t, err)
	require.Equal(t, 1, count)
}

// A transaction that has not ended inserts a run with the key of a failed one.
func TestRetryMany_AKeyTakenMeanwhileStopsNoOther(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	first, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
	require.NoError(t, err)
	execSQL(t, pool, `UPDATE river.river_job SET state = 'discarded', finalized_at = now(), attempt = 1`)
	insertFailed(t, pool, "a.job")
	var second string
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		if second, err = s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Unique("key"), jobs.Delay(time.Hour)); err != nil {
			return err
		}
		done := make(chan int, 1)
		go func() {
			n, err := s.RetryMany(context.Background(), jobs.RunQuery{})
			if err != nil {
				n = -1
			}
			done <- n
		}()
		eventually(t, "RetryMany waits for the key", func() bool {
			return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0
		})
		t.Cleanup(func() { require.Equal(t, 2, receive(t, done)) })
		return nil
	})
	require.NoError(t, err)
	eventually(t, "both are retried", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available' AND scheduled_at <= now()`) == 2
	})
	require.Equal(t, []int64{idOf(t, second)}, column[int64](t, pool, `SELECT id FROM river.river_job WHERE unique_key IS NOT NULL`))
	require.NotEqual(t, first, second)
}

func TestRetryMany_NotifiesWorkers(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(1)))
	own, err := s.Trigger(t.Context(), "a.own", nil)
	require.NoError(t, err)
	queue := scalar[string](t, pool, `SELECT queue FROM river.river_job WHERE id = $1`, idOf(t, own))
	execSQL(t, pool, `UPDATE river.river_job SET state = 'discarded', finalized_at = now(), attempt = 3`)
	for range 3 {
		insertFailed(t, pool, "a.job")
	}
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `LISTEN "river.river_insert"`)
	require.NoError(t, err)
	require.Equal(t, 4, retryFailed(t, s))
	payloads := map[string]bool{}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		n, err := conn.Conn().WaitForNotification(ctx)
		cancel()
		require.NoError(t, err)
		payloads[n.Payload] = true
	}
	require.Equal(t, map[string]bool{`{"queue": "default"}`: true, fmt.Sprintf(`{"queue": %q}`, queue): true}, payloads)
}

func TestCancelMany_CancelsThousandsAndRunsOfOtherProcesses(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	const n = 2000
	running := make(chan jobs.Job, n+1)
	worker := newScheduler(t, pool, river.Config{})
	require.NoError(t, worker.RegisterDelayed("a.job", 0, untilCancelled(running), jobs.Concurrency(1)))
	require.NoError(t, worker.Start(t.Context()))
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	first, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, first, receive(t, running).ID)
	_, err = s.TriggerBulk(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	all := jobs.RunQuery{Names: []string{"a.job"}}
	count, err := s.CountCancellable(t.Context(), all)
	require.NoError(t, err)
	require.Equal(t, n+1, count)
	count, err = s.CancelMany(t.Context(), all)
	require.NoError(t, err)
	require.Equal(t, n+1, count)
	eventually(t, "all are cancelled", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'cancelled'`) == n+1
	})
	run, err := s.Run(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, jobs.StateCancelled, run.State)
	require.NotEmpty(t, run.Process)
}

// A schedule whose run is cancelled goes on at once.
func TestCancelMany_LetsASchedulesNextTickStart(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	running := make(chan jobs.Job, 10)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, untilCancelled(running), jobs.CatchUp(jobs.CatchUpAll)))
	require.NoError(t, s.Start(t.Context()))
	first := receive(t, running)
	n, err := s.CancelMany(t.Context(), jobs.RunQuery{States: []jobs.State{jobs.StateRunning}})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.True(t, receive(t, running).Tick.After(first.Tick))
}

func TestBulk_ReportsTheDatabasesErrors(t *testing.T) {
	t.Parallel()
	pool, network := breakablePool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	network.cut()
	for name, call := range map[string]func(context.Context, jobs.RunQuery) (int, error){
		"RetryMany": s.RetryMany, "CountRetryable": s.CountRetryable, "CancelMany": s.CancelMany, "CountCancellable": s.CountCancellable,
	} {
		_, err := call(t.Context(), jobs.RunQuery{})
		require.ErrorContains(t, err, "the network is cut", name)
	}
	_, err := s.FindRuns(t.Context(), jobs.RunQuery{})
	require.ErrorContains(t, err, "river: find runs: ")
	_, err = s.Run(t.Context(), "1")
	require.ErrorContains(t, err, `river: run "1": `)
	require.NotErrorIs(t, err, jobs.ErrUnknownID)
	_, err = s.Processes(t.Context())
	require.ErrorContains(t, err, "river: processes: ")
}

func column[T any](t testing.TB, pool *pgxpool.Pool, sql string) []T {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return slices.Clip(all)
}
