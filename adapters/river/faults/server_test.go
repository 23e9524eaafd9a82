//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// A server is a Postgres with durable settings: what it has committed must survive its being killed.
type server struct {
	*devdb.DB
	count    atomic.Int32
	fakeTime string // path of the file that sets its clock; see newFakeTimeServer
}

// template is the database that each test's database is copied from.
const template = "faults_template"

// templateSQL creates what tests need in a database. Only the view ticks knows where River's table has the tick.
//
// With the schema clock first in the search path, its functions replace now() and clock_timestamp(). That shifts the
// database's clock rather than the processes', also in River's statements, and can skip days.
const templateSQL = `
CREATE TABLE public.runs (
	job bigint NOT NULL, name text NOT NULL, tick timestamptz NOT NULL, missed int NOT NULL,
	started timestamptz NOT NULL, pid int NOT NULL, attempt int NOT NULL
);
CREATE INDEX ON public.runs (name, tick);
CREATE INDEX ON public.runs (job);
CREATE TABLE public.triggered (job bigint NOT NULL, attempt int NOT NULL);
CREATE TABLE public.effects (job bigint NOT NULL, attempt int NOT NULL);
CREATE TABLE public.inputs (key int PRIMARY KEY, version int NOT NULL);
CREATE TABLE public.updates (
	job bigint NOT NULL, attempt int NOT NULL, key int NOT NULL, version int NOT NULL, seen int NOT NULL,
	started timestamptz NOT NULL, applied boolean NOT NULL DEFAULT false
);
CREATE VIEW public.ticks AS
	SELECT id AS job, kind AS name, (metadata->>'everytick_tick')::timestamptz AS tick,
		coalesce((metadata->>'everytick_missed')::int, 0) AS missed, state, finalized_at
	FROM river.river_job WHERE metadata ? 'everytick_tick';
CREATE SCHEMA clock;
CREATE TABLE clock.ahead (by interval NOT NULL);
INSERT INTO clock.ahead VALUES ('0');
CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql
	AS 'SELECT pg_catalog.now() + (SELECT by FROM clock.ahead)';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
	AS 'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM clock.ahead)';`

// clockPath is the search path of a database whose clock can be shifted.
const clockPath = "clock,pg_catalog,public"

// newServer starts a server that the test may stop.
func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{DB: dbtest.Server(t, devdb.Options{})}
	require.NoError(t, s.prepare())
	return s
}

// shared is the server of the tests that do not stop it. It ends with the process.
var shared = sync.OnceValues(func() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	db, err := devdb.Open(ctx, dbtest.Private(devdb.Options{}))
	if err != nil {
		return nil, err
	}
	s := &server{DB: db}
	return s, s.prepare()
})

func sharedServer(t testing.TB) *server {
	t.Helper()
	s, err := shared()
	require.NoError(t, err)
	return s
}

// prepare creates the template.
func (s *server) prepare() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, `CREATE DATABASE `+template); err != nil {
		return err
	}
	url, err := s.urlOf(template, nil)
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close() // a database with connections cannot be copied
	if err := river.Migrate(ctx, pool, nil); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, templateSQL)
	return err
}

// database creates a database and returns its name.
func (s *server) database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("faults_%d", s.count.Add(1))
	execSQL(t, newPool(t, s.URL), `CREATE DATABASE `+name+` TEMPLATE `+template)
	return name
}

// urlOf returns the connection string of a database, with these parameters.
func (s *server) urlOf(database string, params map[string]string) (string, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return "", err
	}
	u.Path = "/" + database
	q := u.Query()
	for key, value := range params {
		q.Set(key, value)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// socket returns the path of the server's Unix socket.
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
