package river_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// fillTable inserts n completed rows of a job that is not registered.
func fillTable(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	execSQL(t, pool, `INSERT INTO river.river_job (kind, args, state, finalized_at, attempt, attempted_at)
		SELECT 'filler.job', '{}', 'completed', now(), 1, now() FROM generate_series(1, $1)`, n)
}

// insertRows inserts n rows with the same values.
func insertRows(t testing.TB, pool *pgxpool.Pool, n int, columns, values string) {
	t.Helper()
	if !strings.Contains(columns, "args") {
		columns, values = columns+", args", values+", '{}'"
	}
	execSQL(t, pool, fmt.Sprintf(`INSERT INTO river.river_job (%s) SELECT %s FROM generate_series(1, %d)`, columns, values, n))
}

// atLeast returns, in order, the states whose count is only a lower bound.
func atLeast(h jobs.Health) (states []jobs.State) {
	for state, count := range h.Totals {
		if count.AtLeast {
			states = append(states, state)
		}
	}
	slices.Sort(states)
	return states
}

func TestHealth_TotalsAreBounded(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	const most = 500
	fillTable(t, pool, most-1)
	insertRows(t, pool, 3, `kind, state, finalized_at`, `'filler.job', 'discarded', now()`)
	insertRows(t, pool, 5, `kind, state, scheduled_at`, `'filler.job', 'retryable', now() + interval '1 hour'`)
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, most-1, health.Totals[jobs.StateCompleted].N)
	require.Empty(t, atLeast(health))
	fillTable(t, pool, 2)
	health, err = s.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, most, health.Totals[jobs.StateCompleted].N)
	require.Equal(t, []jobs.State{jobs.StateCompleted}, atLeast(health))
	require.Equal(t, 3, health.Totals[jobs.StateFailed].N)
	require.Equal(t, 5, health.Totals[jobs.StateRetrying].N)
	insertRows(t, pool, most, `kind, state, scheduled_at`, `'filler.job', 'available', now() - interval '1 hour'`)
	insertRows(t, pool, 1, `kind, state, attempt, errors`, `'filler.job', 'available', 1, '{"{}"}'`)
	health, err = s.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, most, health.Totals[jobs.StateWaiting].N)
	require.Equal(t, []jobs.State{jobs.StateCompleted, jobs.StateRetrying, jobs.StateScheduled, jobs.StateWaiting}, atLeast(health),
		"an uncounted row that River calls available may be in any of these states")
}

func TestJobs_OverdueReasonNamesWhatDelaysATick(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{MaxWorkers: 1})
	release := make(chan struct{})
	open := sync.OnceFunc(func() { close(release) })
	t.Cleanup(open)
	blocked := func(context.Context, *jobs.Job) error {
		<-release
		return nil
	}
	require.NoError(t, s.RegisterInterval("a.general", time.Second, blocked))
	require.NoError(t, s.RegisterInterval("a.own", time.Second, blocked, jobs.Concurrency(2)))
	require.NoError(t, s.RegisterInterval("a.all", time.Second, blocked, jobs.Concurrency(3), jobs.CatchUp(jobs.CatchUpAll)))
	require.NoError(t, s.RegisterInterval("a.tx", time.Second, blocked, jobs.Transactional()))
	reasonsBecome := func(want map[string]string) {
		eventually(t, "the reasons appear", func() bool {
			all, err := s.Jobs(t.Context())
			require.NoError(t, err)
			got := map[string]string{}
			for _, st := range all {
				got[st.Name] = st.OverdueReason
			}
			return maps.Equal(want, got)
		})
	}
	require.NoError(t, s.Start(t.Context()))
	reasonsBecome(map[string]string{
		"a.general": "all workers are taken, 1 in this process, and no other process has one free",
		"a.own":     "all worker slots of the job are taken, 2 in this process, and no other process has one free",
		"a.all":     "the run of the previous tick has not ended",
		"a.tx":      "all worker slots of transactional jobs are taken, 1 in this process, and no other process has one free",
	})
	open()
	require.NoError(t, s.Shutdown(t.Context()))
	const stopped = "this scheduler is not started, and no other process has taken it: none that registers it is running, or all are busy"
	reasonsBecome(map[string]string{"a.general": stopped, "a.own": stopped, "a.all": stopped, "a.tx": stopped})
}

func TestHealth_ReportsAShutdownInProgress(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	running, release := make(chan struct{}), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error {
		close(running)
		<-release
		return nil
	}))
	reasons := func() []jobs.Reason {
		health, err := s.Health(t.Context())
		require.NoError(t, err)
		return health.Reasons
	}
	require.Equal(t, []jobs.Reason{{Text: "the scheduler is not started"}}, reasons())
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, running)
	require.Empty(t, reasons())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	eventually(t, "the shutdown begins", func() bool { return len(reasons()) > 0 })
	require.Equal(t, []jobs.Reason{{Text: "the scheduler is being shut down"}}, reasons())
	close(release)
	require.NoError(t, receive(t, stopped))
	require.Equal(t, []jobs.Reason{{Text: "the scheduler is not started"}}, reasons())
}

func TestHealth_ReportsAnExhaustedPool(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 2, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	for range 2 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
	}
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Len(t, health.Reasons, 1)
	require.Contains(t, health.Reasons[0].Text, "the database does not answer: all 2 connections of the pool are in use: ")
}

func TestHealth_OldestWaitingCoversAllQueuesButThePaused(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	oldest := func() time.Duration {
		health, err := s.Health(t.Context())
		require.NoError(t, err)
		return health.OldestWaiting
	}
	const columns = `kind, state, queue, priority, scheduled_at`
	for _, values := range []string{
		`'a.job', 'available', 'aaa', 1, now() + interval '1 hour'`, // not yet due
		`'a.job', 'scheduled', 'default', 1, now() - interval '2 hours'`,
		`'a.job', 'available', '` + river.PausedQueue + `', 1, now() - interval '2 hours'`,
	} {
		insertRows(t, pool, 2, columns, values)
	}
	require.Zero(t, oldest())
	for _, row := range []struct {
		queue    string
		priority int
		minutes  int
		want     time.Duration
	}{
		{"default", 1, 2, 2 * time.Minute},
		{"zzz", 2, 1, 2 * time.Minute},
		{"zzz", 4, 10, 10 * time.Minute},
		{"aaa", 3, 7, 10 * time.Minute},
		{"default", 4, 20, 20 * time.Minute},
	} {
		insertRows(t, pool, 3, columns, fmt.Sprintf(`'a.job', 'available', '%s', %d, now() - %d * interval '1 minute'`, row.queue, row.priority, row.minutes))
		require.InDelta(t, row.want.Seconds(), oldest().Seconds(), 50, "with %v", row)
	}
}

// scans returns how often an index was used. Sessions report that about a second late.
func scans(t testing.TB, pool *pgxpool.Pool, index string) int {
	t.Helper()
	return scalar[int](t, pool, `SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1`, index)
}

func TestQueueSize_IsExactAndUsesTheIndex(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	require.NoError(t, s.RegisterDelayed("a.none", 0, noop))
	fillTable(t, pool, 20_000)
	insertRows(t, pool, 500, `kind, state, finalized_at, attempt`, `'a.job', 'completed', now(), 1`)
	insertRows(t, pool, 400, `kind, state, scheduled_at`, `'filler.job', 'available', now() + interval '1 hour'`)
	// The numbers of rows are powers of two, so that a sum shows which of them were counted.
	const columns = `kind, state, scheduled_at, attempt, queue`
	for i, values := range []string{
		`'a.job', 'available', now(), 0, 'default'`,
		`'a.job', 'available', now() + interval '4 seconds', 0, 'default'`,
		`'a.job', 'scheduled', now() + interval '1 hour', 0, 'default'`,
		`'a.job', 'pending', now() + interval '1 hour', 0, 'default'`,
		`'a.job', 'available', now(), 0, '` + river.PausedQueue + `'`,
		`'a.job', 'retryable', now() + interval '1 hour', 1, 'default'`,
		`'a.job', 'available', now(), 2, '` + river.PausedQueue + `'`,
		`'a.job', 'running', now(), 1, 'default'`,
	} {
		insertRows(t, pool, 1<<i, columns, values)
	}
	const tickColumns, tick = columns + `, metadata`, `, '{"everytick_tick": "2026-01-01T00:00:00Z"}'`
	for i, values := range []string{
		`'a.tick', 'available', now() - interval '1 minute', 0, 'default'`,
		`'a.tick', 'retryable', now() + interval '1 hour', 1, 'default'`,
		`'a.tick', 'available', now() + interval '1 hour', 2, '` + river.PausedQueue + `'`,
		`'a.tick', 'running', now(), 1, 'default'`,
	} {
		insertRows(t, pool, 1<<i, tickColumns, values+tick)
	}
	execSQL(t, pool, `INSERT INTO river.everytick_schedule (name, spec, claimed_at, next_tick) VALUES ('a.tick', 'every 1h0m0s', now(), now() - interval '1 second')`)
	insertRows(t, pool, 32, columns, `'a.tick', 'scheduled', now() + interval '1 hour', 0, 'default'`) // triggered
	execSQL(t, pool, `VACUUM ANALYZE river.river_job`)

	count := func() {
		for name, want := range map[string]int{"a.job": 1<<7 - 1, "a.tick": 1 + 2 + 4 + 32 + 1, "a.none": 0} {
			n, err := s.QueueSize(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, want, n, name)
		}
		all, err := s.Jobs(t.Context())
		require.NoError(t, err)
		for i, want := range [][3]int{{1<<7 - 1, 1<<5 + 1<<6, 1 << 7}, {}, {1 + 2 + 4 + 32 + 1, 2 + 4, 8}} {
			require.Equal(t, want, [3]int{all[i].Waiting, all[i].Retrying, all[i].Running}, all[i].Name)
		}
	}
	const kindIndex = "river_job_kind"
	kinds := scans(t, pool, kindIndex)
	count()
	eventually(t, "the index is used", func() bool {
		_, err := s.QueueSize(t.Context(), "a.job")
		require.NoError(t, err)
		return scans(t, pool, kindIndex) > kinds
	})
	require.Contains(t, explain(t, pool, ""), "Index Only Scan using "+kindIndex)
	require.Contains(t, explain(t, pool, "AND attempt > 0"), "Scan using everytick_job_retries_index")
}

// explain returns the plan of a query that counts waiting jobs under a further condition.
func explain(t testing.TB, pool *pgxpool.Pool, condition string) (plan string) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `EXPLAIN SELECT count(*) FROM river.river_job WHERE kind = 'a.job'
		AND state IN ('available', 'scheduled', 'retryable', 'pending') `+condition)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		plan += line + "\n"
	}
	require.NoError(t, rows.Err())
	return plan
}

func TestHealth_ReportsAReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on" })
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, []jobs.Reason{{Text: "the database is read-only: no job can be stored, started or ended"}}, health.Reasons)
}

func TestHealth_ReportsErrorsFromTheDatabase(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	execSQL(t, pool, `ALTER TABLE river.river_job RENAME COLUMN errors TO faults`)
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Len(t, health.Reasons, 1)
	require.Regexp(t, "^the database answers with an error: .*errors", health.Reasons[0].Text)
}

func TestJobs_OverdueReasonBlamesWorkersOnlyIfBusy(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{MaxWorkers: 1})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
	eventually(t, "the worker is free again", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateCompleted })
	// A waiting tick in a queue without workers.
	insertRows(t, pool, 1, `id, kind, state, queue, metadata`, `4711, 'a.tick', 'available', 'nowhere', '{"everytick_tick": "2026-01-01T00:00:00Z"}'`)
	reasonAfter := func(age string) string {
		execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() - $1::interval, queue = 'nowhere' WHERE id = 4711`, age)
		execSQL(t, pool, `UPDATE river.everytick_schedule SET last_tick = '2026-01-01T00:00:00Z', last_job_id = 4711 WHERE name = 'a.tick'`)
		all, err := s.Jobs(t.Context())
		require.NoError(t, err)
		return all[1].OverdueReason
	}
	eventually(t, "workers are free", func() bool {
		return reasonAfter("8 seconds") == "no worker has taken it, though some are free; see the log"
	})
	eventually(t, "a tick that has just come due is about to start", func() bool { return reasonAfter("0.1 seconds") == "it is about to start" })
}

func TestHealth_ReportsAMissingLeader(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	execSQL(t, pool, `CREATE FUNCTION river.nobody() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	execSQL(t, pool, `CREATE TRIGGER nobody BEFORE INSERT OR UPDATE ON river.river_leader FOR EACH ROW EXECUTE FUNCTION river.nobody()`)
	reasons := func() []jobs.Reason {
		health, err := s.Health(t.Context())
		require.NoError(t, err)
		return health.Reasons
	}
	require.NoError(t, s.Start(t.Context()))
	require.Empty(t, reasons(), "an election takes some time")
	eventually(t, "the missing leader is reported", func() bool {
		return slices.Equal(reasons(), []jobs.Reason{{Text: "no process leads: delayed jobs and retries wait for an election"}})
	})
	require.NoError(t, shutdown(s))
	require.Equal(t, []jobs.Reason{{Text: "the scheduler is not started"}}, reasons())
}
