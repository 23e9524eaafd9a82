package river_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

func TestMigrate_RejectsBadArguments(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, river.Migrate(t.Context(), nil, nil), "pool is nil")
	unknown := &river.MigrateOptions{SearchIndexes: 3}
	require.ErrorContains(t, river.Migrate(t.Context(), poolOf(t, 2, pgx.QueryExecModeCacheStatement), unknown), "SearchIndexes is 3, must be SearchIndexesKeep")
}

func TestStart_RequiresMigrateAfterRiversOwnMigrations(t *testing.T) {
	t.Parallel()
	pool := empty.Pool(t)
	execSQL(t, pool, `CREATE SCHEMA river`)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: "river", Logger: quiet()})
	require.NoError(t, err)
	_, err = migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil)
	require.NoError(t, err)

	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.ErrorContains(t, s.Start(t.Context()), "call river.Migrate")
	require.ErrorContains(t, s.Pause(t.Context(), "a.job"), "call river.Migrate")
	require.ErrorContains(t, s.Resume(t.Context(), "a.job"), "call river.Migrate")
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Contains(t, health.Reasons[0].Text, "call river.Migrate")
	_, err = s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err, "a trigger needs only River's tables")
	require.NoError(t, river.Migrate(t.Context(), pool, nil))
	require.NoError(t, s.Start(t.Context()))
}

func TestScheduler_ReindexesOnlyExistingIndexes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	require.NoError(t, river.Migrate(t.Context(), pool, &river.MigrateOptions{SearchIndexes: river.SearchIndexesDrop}))
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log, River: func(cfg *riverqueue.Config) { cfg.ReindexerSchedule = riverqueue.PeriodicInterval(time.Second) }})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	require.NotContains(t, logged.String(), "call river.Migrate")
	eventually(t, "the leader has rebuilt an index", func() bool {
		return logsContain(logged, `Initiated reindex" index_name=river_job_state_and_finalized_at_index`)
	})
	require.NotContains(t, logged.String(), "do not exist")
	require.NotContains(t, logged.String(), "Error reindexing")
	require.NoError(t, shutdown(s))
}

func TestMaintenance_AnalyzesAGrownTable(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	analyzed := func() (n int) {
		return scalar[int](t, pool, `SELECT analyze_count FROM pg_stat_user_tables WHERE relid = 'river.river_job'::regclass`)
	}
	require.Zero(t, analyzed())
	// The table has the pages of these rows before the rows are committed.
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, state, finalized_at)
			SELECT 'filler.job', '{}', 'completed', now() FROM generate_series(1, 20000)`)
		require.NoError(t, err)
		eventually(t, "the table is analyzed", func() bool { return analyzed() > 0 })
		return nil
	}))
	eventually(t, "the committed rows are counted", func() bool {
		n := scalar[float64](t, pool, `SELECT reltuples::float8 FROM pg_class WHERE oid = 'river.river_job'::regclass`)
		return n > 19_000 && n < 21_000
	})
	eventually(t, "ANALYZE has ended; its counts appear earlier", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_progress_analyze WHERE relid = 'river.river_job'::regclass`) == 0
	})
	eventually(t, "ANALYZE is counted; PostgreSQL 13 and 14 do so some time after its end", func() bool {
		return scalar[int](t, pool, `SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relid = 'river.river_job'::regclass`) < 1000
	})
	known := analyzed()
	fillTable(t, pool, 1000)
	pass(t, 15*time.Second) // maintenance runs again
	require.Equal(t, known, analyzed(), "the table has hardly grown")
}

// A table that cannot be analyzed must not prevent a start.
func TestMaintenance_FailedAnalyzeStopsNoOtherStep(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	execSQL(t, pool, `CREATE FUNCTION refuse(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
		IF current_query() ILIKE 'ANALYZE%' THEN RAISE 'refused'; END IF; RETURN $1; END $$`)
	execSQL(t, pool, `CREATE INDEX refuse ON river.river_job (refuse(id))`)
	fillTable(t, pool, 20_000)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.RetryDelay(0)))
	stopped(t, s, "dead")
	id := abandoned(t, s, "a.job", "dead", 1, "")
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "the failed step is logged", func() bool {
		return logsContain(logged, `level=WARN msg="maintenance step failed; retrying within seconds" step=statistics error="ERROR: refused`)
	})
	require.Equal(t, id, receive(t, ran).ID, "the other steps run")
}

// asRole returns two pools on one database: one of its owner, and one of a role that may read and write the tables
// and owns nothing.
func asRole(t testing.TB, db *dbtest.Template) (owner, limited *pgxpool.Pool) {
	t.Helper()
	url := db.URL(t)
	owner, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(owner.Close)
	role := fmt.Sprintf("limited_%x", rand.Uint64())
	execSQL(t, owner, `CREATE ROLE `+role)
	t.Cleanup(func() {
		_, err := owner.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role)
		require.NoError(t, err)
	})
	for _, grant := range []string{
		`USAGE ON SCHEMA river`, `SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river`, `USAGE ON ALL SEQUENCES IN SCHEMA river`,
	} {
		execSQL(t, owner, `GRANT `+grant+` TO `+role)
	}
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.ConnConfig.RuntimeParams["role"] = role
	limited, err = pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(limited.Close)
	return owner, limited
}

func TestScheduler_RunsJobsWithoutOwningTables(t *testing.T) {
	t.Parallel()
	owner, pool := asRole(t, migrated)
	require.NoError(t, river.Migrate(t.Context(), pool, nil), "there is nothing to do")
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	ran, ticks := make(chan jobs.Job, 1000), make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.Start(t.Context()))
	fillTable(t, owner, 20_000)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	_, err := s.TriggerMany(t.Context(), "a.job", numbered(600))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	for range 600 {
		receive(t, ran)
	}
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Hour))
	require.NoError(t, err)
	require.NoError(t, s.Cancel(t.Context(), "a.job", id))
	require.NoError(t, s.Retry(t.Context(), "a.job", id))
	require.Equal(t, id, receive(t, ran).ID)
	for range 4 { // so that periodic checks have run
		receive(t, ticks)
	}
	require.Zero(t, scalar[int](t, owner, `SELECT analyze_count FROM pg_stat_user_tables WHERE relid = 'river.river_job'::regclass`), "only the owner may analyze")
	require.NotContains(t, logged.String(), "permission denied")
	require.NotContains(t, logged.String(), "maintenance step failed")
}

func TestConfigSchema_MayContainCapitals(t *testing.T) {
	t.Parallel()
	const schema = "MyJobs"
	pool := empty.Pool(t)
	require.NoError(t, river.Migrate(t.Context(), pool, &river.MigrateOptions{Schema: schema}))
	require.NoError(t, river.Migrate(t.Context(), pool, &river.MigrateOptions{Schema: schema, SearchIndexes: river.SearchIndexesDrop}))
	next := listening(t, pool.Config().ConnString(), schema)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Schema: schema, Logger: log, River: unpolled})
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	require.NoError(t, s.Start(t.Context()))
	require.NotContains(t, logged.String(), "call river.Migrate")
	for _, n := range []int{1, 600} {
		_, err := s.TriggerMany(t.Context(), "a.job", numbered(n))
		require.NoError(t, err)
		next()
		for range n {
			receive(t, ran)
		}
	}
	_, err := s.Jobs(t.Context())
	require.NoError(t, err)
	_, err = s.Activity(t.Context(), time.Minute, 1)
	require.NoError(t, err)
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.True(t, health.Healthy, "%v", health.Reasons)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Hour))
	require.NoError(t, err)
	require.NoError(t, s.Cancel(t.Context(), "a.job", id))
	require.NoError(t, s.Retry(t.Context(), "a.job", id))
}

func TestMigrate_RejectsAPoolOfOneConnection(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.ErrorContains(t, river.Migrate(ctx, poolOf(t, 1, pgx.QueryExecModeCacheStatement), nil), "at least 2 are needed")
}
