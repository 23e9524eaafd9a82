package migrations_test

import (
	"context"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/migrations"
)

// empty gives databases in which nothing has been migrated.
var empty = dbtest.New(nil)

var moduleTables = []string{"audit_archive", "audit_entries", "email_outbox", "notifications"}

func TestTenProcessesStartingTogetherApplyEachMigrationOnce(t *testing.T) {
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
	require.Len(t, applied, len(files), "each file is applied once")
	for i, version := range applied {
		require.EqualValues(t, i+1, version, "files are numbered without gaps and applied in order")
	}
	river := column[int64](t, pool, `SELECT version FROM river.river_migration ORDER BY version`)
	require.NotEmpty(t, river)
	for i, version := range river {
		require.EqualValues(t, i+1, version, "River's migrations are applied once each")
	}
}

func TestCallersShareAPoolOfTwoConnectionsWithoutADeadlock(t *testing.T) {
	t.Parallel()
	pool := open(t, empty.URL(t), 2)
	group, ctx := errgroup.WithContext(t.Context())
	for _, schema := range []string{"river", "river", "river", "other"} {
		group.Go(func() error { return migrations.UpSchema(ctx, pool, schema) })
	}
	require.NoError(t, group.Wait())
	require.Equal(t, []string{"other", "river"}, column[string](t, pool,
		`SELECT schemaname::text FROM pg_tables WHERE tablename = 'river_job' ORDER BY 1`))
}

func TestDownTakesBackAllOfUpAndUpAppliesItAgain(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), open(t, empty.URL(t), 2)
	tables := func() []string {
		return column[string](t, pool, `SELECT tablename::text FROM pg_tables
			WHERE schemaname IN ('public', 'river') AND tablename <> 'everytick_migrations' ORDER BY 1`)
	}
	require.NoError(t, migrations.Down(ctx, pool), "nothing to take back is no error")
	for range 2 {
		require.NoError(t, migrations.Up(ctx, pool))
		up := tables()
		require.Subset(t, up, moduleTables)
		require.Subset(t, up, []string{"river_job", "river_queue"})
		require.NoError(t, migrations.Up(ctx, pool), "nothing to apply is no error")
		require.Equal(t, up, tables())

		require.NoError(t, migrations.Down(ctx, pool))
		require.Empty(t, tables(), "Down leaves a table of Up's")
	}
}

func TestTablesGoWhereTheyBelong(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]string{"a schema of its own": "jobs_of_Ours", "a schema that exists": "public"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, pool := t.Context(), open(t, empty.URL(t), 2)
			require.NoError(t, migrations.UpSchema(ctx, pool, schema))
			require.Equal(t, []string{schema}, column[string](t, pool,
				`SELECT schemaname::text FROM pg_tables WHERE tablename = 'river_job'`))
			require.ElementsMatch(t, moduleTables, column[string](t, pool,
				`SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY($1)`, moduleTables))
			require.NoError(t, migrations.DownSchema(ctx, pool, schema))
			require.Empty(t, column[string](t, pool, `SELECT tablename::text FROM pg_tables WHERE tablename = 'river_job'`))
		})
	}
}

func TestASchemaThatExistsNeedsNoRightToCreateSchemas(t *testing.T) {
	t.Parallel()
	url := empty.URL(t)
	admin := open(t, url, 2)
	// Roles are the server's, which may outlive the test.
	role := column[string](t, admin, `SELECT current_database() || '_limited'`)[0]
	exec(t, admin, `CREATE ROLE `+role)
	t.Cleanup(func() { exec(t, admin, `DROP OWNED BY `+role+` CASCADE; DROP ROLE `+role) })
	exec(t, admin, `CREATE SCHEMA river AUTHORIZATION `+role+`; GRANT CREATE, USAGE ON SCHEMA public TO `+role)

	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SET ROLE `+role)
		return err
	}
	limited, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(limited.Close)
	require.NoError(t, migrations.Up(t.Context(), limited))
	require.ErrorContains(t, migrations.UpSchema(t.Context(), limited, "other"), "permission denied")
}

func TestBadArgumentsAreRefusedBeforeAnySQL(t *testing.T) {
	t.Parallel()
	// Nobody listens there, so whatever asks the database fails in another way.
	const nowhere = "postgres://u:hunter2@127.0.0.1:1/db?sslmode=disable"
	for _, schema := range []string{"", "1st", "river;--", `ri"ver`, "ri ver", strings.Repeat("x", 10) + "."} {
		require.ErrorContains(t, migrations.UpSchema(t.Context(), open(t, nowhere, 2), schema), "want a letter", "%q", schema)
		require.ErrorContains(t, migrations.DownSchema(t.Context(), open(t, nowhere, 2), schema), "want a letter", "%q", schema)
	}
	require.ErrorContains(t, migrations.Up(t.Context(), open(t, nowhere, 1)), "two are needed",
		"a pool of one connection would wait for ever")

	for _, migrate := range []func(context.Context, *pgxpool.Pool) error{migrations.Up, migrations.Down} {
		err := migrate(t.Context(), open(t, nowhere, 2))
		require.ErrorContains(t, err, "migrations: ")
		require.NotContains(t, err.Error(), "hunter2", "a password in an error")
		require.NotContains(t, err.Error(), "postgres://", "a connection string in an error")
	}
}

func TestAnotherMigratorIsWaitedForUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	url := empty.URL(t)
	pool, other := open(t, url, 2), open(t, url, 1)
	exec(t, other, `SELECT pg_advisory_lock(hashtextextended('everytick migrate', 0))`)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.ErrorIs(t, migrations.Up(ctx, pool), context.DeadlineExceeded)
	require.Empty(t, column[string](t, pool, `SELECT tablename::text FROM pg_tables WHERE tablename = 'river_job'`),
		"River's migrator ran without the lock")

	other.Reset() // the connection and with it the lock
	require.NoError(t, migrations.Up(t.Context(), pool))
}

func TestLocksAreReleased(t *testing.T) {
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
