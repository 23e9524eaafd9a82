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

// indexes returns the valid indexes of the table of jobs, with their definitions.
func indexes(t testing.TB, pool *pgxpool.Pool) map[string]string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON oid = indexrelid
		WHERE indrelid = 'river.river_job'::regclass AND indisvalid`)
	require.NoError(t, err)
	all := map[string]string{}
	var name, definition string
	_, err = pgx.ForEachRow(rows, []any{&name, &definition}, func() error {
		all[name] = definition
		return nil
	})
	require.NoError(t, err)
	return all
}

const argsIndex, metadataIndex = "river_job_args_index", "river_job_metadata_index"

func TestMigrateWithoutAPoolIsAnError(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, river.Migrate(t.Context(), nil, ""), "pool is nil")
}

func TestMigrateKeepsDropsAndRemakesTheSearchIndexes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := indexes(t, pool)
	require.Contains(t, before, argsIndex)
	require.Contains(t, before, metadataIndex)
	for _, step := range []struct {
		opts []river.MigrateOption
		kept bool
	}{
		{nil, true},
		{[]river.MigrateOption{river.SearchIndexes(true)}, true},
		{[]river.MigrateOption{river.SearchIndexes(false)}, false},
		{nil, false},
		{[]river.MigrateOption{river.SearchIndexes(false)}, false},
		{[]river.MigrateOption{river.SearchIndexes(true)}, true},
		{nil, true},
	} {
		require.NoError(t, river.Migrate(t.Context(), pool, "", step.opts...))
		now := indexes(t, pool)
		if !step.kept {
			require.NotContains(t, now, argsIndex)
			require.NotContains(t, now, metadataIndex)
			now[argsIndex], now[metadataIndex] = before[argsIndex], before[metadataIndex]
		}
		require.Equal(t, before, now)
	}
}

func TestMigrateRemakesAnIndexThatIsInvalid(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := indexes(t, pool)
	require.Positive(t, execSQL(t, pool, `UPDATE pg_index SET indisvalid = false
		WHERE indexrelid IN (SELECT oid FROM pg_class WHERE relname IN ($1, $2))`, river.KindIndex, argsIndex))
	require.NotContains(t, indexes(t, pool), river.KindIndex)
	require.NoError(t, river.Migrate(t.Context(), pool, "", river.SearchIndexes(true)))
	require.Equal(t, before, indexes(t, pool))
}

func TestMigrateGoesOnWhereItWasInterruptedInWideningAnIndex(t *testing.T) {
	t.Parallel()
	const narrow, wide = `CREATE INDEX river_job_kind ON river.river_job USING btree (kind)`, ` ON river.river_job USING btree (kind, state, attempt)`
	for name, soFar := range map[string][]string{
		"before it began":       {`DROP INDEX river.river_job_kind`, narrow},
		"making the wider one":  {`DROP INDEX river.river_job_kind`, narrow, `CREATE INDEX ` + river.WiderIndex + wide, `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'river.` + river.WiderIndex + `'::regclass`},
		"before dropping":       {`DROP INDEX river.river_job_kind`, narrow, `CREATE INDEX ` + river.WiderIndex + wide},
		"before giving a name":  {`ALTER INDEX river.river_job_kind RENAME TO ` + river.WiderIndex},
		"River's is not there":  {`DROP INDEX river.river_job_kind`},
		"River's is not usable": {`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'river.river_job_kind'::regclass`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			before := indexes(t, pool)
			require.Contains(t, before[river.KindIndex], wide)
			for _, sql := range soFar {
				execSQL(t, pool, sql)
			}
			require.NotEqual(t, before, indexes(t, pool))
			require.NoError(t, river.Migrate(t.Context(), pool, ""))
			require.Equal(t, before, indexes(t, pool))
		})
	}
}

func TestASchemaThatRiverAloneMigratedNeedsMigrate(t *testing.T) {
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
	require.Contains(t, health.Reasons[0], "call river.Migrate")
	_, err = s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err, "it waits")
	require.NoError(t, river.Migrate(t.Context(), pool, ""))
	require.NoError(t, s.Start(t.Context()))
}

func TestTheReindexerIsAskedForNoIndexThatIsGone(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	require.NoError(t, river.Migrate(t.Context(), pool, "", river.SearchIndexes(false)))
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log, River: func(cfg *riverqueue.Config) { cfg.ReindexerSchedule = riverqueue.PeriodicInterval(time.Second) }})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	require.NotContains(t, logged.String(), "call river.Migrate")
	eventually(t, "the leader has remade an index", func() bool {
		return logsContain(logged, `Initiated reindex" index_name=river_job_state_and_finalized_at_index`)
	})
	require.NotContains(t, logged.String(), "do not exist")
	require.NotContains(t, logged.String(), "Error reindexing")
	require.NoError(t, shutdown(s))
}

func TestATableThatGrewIsAnalysedWithinSeconds(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	analysed := func() (n int) {
		return scalar[int](t, pool, `SELECT analyze_count FROM pg_stat_user_tables WHERE relid = 'river.river_job'::regclass`)
	}
	require.Zero(t, analysed())
	// Many rows that are not committed yet when their pages are seen.
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, state, finalized_at)
			SELECT 'filler.job', '{}', 'completed', now() FROM generate_series(1, 20000)`)
		require.NoError(t, err)
		eventually(t, "it is analysed", func() bool { return analysed() > 0 })
		return nil
	}))
	eventually(t, "its rows are counted", func() bool {
		n := scalar[float64](t, pool, `SELECT reltuples::float8 FROM pg_class WHERE oid = 'river.river_job'::regclass`)
		return n > 19_000 && n < 21_000
	})
	eventually(t, "the analysis has ended, and counts: the rows are known before", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_progress_analyze WHERE relid = 'river.river_job'::regclass`) == 0
	})
	known := analysed()
	fillTable(t, pool, 1000)
	began := time.Now()
	eventually(t, "maintenance has come again", func() bool { return time.Since(began) > 15*time.Second })
	require.Equal(t, known, analysed(), "it has not grown by much")
}

// A broken table, which an ANALYZE of cannot succeed, is not a reason not to start.
func TestAnAnalysisThatFailsHoldsNothingUp(t *testing.T) {
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
	eventually(t, "it is said, with the step", func() bool {
		return logsContain(logged, `level=WARN msg="maintenance step failed; it is tried again within seconds" step=statistics error="ERROR: refused`)
	})
	require.Equal(t, id, receive(t, ran).ID, "the other steps are done")
}

// asRole returns a pool of a role that may read and write the tables, and owns nothing.
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

func TestARoleThatOwnsNothingIsEnoughToRunJobs(t *testing.T) {
	t.Parallel()
	owner, pool := asRole(t, migrated)
	require.NoError(t, river.Migrate(t.Context(), pool, ""), "there is nothing to do")
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
	for range 4 { // longer than the keeper takes to look
		receive(t, ticks)
	}
	require.Zero(t, scalar[int](t, owner, `SELECT analyze_count FROM pg_stat_user_tables WHERE relid = 'river.river_job'::regclass`), "that is its owner's business")
	require.NotContains(t, logged.String(), "permission denied")
	require.NotContains(t, logged.String(), "maintenance step failed")
}

func TestASchemaWithCapitals(t *testing.T) {
	t.Parallel()
	const schema = "MyJobs"
	pool := empty.Pool(t)
	require.NoError(t, river.Migrate(t.Context(), pool, schema))
	require.NoError(t, river.Migrate(t.Context(), pool, schema, river.SearchIndexes(false)))
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

func TestMigrateRebuildsNothingWhereAllIdentifiersAreQuoted(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["quote_all_identifiers"] = "on" })
	index := func() uint32 {
		return scalar[uint32](t, pool, `SELECT to_regclass('river.'||$1::text)::oid`, river.KindIndex)
	}
	before := index()
	require.NoError(t, river.Migrate(t.Context(), pool, ""))
	require.Equal(t, before, index())
}

func TestMigrateOnAPoolOfOneConnectionIsAnError(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.ErrorContains(t, river.Migrate(ctx, poolOf(t, 1, pgx.QueryExecModeCacheStatement), ""), "at least 2 are needed")
}

func TestMigrateOutlivesATimeoutOfIdleTransactions(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "5s"
	})
	before := indexes(t, pool)
	execSQL(t, pool, `DROP INDEX river.`+river.KindIndex)
	tx := begin(t, pool) // the index waits for it
	_, err := tx.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout TO 0`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE river.river_job IN ROW EXCLUSIVE MODE`)
	require.NoError(t, err)
	migrating := make(chan error, 1)
	go func() { migrating <- river.Migrate(context.Background(), pool, "") }()
	eventually(t, "the index is made", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'`) == 1
	})
	eventually(t, "both transactions have been idle for too long", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'idle in transaction' AND state_change < now() - interval '7 seconds'`) == 2
	})
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, receive(t, migrating))
	require.Equal(t, before, indexes(t, pool))
}
