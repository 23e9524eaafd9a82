// Package dbtest gives every test its own Postgres database.
//
// All tests of a test binary share one server, which [devdb.Open] finds or starts when the first test asks for a
// database; no TestMain is needed. A [Template], usually a package variable, creates the databases:
//
//	var db = dbtest.New(migrations.Up)
//
//	func TestRepo(t *testing.T) {
//		t.Parallel()
//		pool := db.Pool(t)
//		…
//	}
//
// Without a Postgres a test is not skipped but fails, with a message that says what to install.
//
// Each test gets a database rather than a schema because notifications, advisory locks and leader election are per
// database.
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

// Template creates databases with the same initial content. Its methods are safe for concurrent use.
type Template struct {
	migrate func(context.Context, *pgxpool.Pool) error
	create  func() (name string, err error)
}

// New returns a template whose content migrate creates. migrate runs once per test binary, when the first test asks
// for a database, and every test gets a copy. If migrate is nil, databases are empty.
func New(migrate func(ctx context.Context, pool *pgxpool.Pool) error) *Template {
	tpl := &Template{migrate: migrate}
	tpl.create = sync.OnceValues(tpl.build)
	return tpl
}

// URL creates a database from the template and returns its connection string. The database is dropped at the end of
// the test, closing all connections to it.
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

// Pool is like [Template.URL] but returns a connection pool, which is closed at the end of the test. The test fails if
// a connection is still in use then: something it started was not stopped.
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

// closePool closes a pool. Unlike pool.Close it does not wait for ever for connections in use.
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
		return fmt.Errorf("dbtest: %d connections of the pool were not released", pool.Stat().AcquiredConns())
	}
}

// Private returns options to start a server even if DATABASE_URL is set, unless o.Getenv returns it.
func Private(o devdb.Options) devdb.Options {
	if o.Getenv == nil {
		o.Getenv = func(key string) string {
			if key == "DATABASE_URL" {
				return ""
			}
			return os.Getenv(key)
		}
	}
	return o
}

// Server starts a server that only this test uses and may kill and restart. It is stopped at the end of the test.
// DATABASE_URL is ignored unless o.Getenv returns it.
func Server(t testing.TB, o devdb.Options) *devdb.DB {
	t.Helper()
	db, err := devdb.Open(context.Background(), Private(o))
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
		err = fmt.Errorf("dbtest: migrating the template: %w", err)
		return "", errors.Join(err, closePool(pool))
	}
	return name, closePool(pool) // PostgreSQL cannot copy a database that has connections
}

// server is the server shared by a test binary. It is never stopped explicitly: it ends with the process.
type server struct {
	base   *url.URL // connection string, whose database is replaced
	pairs  string   // connection string as key=value pairs, if base is nil
	run    int32    // part of the name of every database of this process
	admin  *pgxpool.Pool
	number atomic.Int64
}

// lockClass is the first half of the advisory lock that each process holds. The second half is its run.
const lockClass = 0x65767479

// prefix begins the names of our databases. Run and number follow.
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
		if srv.base, err = url.Parse(db.URL); err != nil { // err would quote the URL
			return nil, errors.New("dbtest: the URL in DATABASE_URL must name one host")
		}
		q := srv.base.Query()
		q.Del("dbname") // it would override the path
		srv.base.RawQuery = q.Encode()
	}
	if srv.admin, err = pgxpool.New(ctx, db.URL); err != nil {
		return nil, fmt.Errorf("dbtest: %w", err)
	}
	// On the server of DATABASE_URL, templates are left behind, because no test knows that it is the last, and so are
	// the databases of a killed run. The next run drops them. It recognizes running processes by this lock, which
	// lasts as long as its connection; the connection is never released.
	keeper, err := srv.admin.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("dbtest: %w", err)
	}
	if _, err := keeper.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, lockClass, srv.run); err != nil {
		return nil, fmt.Errorf("dbtest: %w", err)
	}
	return srv, srv.dropStale(ctx)
})

// dropStale drops the databases of runs that have ended. It looks up locks in pg_locks, which shows the locks of all
// databases. Trying to acquire one would only work in the database where it is held.
func (srv *server) dropStale(ctx context.Context) error {
	rows, err := srv.admin.Query(ctx, `
		SELECT datname FROM pg_database
		WHERE datname ~ ('^' || $1 || '\d+_\d+$') AND NOT EXISTS (
			SELECT FROM pg_locks
			WHERE locktype = 'advisory' AND classid = $2::int::oid
			AND objid::text = split_part(substr(datname, length($1) + 1), '_', 1))`, prefix, lockClass)
	if err != nil {
		return fmt.Errorf("dbtest: looking for databases left behind: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("dbtest: looking for databases left behind: %w", err)
	}
	for _, name := range names {
		// Best effort: another run may be dropping it too, or it may belong to another user.
		_ = srv.dropDatabase(ctx, name)
	}
	return nil
}

func (srv *server) createDatabase(ctx context.Context, template string) (name string, err error) {
	name = fmt.Sprintf("%s%d_%d", prefix, srv.run, srv.number.Add(1))
	if _, err := srv.admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		return "", fmt.Errorf("dbtest: creating a database: %w", err)
	}
	return name, nil
}

func (srv *server) dropDatabase(ctx context.Context, name string) error {
	if _, err := srv.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("dbtest: dropping a database: %w", err)
	}
	return nil
}

// urlOf returns the connection string of a database on the server.
func (srv *server) urlOf(name string) string {
	if srv.base == nil {
		return srv.pairs + " dbname=" + name // the last dbname wins
	}
	u := *srv.base
	u.Path = "/" + name
	return u.String()
}
