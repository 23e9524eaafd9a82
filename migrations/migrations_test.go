package migrations_test

import (
	"context"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/migrations"
)

// empty provides databases without migrations.
var empty = dbtest.New(nil)

var moduleTables = []string{"audit_archive", "audit_entries", "email_outbox", "notifications"}

func TestUp_ConcurrentCallersApplyEachMigrationOnce(t *testing.T) {
	t.Parallel()
	url := empty.URL(t)
	group, ctx := errgroup.WithContext(t.Context())
	for range 10 {
		pool := open(t, url, 2)
		group.Go(func() error { return migrations.Up(ctx, pool) })
	}
	require.NoError(t, group.Wait())

	pool := open(t, url, 2)
	files, err := fs.Glob(os.DirFS("."), "*.sql")
	require.NoError(t, err)
	applied := column[int64](t, pool, `SELECT version_id FROM everytick_migrations WHERE version_id > 0 ORDER BY id`)
	require.Len(t, applied, len(files), "each migration is applied once")
	for i, version := range applied {
		require.EqualValues(t, i+1, version, "migrations are numbered without gaps and applied in order")
	}
	require.Empty(t, column[string](t, pool, `SELECT nspname::text FROM pg_namespace WHERE nspname = 'river'`), "River's tables are not included")
}

func TestUp_CallersOnAPoolOfOneConnectionDoNotDeadlock(t *testing.T) {
	t.Parallel()
	pool := open(t, empty.URL(t), 1)
	group, ctx := errgroup.WithContext(t.Context())
	for range 3 {
		group.Go(func() error { return migrations.Up(ctx, pool) })
	}
	require.NoError(t, group.Wait())
}

func TestDown_RevertsUp(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), open(t, empty.URL(t), 2)
	tables := func() []string {
		return column[string](t, pool, `SELECT tablename::text FROM pg_tables
			WHERE schemaname = 'public' AND tablename <> 'everytick_migrations' ORDER BY 1`)
	}
	require.NoError(t, migrations.Down(ctx, pool), "nothing to revert")
	for range 2 {
		require.NoError(t, migrations.Up(ctx, pool))
		up := tables()
		require.Equal(t, moduleTables, up)
		require.NoError(t, migrations.Up(ctx, pool), "nothing to apply")
		require.Equal(t, up, tables())

		require.NoError(t, migrations.Down(ctx, pool))
		require.Empty(t, tables(), "tables left by Down")
	}
}

func TestUp_CreatesTablesInTheFirstSchemaOfTheSearchPath(t *testing.T) {
	t.Parallel()
	url := empty.URL(t)
	exec(t, open(t, url, 1), `CREATE SCHEMA ours`)
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.ConnConfig.RuntimeParams["search_path"] = "ours, public"
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, migrations.Up(t.Context(), pool))
	require.Equal(t, slices.Sorted(slices.Values(append(moduleTables[:len(moduleTables):len(moduleTables)], "everytick_migrations"))),
		column[string](t, pool, `SELECT tablename::text FROM pg_tables WHERE schemaname = 'ours' ORDER BY 1`))
}

func TestMigrate_ErrorsContainNoPassword(t *testing.T) {
	t.Parallel()
	// Nothing listens on port 1.
	const nowhere = "postgres://u:hunter2@127.0.0.1:1/db?sslmode=disable"
	for _, migrate := range []func(context.Context, *pgxpool.Pool) error{migrations.Up, migrations.Down} {
		err := migrate(t.Context(), open(t, nowhere, 2))
		require.ErrorContains(t, err, "migrations: ")
		require.NotContains(t, err.Error(), "hunter2", "password in an error")
		require.NotContains(t, err.Error(), "postgres://", "connection string in an error")
	}
}

func TestUp_WaitsForAnotherProcessUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	url := empty.URL(t)
	pool, other := open(t, url, 2), open(t, url, 1)
	exec(t, other, `SELECT pg_advisory_lock(x'65766572797469'::bigint)`)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.ErrorIs(t, migrations.Up(ctx, pool), context.DeadlineExceeded)
	require.Empty(t, column[string](t, pool, `SELECT tablename::text FROM pg_tables WHERE tablename = ANY($1)`, moduleTables),
		"migrated without the lock")

	other.Reset() // closes the connection, which releases the lock
	require.NoError(t, migrations.Up(t.Context(), pool))
}

func TestUp_ReleasesItsLock(t *testing.T) {
	t.Parallel()
	pool := open(t, empty.URL(t), 2)
	require.NoError(t, migrations.Up(t.Context(), pool))
	require.Empty(t, column[int64](t, pool, `SELECT objid::int8 FROM pg_locks
		WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
}

func open(t *testing.T, url string, maxConns int32) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	_, err := pool.Exec(context.Background(), sql)
	require.NoError(t, err)
}

func column[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) []T {
	t.Helper()
	rows, err := pool.Query(context.Background(), sql, args...)
	require.NoError(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return values
}
