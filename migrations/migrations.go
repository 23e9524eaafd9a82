// Package migrations holds the tables of the modules as numbered SQL files and
// applies them to a database:
//
//	if err := migrations.Up(ctx, pool); err != nil { … }
//
// Any number of processes may call [Up] at once, as they do when a deployment
// starts ten of them: each migration is applied once, by one of them, while the
// others wait.
//
// The tables, and the table everytick_migrations that lists the files that have been
// applied, are created in the first schema of the pool's search_path, usually public.
// The tables of a provider of jobs are the provider's.
package migrations

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	versionTable = "everytick_migrations"

	// sessionLockID is not goose's default: an application that calls Up from
	// within a migration of its own, under goose's lock, would wait for itself.
	sessionLockID = 0x65766572797469 // "everyti"
)

//go:embed *.sql
var files embed.FS

// Up applies what is missing. On a database that is up to date it changes nothing.
//
// The pool must lead to PostgreSQL itself: through a pooler that shares sessions, such
// as PgBouncer in transaction mode, locks do not hold. Up blocks while another process
// migrates; ctx ends the wait. Every migration is a transaction of its own, so after an
// error, which names the migration, Up can be called again.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	return withGoose(pool, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
}

// Down takes everything back that [Up] applied, and with it all the modules' rows. What
// is left is the empty list of applied files.
func Down(ctx context.Context, pool *pgxpool.Pool) error {
	return withGoose(pool, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, 0)
		return err
	})
}

// withGoose calls f with goose set up for the files. Its lock and its
// work share one connection, so that callers waiting for the lock on the same pool
// keep nothing from the one that has it.
func withGoose(pool *pgxpool.Pool, f func(*goose.Provider) error) error {
	// Once a second for ten minutes; a second is the shortest that goose takes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(sessionLockID), lock.WithLockTimeout(1, 600))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }() // gives its connections back; the pool stays open
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable),
		goose.WithSessionLocker(locker),
		goose.WithLogger(goose.NopLogger()),
		goose.WithDisableGlobalRegistry(true), // the application's own goose migrations are none of ours
	)
	if err == nil {
		err = f(provider)
	}
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	return nil
}
