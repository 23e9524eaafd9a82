package river_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// shadowing returns a pool that calls a function of our own in place of PostgreSQL's.
func shadowing(t testing.TB, function, body string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	cfg.ConnConfig.RuntimeParams["search_path"] = "public, pg_catalog"
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	execSQL(t, pool, `CREATE SEQUENCE calls`)
	execSQL(t, pool, `CREATE FUNCTION public.`+function+` LANGUAGE plpgsql AS $$ BEGIN `+body+` END $$`)
	return pool
}

// waitForDisk is what waits for the disk, and is called once to see whether it can be.
const waitForDisk = `pg_logical_emit_message(boolean, text, text) RETURNS pg_lsn`

func TestWorkersAreToldOfAJobOnItsWayToDisk(t *testing.T) {
	t.Parallel()
	pool := shadowing(t, waitForDisk, `IF nextval('calls') > 1 THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN '0/1';`)
	s := newScheduler(t, pool, river.Config{Native: unpolled})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	stored := make(chan error, 1)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(1)`)
		require.NoError(t, err)
		go func() {
			_, err := s.Trigger(context.Background(), "a.job", nil)
			stored <- err
		}()
		receive(t, ran)
		require.Empty(t, stored, "the caller still waits")
		return nil
	}))
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
	require.True(t, s.TellsEarly())
	s.EndCooldown()
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
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
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
				s.EndCooldown()
			}
			ids, err := s.TriggerMany(t.Context(), "a.job", numbered(2))
			require.NoError(t, err)
			require.ElementsMatch(t, ids, []string{receive(t, ran).ID, receive(t, ran).ID})
			require.True(t, s.TellsEarly())
		})
	}
}

func TestTriggersWhoseWaitForTheDiskFailsAreNotStoredTwice(t *testing.T) {
	t.Parallel()
	pool := shadowing(t, waitForDisk, `IF nextval('calls') > 1 THEN RAISE 'the disk is full'; END IF; RETURN '0/1';`)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	release := stalled(t, s)
	errs := make([]error, 20)
	var wg sync.WaitGroup
	trigger := func(i int) {
		wg.Go(func() { _, errs[i] = s.Trigger(context.Background(), "a.job", map[string]int{"n": i}) })
	}
	trigger(0)
	blocked(t, pool, 1)
	s.EndCooldown()
	for i := range errs[1:] {
		trigger(i + 1)
	}
	blocked(t, pool, 2)
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
	for name, allowed := range map[string]int{"never": 0, "no longer": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := shadowing(t, waitForDisk, fmt.Sprintf(
				`IF nextval('calls') > %d THEN RAISE insufficient_privilege; END IF; RETURN '0/1';`, allowed))
			next := listening(t, pool.Config().ConnString(), "river")
			s := newScheduler(t, pool, river.Config{TriggerOnly: true})
			for i := range 4 {
				_, err := s.Trigger(t.Context(), "a.job", nil)
				if i < allowed {
					require.ErrorContains(t, err, "not known whether on disk")
				} else {
					require.NoError(t, err)
				}
				require.JSONEq(t, `{"queue": "default"}`, next())
				s.EndCooldown()
			}
			require.Equal(t, allowed+1, scalar[int](t, pool, `SELECT last_value::int FROM calls WHERE is_called`), "it is not tried again")
		})
	}
}

func TestThatWorkersCannotBeToldIsNoReasonNotToStore(t *testing.T) {
	t.Parallel()
	pool := shadowing(t, `pg_notify(text, text) RETURNS void`, `RAISE program_limit_exceeded;`)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	for range 3 {
		_, err := s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
		_, err = s.TriggerMany(t.Context(), "a.job", numbered(3))
		require.NoError(t, err)
		s.EndCooldown()
	}
	require.True(t, s.TellsEarly())
	require.Equal(t, 12, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}
