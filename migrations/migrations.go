// Package migrations creates the tables of the modules in a PostgreSQL database:
//
//	if err := migrations.Up(ctx, pool); err != nil { … }
//
// Any number of processes may call [Up] at once, for example during a deployment. One of
// them applies each migration while the others wait.
//
// The tables are created in the first schema of the pool's search_path, usually public, as is
// the table everytick_migrations, which lists the applied migrations. A provider's own tables
// are not included; see for example river.Migrate.
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

	// sessionLockID differs from goose's default: an application that calls Up within a goose
	// migration of its own would wait for its own lock.
	sessionLockID = 0x65766572797469 // "everyti"
)

//go:embed *.sql
var files embed.FS

// Up applies all migrations that have not been applied yet. If there are none, it changes
// nothing.
//
// The pool must connect directly to PostgreSQL. Up takes a session lock, which does not work
// through a pooler that shares sessions, such as PgBouncer in transaction mode. Up waits while
// another process migrates, until ctx ends but at most ten minutes. Each migration runs in its
// own transaction. If one fails, the error names it and Up can be called again.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	return withGoose(pool, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
}

// Down reverts all migrations, which deletes the tables of the modules with all their rows.
// Only the table everytick_migrations remains. It waits as [Up] does.
func Down(ctx context.Context, pool *pgxpool.Pool) error {
	return withGoose(pool, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, 0)
		return err
	})
}

// withGoose calls f with a goose provider for the files. The provider uses one connection for
// the lock and the migrations, so callers that share a pool and wait for the lock cannot keep
// a connection from the one that holds it.
func withGoose(pool *pgxpool.Pool, f func(*goose.Provider) error) error {
	// Try every second, goose's shortest interval, for ten minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(sessionLockID), lock.WithLockTimeout(1, 600))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }() // returns its connections; the pool stays open
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable),
		goose.WithSessionLocker(locker),
		goose.WithLogger(goose.NopLogger()),
		goose.WithDisableGlobalRegistry(true), // ignore the application's own goose migrations
	)
	if err == nil {
		err = f(provider)
	}
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	return nil
}
