package river

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Migrate creates the schema, "river" if it is "", and applies River's migrations
// to it. It does nothing where that is done already, and processes that call it
// together do it one after the other. It needs the right to create a schema only
// if the schema does not exist, and two connections of the pool.
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	schema, err := checkSchema(schema)
	if err != nil {
		return err
	}
	if pool.Config().MaxConns < 2 {
		return errOneConnection
	}
	migrator, err := newMigrator(pool, schema)
	if err != nil {
		return fmt.Errorf("river: migrate: %w", err)
	}
	for {
		done, err := tryMigrate(ctx, pool, schema, migrator)
		if err != nil {
			return fmt.Errorf("river: migrate schema %q: %w", schema, err)
		}
		if done {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("river: migrate schema %q: waiting for another process that migrates: %w", schema, ctx.Err())
		}
	}
}

// tryMigrate migrates unless another caller does. It does not wait for that one,
// which needs a second connection of what may be the same pool. The lock is that of a
// transaction that does nothing else: behind PgBouncer a session's would stay with
// a server connection that the unlock does not reach.
func tryMigrate(ctx context.Context, pool *pgxpool.Pool, schema string, migrator *rivermigrate.Migrator[pgx.Tx]) (done bool, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('everytick migrate', 0))`).Scan(&done); err != nil || !done {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, schema).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			if _, err := pool.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{schema}.Sanitize()); err != nil {
				return err
			}
		}
		_, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		return err
	})
	return done, err
}

func newMigrator(pool *pgxpool.Pool, schema string) (*rivermigrate.Migrator[pgx.Tx], error) {
	// It logs at info what Migrate and Health say in their own words.
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
}

// checkMigrated says in words what Migrate would have to do, or "".
func (s *Scheduler) checkMigrated(ctx context.Context) (reason string, err error) {
	migrator, err := newMigrator(s.pool, s.cfg.Schema)
	if err != nil {
		return "", err
	}
	res, err := migrator.Validate(ctx, nil)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "3F000"),
		err == nil && !res.OK:
		return fmt.Sprintf("schema %q lacks River's tables or their latest version: call river.Migrate", s.cfg.Schema), nil
	case err != nil:
		return "", fmt.Errorf("asking for River's migrations: %w", err)
	}
	return "", nil
}
