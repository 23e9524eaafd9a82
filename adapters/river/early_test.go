package river_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// replacedFlush returns a pool in which waiting for the disk is what body does.
func replacedFlush(t testing.TB, body string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	cfg.ConnConfig.RuntimeParams["search_path"] = "public, pg_catalog"
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	execSQL(t, pool, `CREATE SEQUENCE calls`)
	execSQL(t, pool, `CREATE FUNCTION public.pg_logical_emit_message(boolean, text, text) RETURNS pg_lsn
		LANGUAGE plpgsql AS $$ BEGIN `+body+` RETURN '0/1'; END $$`)
	return pool
}

func TestWorkersAreToldOfAJobOnItsWayToDisk(t *testing.T) {
	t.Parallel()
	pool := replacedFlush(t, `IF nextval('calls') > 1 THEN PERFORM pg_advisory_xact_lock(1); END IF;`)
	s := newScheduler(t, pool, river.Config{Native: unpolled})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(1)`)
	require.NoError(t, err)
	stored := make(chan error, 1)
	go func() {
		_, err := s.Trigger(context.Background(), "a.job", nil)
		stored <- err
	}()
	receive(t, ran)
	require.Empty(t, stored, "the caller still waits")
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, receive(t, stored))
}

func TestATriggeredJobOutlivesACrashOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.Server(t, devdb.Options{Fast: true})
	pool, err := pgxpool.New(t.Context(), db.URL)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, river.Migrate(t.Context(), pool, ""))
	// What nobody waits for stays in memory for long.
	execSQL(t, pool, `ALTER SYSTEM SET wal_writer_delay = '10s'`)
	require.NoError(t, db.Kill())
	require.NoError(t, db.Restart(t.Context()))
	pool.Reset()
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	_, err = s.Trigger(t.Context(), "a.first", nil)
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond) // so that workers are told of the next one early
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.NoError(t, db.Kill())
	require.NoError(t, db.Restart(t.Context()))
	pool.Reset()
	require.Equal(t, "a.job", scalar[string](t, pool, `SELECT kind FROM river.river_job WHERE id = $1::text::bigint`, id))
}

func TestWorkersAreToldInEveryModeOfSendingQueries(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := poolOf(t, 8, mode)
			s := newScheduler(t, pool, river.Config{Native: unpolled})
			ran := make(chan jobs.Job, 10)
			require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
			require.NoError(t, s.Start(t.Context()))
			for range 3 {
				id, err := s.Trigger(t.Context(), "a.job", nil)
				require.NoError(t, err)
				require.Equal(t, id, receive(t, ran).ID)
				time.Sleep(20 * time.Millisecond)
			}
			ids, err := s.TriggerMany(t.Context(), "a.job", numbered(2))
			require.NoError(t, err)
			require.ElementsMatch(t, ids, []string{receive(t, ran).ID, receive(t, ran).ID})
		})
	}
}

func TestTriggersWhoseWaitForTheDiskFailsAreToldAndNotStoredTwice(t *testing.T) {
	t.Parallel()
	pool := replacedFlush(t, `IF nextval('calls') > 1 THEN RAISE 'the disk is full'; END IF;`)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	release := stalled(t, s)
	errs := make([]error, 20)
	var wg sync.WaitGroup
	trigger := func(i int) {
		wg.Go(func() { _, errs[i] = s.Trigger(context.Background(), "a.job", map[string]int{"n": i}) })
	}
	trigger(0)
	eventually(t, "one is on its way", func() bool { return s.Inserting() == 1 })
	time.Sleep(50 * time.Millisecond) // so that workers are to be told of the others at once
	for i := range errs[1:] {
		trigger(i + 1)
	}
	gathered(t, s)
	release()
	wg.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			require.ErrorContains(t, err, `trigger "a.job": stored, but it is not known whether on disk`)
			require.ErrorContains(t, err, "the disk is full")
			failed++
		}
	}
	require.Greater(t, failed, 12, "the first one and those that had gathered")
	require.Equal(t, len(errs), scalar[int](t, pool, `SELECT count(DISTINCT args->>'n') FROM river.river_job`))
	require.Equal(t, len(errs), scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
	eventually(t, "no connection is kept", func() bool { return pool.Stat().AcquiredConns() == 0 })
}

func TestWithoutTheRightToWaitWorkersAreToldAfterwards(t *testing.T) {
	t.Parallel()
	pool := replacedFlush(t, `PERFORM nextval('calls'); RAISE insufficient_privilege;`)
	next := listening(t, pool.Config().ConnString(), "river")
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	for range 3 {
		_, err := s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
		require.JSONEq(t, `{"queue": "default"}`, next())
		time.Sleep(20 * time.Millisecond)
	}
	require.Equal(t, 1, scalar[int](t, pool, `SELECT last_value::int FROM calls`), "it is asked for once")
}
