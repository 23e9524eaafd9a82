// Package dbtest gives every test a Postgres database of its own.
//
// All tests of a test binary share one server, which [devdb.Open] finds or starts when the first of them
// asks, with no TestMain. What the databases hold is up to a [Template], usually a package variable:
//
//	var db = dbtest.New(migrations.Up)
//
//	func TestRepo(t *testing.T) {
//		t.Parallel()
//		pool := db.Pool(t)
//		…
//	}
//
// A test without a Postgres fails, with a message that says what to install; it is never skipped.
//
// It is a database per test, not a schema, since notifications, advisory locks and with them the election
// of leaders are per database.
package dbtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/internal/devdb"
)

const timeout = time.Minute // for one step, such as creating a database

// Template is what the databases of a test start from. Its methods may be called from parallel tests.
type Template struct {
	migrate func(context.Context, *pgxpool.Pool) error
	create  func() (name string, err error)
}

// New returns a template that migrate fills. It runs once per test binary, when the first test asks for
// a database; every test then gets a copy. Defaults to an empty database when migrate is nil.
func New(migrate func(ctx context.Context, pool *pgxpool.Pool) error) *Template {
	tpl := &Template{migrate: migrate}
	tpl.create = sync.OnceValues(tpl.build)
	return tpl
}

// URL returns the connection string of a new database, a copy of the template, which is dropped at the
// end of the test together with every connection to it.
func (tpl *Template) URL(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	srv, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	template, err := tpl.create()
	if err != nil {
		t.Fatal(err)
	}
	name, err := srv.createDatabase(ctx, template)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := srv.dropDatabase(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return srv.urlOf(name)
}

// Pool is like [Template.URL] and returns a pool of connections, closed at the end of the test. A
// connection that is still in use then is an error of the test: something it started was not stopped.
func (tpl *Template) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), tpl.URL(t))
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		if err := closePool(pool); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// closePool closes a pool, but does not wait without end for connections in use as Close does.
func closePool(pool *pgxpool.Pool) error {
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("dbtest: %d connections of the pool were not given back", pool.Stat().AcquiredConns())
	}
}

// Server starts a server for this test alone, which it may kill and restart, and stops it at the end of
// the test. DATABASE_URL is without effect unless o.Getenv gives it.
func Server(t testing.TB, o devdb.Options) *devdb.DB {
	t.Helper()
	if o.Getenv == nil {
		o.Getenv = func(key string) string {
			if key == "DATABASE_URL" {
				return ""
			}
			return os.Getenv(key)
		}
	}
	db, err := devdb.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Stop(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func (tpl *Template) build() (name string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	srv, err := shared()
	if err != nil {
		return "", err
	}
	if tpl.migrate == nil {
		return "template0", nil
	}
	if name, err = srv.createDatabase(ctx, "template0"); err != nil {
		return "", err
	}
	pool, err := pgxpool.New(ctx, srv.urlOf(name))
	if err != nil {
		return "", fmt.Errorf("dbtest: %w", err)
	}
	if err := tpl.migrate(ctx, pool); err != nil {
		err = fmt.Errorf("dbtest: migrate the template: %w", err)
		return "", errors.Join(err, closePool(pool))
	}
	return name, closePool(pool) // a database in use cannot be copied
}

// server is the one server of a test binary. Nobody stops it: a server of ours ends with the process.
type server struct {
	base   *url.URL // a connection string of the server, to be given another database,
	pairs  string   // or the same as key=value pairs, when base is nil
	run    int32    // in the name of every database of this process
	admin  *pgxpool.Pool
	number atomic.Int64
}

// lockClass is the first half of the advisory lock that the owner of a run holds, the second is its run.
const lockClass = 0x65767479

// prefix of the names of our databases, followed by run and number.
const prefix = "everytick_test_"

var shared = sync.OnceValues(func() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*timeout)
	defer cancel()
	db, err := devdb.Open(ctx, devdb.Options{Fast: true})
	if err != nil {
		return nil, err
	}
	srv := &server{pairs: db.URL, run: rand.Int32()}
	if strings.Contains(db.URL, "://") {
		if srv.base, err = url.Parse(db.URL); err != nil { // which would quote it
			return nil, errors.New("dbtest: the URL in DATABASE_URL must name one host")
		}
		q := srv.base.Query()
		q.Del("dbname") // would win over the path
		srv.base.RawQuery = q.Encode()
	}
	if srv.admin, err = pgxpool.New(ctx, db.URL); err != nil {
		return nil, fmt.Errorf("dbtest: %w", err)
	}
	// On the server of DATABASE_URL templates stay behind, as no test knows that it is the last, and so
	// does everything of a killed run. The next run drops them. It knows the living by a lock that lasts
	// as long as a connection, this one, which is never given back.
	keeper, err := srv.admin.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("dbtest: %w", err)
	}
	if _, err := keeper.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, lockClass, srv.run); err != nil {
		return nil, fmt.Errorf("dbtest: %w", err)
	}
	return srv, srv.dropStale(ctx)
})

// dropStale drops the databases of runs that have ended. Locks are looked up rather than tried, since a
// lock can be tried only in the database in which it is held, but is seen from all.
func (srv *server) dropStale(ctx context.Context) error {
	rows, err := srv.admin.Query(ctx, `
		SELECT datname FROM pg_database
		WHERE datname ~ ('^' || $1 || '\d+_\d+$') AND NOT EXISTS (
			SELECT FROM pg_locks
			WHERE locktype = 'advisory' AND classid = $2::int::oid
			AND objid::text = split_part(substr(datname, length($1) + 1), '_', 1))`, prefix, lockClass)
	if err != nil {
		return fmt.Errorf("dbtest: look for databases left behind: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("dbtest: look for databases left behind: %w", err)
	}
	for _, name := range names {
		// Best effort: another run may be dropping it too, or it may be another user's.
		_ = srv.dropDatabase(ctx, name)
	}
	return nil
}

func (srv *server) createDatabase(ctx context.Context, template string) (name string, err error) {
	name = fmt.Sprintf("%s%d_%d", prefix, srv.run, srv.number.Add(1))
	if _, err := srv.admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		return "", fmt.Errorf("dbtest: create database: %w", err)
	}
	return name, nil
}

func (srv *server) dropDatabase(ctx context.Context, name string) error {
	if _, err := srv.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("dbtest: drop database: %w", err)
	}
	return nil
}

// urlOf is the connection string of another database on the server.
func (srv *server) urlOf(name string) string {
	if srv.base == nil {
		return srv.pairs + " dbname=" + name // the last one counts
	}
	u := *srv.base
	u.Path = "/" + name
	return u.String()
}
