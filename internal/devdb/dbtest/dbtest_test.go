package dbtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

var migrations atomic.Int32

var notes = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error {
	migrations.Add(1)
	_, err := pool.Exec(ctx, `CREATE TABLE notes (note text PRIMARY KEY)`)
	return err
})

func TestTemplate_ConcurrentTestsGetTheirOwnDatabases(t *testing.T) {
	t.Parallel()
	another := notes.URL(t)
	var names sync.Map
	t.Cleanup(func() { // when all eight have ended
		require.EqualValues(t, 1, migrations.Load())
		left := databases(t, another)
		names.Range(func(name, _ any) bool {
			require.NotContains(t, left, name)
			return true
		})
	})
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := notes.Pool(t)
			// The same key in each test: no test sees the row of another.
			_, err := pool.Exec(t.Context(), `INSERT INTO notes VALUES ('mine')`)
			require.NoError(t, err)
			var name string
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name))
			_, seen := names.LoadOrStore(name, true)
			require.False(t, seen)
		})
	}
}

func TestTemplate_NilMigrateMeansEmpty(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(nil).Pool(t)
	var tables int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`).Scan(&tables))
	require.Zero(t, tables)
}

func TestTemplate_URLDropsDatabaseWithOpenConnections(t *testing.T) {
	t.Parallel()
	var conn *pgx.Conn
	t.Cleanup(func() { // runs after the cleanup of URL
		require.Error(t, conn.Ping(context.Background()), "the database was not dropped")
	})
	var err error
	conn, err = pgx.Connect(t.Context(), notes.URL(t)) // never closed
	require.NoError(t, err)
}

func TestTemplate_MigrateErrorFailsEveryTest(t *testing.T) {
	t.Parallel()
	broken := dbtest.New(func(context.Context, *pgxpool.Pool) error { return errors.New("no such column") })
	for range 2 { // the second test fails as well
		require.Contains(t, fatal(t, func(tb testing.TB) { broken.URL(tb) }), "dbtest: migrating the template: no such column")
	}
}

func TestServer_IsSeparate(t *testing.T) {
	t.Parallel()
	db := dbtest.Server(t, devdb.Options{Fast: true})
	require.NotEqual(t, databases(t, notes.URL(t)), databases(t, db.URL))
	require.NoError(t, db.Kill())
	databases(t, notes.URL(t)) // still answers
	require.NoError(t, db.Restart(t.Context()))
	databases(t, db.URL)
}

func TestTemplate_DatabaseURL(t *testing.T) {
	t.Parallel()
	db := dbtest.Server(t, devdb.Options{Fast: true})
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	for _, sql := range []string{
		`CREATE DATABASE everytick_test_7_1`, // of a running process, which holds the lock in another database
		`CREATE DATABASE everytick_test_8_1`, // of a killed process
		`CREATE DATABASE everytick_test_notes`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	_, err = conn.Exec(t.Context(), `SELECT pg_advisory_lock(x'65767479'::int, 7)`)
	require.NoError(t, err)
	const others = "everytick_test_notes"

	cfg := conn.Config()
	pairs := fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", cfg.Host, cfg.Port, cfg.User, others)
	for _, dsn := range []string{db.URL, pairs} {
		out, err := rerun("TestTemplate_ConcurrentTestsGetTheirOwnDatabases", "DATABASE_URL="+dsn)
		require.NoError(t, err, out)
		left := databases(t, db.URL)
		require.Contains(t, left, "everytick_test_7_1")
		require.NotContains(t, left, "everytick_test_8_1")
		require.Contains(t, left, others, "not a test database")
		// Three of Postgres, two of this test, and the template of the latest run; the one before was dropped.
		require.Len(t, left, 6)
	}
}

func TestTemplate_NoPostgresFailsTheTest(t *testing.T) {
	t.Parallel()
	out, err := rerun("TestTemplate_NilMigrateMeansEmpty", "DATABASE_URL=", "PGBIN=/nowhere")
	require.Error(t, err)
	require.Contains(t, out, `PGBIN is set to "/nowhere"`)
	require.Contains(t, out, "--- FAIL: TestTemplate_NilMigrateMeansEmpty")
	require.NotContains(t, out, "SKIP")
}

// rerun runs a test in another process with additional environment variables.
func rerun(test string, environ ...string) (out string, err error) {
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), environ...)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func databases(t *testing.T, url string) []string {
	t.Helper()
	ctx := context.Background() // not t.Context(), which has ended when a cleanup runs
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database ORDER BY datname`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

// recorder is a testing.TB whose failure does not fail the test.
type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatal(args ...any) {
	r.message = fmt.Sprint(args...)
	runtime.Goexit()
}

// fatal returns the message that f passes to Fatal.
func fatal(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	r, done := &recorder{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.message
}
