//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// A server is a Postgres of a test's own, with durable settings: what it called
// committed must still be there after it was killed.
type server struct {
	*devdb.DB
	count atomic.Int32
}

// template is the database that the others are copied from.
const template = "faults_template"

// The clock of a database: with the schema first in the search path, now() is its
// function instead of Postgres's own. So the database's clock is put wrong rather
// than the processes', for all that River asks of either, and it can be put
// forward where days would have to pass.
const templateSQL = `
CREATE TABLE public.runs (
	job bigint NOT NULL, name text NOT NULL, tick timestamptz NOT NULL,
	started timestamptz NOT NULL, pid int NOT NULL, attempt int NOT NULL
);
CREATE INDEX ON public.runs (name, tick);
CREATE INDEX ON public.runs (job);
CREATE SCHEMA clock;
CREATE TABLE clock.ahead (by interval NOT NULL);
INSERT INTO clock.ahead VALUES ('0');
CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql
	AS 'SELECT pg_catalog.now() + (SELECT by FROM clock.ahead)';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
	AS 'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM clock.ahead)';`

// clockPath is the search path of a database whose clock may be wrong.
const clockPath = "clock,pg_catalog,public"

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{DB: dbtest.Server(t, devdb.Options{})}
	// Not the test's context: a subtest may be the first to want it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin := newPool(t, s.URL)
	execSQL(t, admin, `CREATE DATABASE `+template)
	pool, err := pgxpool.New(ctx, s.urlOf(t, template, nil))
	require.NoError(t, err)
	defer pool.Close() // a database in use cannot be copied
	require.NoError(t, river.Migrate(ctx, pool, ""))
	execSQL(t, pool, templateSQL)
	return s
}

// database creates a database and returns its name.
func (s *server) database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("faults_%d", s.count.Add(1))
	execSQL(t, newPool(t, s.URL), `CREATE DATABASE `+name+` TEMPLATE `+template)
	return name
}

// urlOf is the connection string of a database, with some parameters changed.
func (s *server) urlOf(t testing.TB, database string, params map[string]string) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	u.Path = "/" + database
	q := u.Query()
	for key, value := range params {
		q.Set(key, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// socket is the path of the server's Unix socket.
func (s *server) socket(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	return filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port"))
}

func newPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func execSQL(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) int64 {
	t.Helper()
	tag, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
	return tag.RowsAffected()
}

func scalar[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, pool.QueryRow(t.Context(), sql, args...).Scan(&v))
	return v
}
