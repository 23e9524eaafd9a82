// Package migrations holds the tables of the modules as numbered SQL files and
// applies them, and River's own, to a database:
//
//	if err := migrations.Up(ctx, pool); err != nil { … }
//
// Any number of processes may call [Up] at once, as they do when a deployment
// starts ten of them: each migration is applied once, by one of them, while the
// others wait.
//
// The modules' tables, and the table everytick_migrations that tells which files
// have been applied, are created in the first schema of the pool's search_path,
// usually public. River's go into a schema of their own.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// DefaultSchema is the schema of River's tables unless another one is given.
const DefaultSchema = "river"

const (
	versionTable = "everytick_migrations"

	// sessionLockID is not goose's default: an application that calls Up from
	// within a migration of its own, under goose's lock, would wait for itself.
	sessionLockID = 0x65766572797469 // "everyti"

	// riverLock is one name for all schemas. With one each, two callers on a pool
	// of two connections could each hold a lock and wait for a connection.
	riverLock = "everytick migrate"

	lockPoll      = 100 * time.Millisecond
	unlockTimeout = 5 * time.Second
)

//go:embed *.sql
var files embed.FS

var schemaPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// Up applies what is missing: the modules' tables, then River's in the schema
// [DefaultSchema], which is created if need be. On a database that is up to date
// it changes nothing.
//
// The pool must allow two connections, and lead to PostgreSQL itself: through a
// pooler that shares sessions, such as PgBouncer in transaction mode, locks do not
// hold. Up blocks while another process migrates; ctx ends the wait. Every migration is a transaction of its own, so after an
// error, which names the migration, Up can be called again.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	return UpSchema(ctx, pool, DefaultSchema)
}

// UpSchema is [Up] with River's tables in the schema of that name: a letter or
// '_', then letters, digits and '_'.
func UpSchema(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	if err := check(pool, schema); err != nil {
		return err
	}
	err := withModules(pool, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrations: the modules' tables: %w", err)
	}
	err = exclusively(ctx, pool, func() error {
		if err := createSchema(ctx, pool, schema); err != nil {
			return err
		}
		return migrateRiver(ctx, pool, schema, rivermigrate.DirectionUp, nil)
	})
	if err != nil {
		return fmt.Errorf("migrations: River's tables in schema %q: %w", schema, err)
	}
	return nil
}

// Down takes everything back that [Up] applied, and with it all jobs and all the
// modules' rows. What is left is an empty schema and the empty list of applied
// files. Stop all schedulers first. The pool must allow two connections.
func Down(ctx context.Context, pool *pgxpool.Pool) error {
	return DownSchema(ctx, pool, DefaultSchema)
}

// DownSchema takes back what [UpSchema] applied with that schema, as [Down] does.
func DownSchema(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	if err := check(pool, schema); err != nil {
		return err
	}
	err := exclusively(ctx, pool, func() error {
		// River's name for all of them; without it this would be a single step.
		return migrateRiver(ctx, pool, schema, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1})
	})
	if err != nil {
		return fmt.Errorf("migrations: River's tables in schema %q: %w", schema, err)
	}
	err = withModules(pool, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrations: the modules' tables: %w", err)
	}
	return nil
}

func check(pool *pgxpool.Pool, schema string) error {
	if !schemaPattern.MatchString(schema) {
		return fmt.Errorf("migrations: schema %q: want a letter or '_', then letters, digits and '_'", schema)
	}
	// One connection holds the lock while another migrates; with a single one that
	// would wait for ever.
	if pool.Config().MaxConns < 2 {
		return errors.New("migrations: the pool allows one connection, and two are needed")
	}
	return nil
}

// withModules calls f with goose set up for the modules' files. Its lock and its
// work share one connection, so that callers waiting for the lock on the same pool
// keep nothing from the one that has it.
func withModules(pool *pgxpool.Pool, f func(*goose.Provider) error) error {
	// Once a second for ten minutes; a second is the shortest that goose takes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(sessionLockID), lock.WithLockTimeout(1, 600))
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }() // gives its connections back; the pool stays open
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable),
		goose.WithSessionLocker(locker),
		goose.WithLogger(goose.NopLogger()),
		goose.WithDisableGlobalRegistry(true), // the application's own goose migrations are none of ours
	)
	if err != nil {
		return err
	}
	return f(provider)
}

// exclusively calls f while no other process does: River's migrator takes no lock
// of its own. A caller that has to wait gives its connection back between tries,
// since f, in the caller that does not, needs one from what may be the same pool.
func exclusively(ctx context.Context, pool *pgxpool.Pool, f func() error) error {
	for {
		done, err := tryExclusively(ctx, pool, f)
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return fmt.Errorf("waiting for another process that migrates: %w", ctx.Err())
		}
	}
}

func tryExclusively(ctx context.Context, pool *pgxpool.Pool, f func() error) (done bool, err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, riverLock).Scan(&done); err != nil || !done {
		return false, err
	}
	defer func() {
		// Also when ctx has ended. The lock belongs to the session, so a connection
		// that cannot unlock must not go back to the pool alive.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock(hashtextextended($1, 0))`, riverLock); err != nil {
			_ = conn.Conn().Close(ctx)
		}
	}()
	return true, f()
}

// createSchema looks first: CREATE SCHEMA IF NOT EXISTS asks for the right to
// create schemas even if there is nothing to do.
func createSchema(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	var exists bool
	err := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = pool.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{schema}.Sanitize())
	return err
}

func migrateRiver(ctx context.Context, pool *pgxpool.Pool, schema string, direction rivermigrate.Direction, opts *rivermigrate.MigrateOpts) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Schema: schema,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, direction, opts)
	return err
}
