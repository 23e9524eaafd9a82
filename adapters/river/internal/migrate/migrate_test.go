package migrate_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/migrate"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

func run(ctx context.Context, pool *pgxpool.Pool, search *bool) error {
	m, err := migrate.New(pool, store.New("river"), search)
	if err != nil {
		return err
	}
	return m.Run(ctx)
}

// migrated provides each test with a migrated database.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return run(ctx, pool, nil) })

func poolWith(t testing.TB, parameter, value string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	cfg.ConnConfig.RuntimeParams[parameter] = value
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func execSQL(t testing.TB, db store.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func scalar[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

// indexes returns the definitions of the valid indexes of the job table by name.
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

func TestMigration_CompleteChecksTables(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	m, err := migrate.New(pool, store.New("river"), nil)
	require.NoError(t, err)
	complete := func() bool {
		t.Helper()
		complete, err := m.Complete(t.Context())
		require.NoError(t, err)
		return complete
	}
	require.True(t, complete())
	execSQL(t, pool, `DROP INDEX river.`+migrate.KindIndex)
	require.True(t, complete(), "jobs run without the index, only slower")
	for _, table := range []string{"everytick_schedule", "everytick_process", "everytick_pause"} {
		execSQL(t, pool, `DROP TABLE river.`+table)
		require.False(t, complete(), table)
		require.NoError(t, m.Run(t.Context()))
		require.True(t, complete(), table)
	}
	execSQL(t, pool, `DROP SCHEMA river CASCADE`)
	require.False(t, complete(), "no schema")
	require.NoError(t, m.Run(t.Context()))
	require.True(t, complete())
}

func TestMigration_ConcurrentRuns(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := indexes(t, pool)
	execSQL(t, pool, `DROP SCHEMA river CASCADE`)
	ended := make(chan error)
	for range 5 {
		go func() { ended <- run(t.Context(), pool, nil) }()
	}
	for range 5 {
		require.NoError(t, <-ended)
	}
	require.Equal(t, before, indexes(t, pool))
}

func TestMigration_CreatesDropsAndKeepsTheSearchIndexes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := indexes(t, pool)
	require.Contains(t, before, argsIndex)
	require.Contains(t, before, metadataIndex)
	keep, drop := true, false
	for _, step := range []struct {
		search *bool
		kept   bool
	}{{nil, true}, {&keep, true}, {&drop, false}, {nil, false}, {&drop, false}, {&keep, true}, {nil, true}} {
		require.NoError(t, run(t.Context(), pool, step.search))
		now := indexes(t, pool)
		if !step.kept {
			require.NotContains(t, now, argsIndex)
			require.NotContains(t, now, metadataIndex)
			now[argsIndex], now[metadataIndex] = before[argsIndex], before[metadataIndex]
		}
		require.Equal(t, before, now)
	}
}

func TestMigration_RebuildsInvalidIndexes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := indexes(t, pool)
	execSQL(t, pool, `UPDATE pg_index SET indisvalid = false
		WHERE indexrelid IN (SELECT oid FROM pg_class WHERE relname IN ($1, $2))`, migrate.KindIndex, argsIndex)
	require.NotContains(t, indexes(t, pool), migrate.KindIndex)
	keep := true
	require.NoError(t, run(t.Context(), pool, &keep))
	require.Equal(t, before, indexes(t, pool))
}

func TestMigration_ContinuesAfterAnInterruptionWhileWideningAnIndex(t *testing.T) {
	t.Parallel()
	const (
		narrow = `CREATE INDEX river_job_kind ON river.river_job USING btree (kind)`
		wide   = ` ON river.river_job USING btree (kind, state)`
	)
	for name, soFar := range map[string][]string{
		"before the start":               {`DROP INDEX river.river_job_kind`, narrow},
		"while creating the wider index": {`DROP INDEX river.river_job_kind`, narrow, `CREATE INDEX ` + migrate.WiderIndex + wide, `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'river.` + migrate.WiderIndex + `'::regclass`},
		"before dropping River's index":  {`DROP INDEX river.river_job_kind`, narrow, `CREATE INDEX ` + migrate.WiderIndex + wide},
		"before renaming":                {`ALTER INDEX river.river_job_kind RENAME TO ` + migrate.WiderIndex},
		"without River's index":          {`DROP INDEX river.river_job_kind`},
		"with River's index invalid":     {`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'river.river_job_kind'::regclass`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			before := indexes(t, pool)
			require.Contains(t, before[migrate.KindIndex], wide)
			for _, sql := range soFar {
				execSQL(t, pool, sql)
			}
			require.NotEqual(t, before, indexes(t, pool))
			require.NoError(t, run(t.Context(), pool, nil))
			require.Equal(t, before, indexes(t, pool))
		})
	}
}

func TestMigration_RebuildsNothingWithQuoteAllIdentifiers(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, "quote_all_identifiers", "on")
	index := func() uint32 { return scalar[uint32](t, pool, `SELECT 'river.river_job_kind'::regclass::oid`) }
	before := index()
	require.NoError(t, run(t.Context(), pool, nil))
	require.Equal(t, before, index())
}

func TestMigration_IgnoresTheTimeoutOfIdleTransactions(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, "idle_in_transaction_session_timeout", "5s")
	before := indexes(t, pool)
	execSQL(t, pool, `DROP INDEX river.`+migrate.KindIndex)
	tx, err := pool.Begin(t.Context()) // CREATE INDEX waits for it
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	execSQL(t, tx, `SET LOCAL idle_in_transaction_session_timeout TO 0`)
	execSQL(t, tx, `LOCK TABLE river.river_job IN ROW EXCLUSIVE MODE`)
	migrating := make(chan error, 1)
	go func() { migrating <- run(context.Background(), pool, nil) }()
	eventually := func(what, sql string, n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND `+sql) == n
		}, time.Minute, 20*time.Millisecond, what)
	}
	eventually("the index is being created", `query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'`, 1)
	eventually("both transactions have been idle longer than the timeout", `state = 'idle in transaction' AND state_change < now() - interval '7 seconds'`, 2)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-migrating)
	require.Equal(t, before, indexes(t, pool))
}
