// Package migrate brings a schema up to date: River's migrations, our tables, and River's index of jobs by kind,
// which gets two columns more.
package migrate

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// KindIndex is River's index of jobs by kind, which Migrate gives two columns more: by these
// it counts what waits, runs and is retried of a name without reading the jobs. One of our
// own beside it, even of waiting jobs alone, costs a fifth of the time of TriggerMany; wider,
// it costs nothing that can be measured. It keeps its name, which River's reindexer and
// migrations know.
const (
	KindIndex        = "river_job_kind"
	kindIndexColumns = "(kind, state, attempt)"
	// WiderIndex is the name of it while it is made.
	WiderIndex = "everytick_job_kind_index"
	// oldTicksIndex served ticks of an older form.
	oldTicksIndex = "everytick_job_ticks_index"
)

// searchIndexes are those of River's that serve searches in args and metadata alone.
var searchIndexes = map[string]string{"river_job_args_index": "args", "river_job_metadata_index": "metadata"}

// A Migration is that of one schema.
type Migration struct {
	pool     *pgxpool.Pool
	store    *store.Store
	schema   string
	migrator *rivermigrate.Migrator[pgx.Tx]
	search   *bool // whether River's search indexes are kept; nil: as they are
}

// New returns the migration of the schema of s.
func New(pool *pgxpool.Pool, s *store.Store, search *bool) (*Migration, error) {
	// It logs at info what we say in our own words.
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: s.Schema(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return &Migration{pool: pool, store: s, schema: s.Schema(), migrator: migrator, search: search}, nil
}

// Run migrates. Processes that do so together do it one after the other.
func (m *Migration) Run(ctx context.Context) error {
	for {
		done, err := m.try(ctx)
		if err != nil || done {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for another process that migrates: %w", ctx.Err())
		}
	}
}

// Complete reports whether there is nothing to do, but for indexes.
func (m *Migration) Complete(ctx context.Context) (bool, error) {
	res, err := m.migrator.Validate(ctx, nil)
	switch {
	case store.IsMissing(err), err == nil && !res.OK:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("asking for River's migrations: %w", err)
	}
	return m.store.HasTables(ctx, m.pool)
}

// try migrates unless another caller does. It does not wait for that one,
// which needs a second connection of what may be the same pool. The lock is that of a
// transaction that does nothing else: behind PgBouncer a session's would stay with
// a server connection that the unlock does not reach.
func (m *Migration) try(ctx context.Context) (done bool, err error) {
	// In another isolation it would hold a snapshot, and CREATE INDEX CONCURRENTLY wait for it.
	err = pgx.BeginTxFunc(ctx, m.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		// It idles for as long as an index takes.
		if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout TO 0`); err != nil {
			return err
		}
		var err error
		if done, err = m.store.TryMigrateLock(ctx, tx); err != nil || !done {
			return err
		}
		exists, err := m.store.SchemaExists(ctx, tx)
		if err != nil {
			return err
		}
		if !exists {
			if _, err := m.pool.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{m.schema}.Sanitize()); err != nil {
				return err
			}
		}
		if _, err := m.migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return err
		}
		// The portal of the last query above still holds a snapshot; that of a simple query
		// takes its place and holds none.
		if err := tx.Conn().PgConn().Exec(ctx, `SELECT`).Close(); err != nil {
			return err
		}
		return m.addOurs(ctx)
	})
	return done, err
}

// addOurs is on a second connection: indexes are made CONCURRENTLY, outside of a
// transaction.
func (m *Migration) addOurs(ctx context.Context) error {
	if err := m.store.CreateTables(ctx, m.pool); err != nil {
		return err
	}
	if err := m.widenKindIndex(ctx); err != nil {
		return err
	}
	if err := m.store.DeleteOldTicks(ctx, m.pool); err != nil {
		return err
	}
	if err := m.dropIndex(ctx, oldTicksIndex); err != nil {
		return err
	}
	table := pgx.Identifier{m.schema, "river_job"}.Sanitize()
	if m.search == nil {
		return nil
	}
	for name, column := range searchIndexes {
		if *m.search {
			if err := m.index(ctx, name, table+` USING gin (`+column+`)`); err != nil {
				return err
			}
			continue
		}
		if err := m.dropIndex(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// widenKindIndex replaces River's index by the wider one. If it is interrupted the next
// call goes on.
func (m *Migration) widenKindIndex(ctx context.Context) error {
	if wide, err := m.store.KindIndexIsWide(ctx, m.pool); err != nil || wide {
		return err
	}
	if err := m.index(ctx, WiderIndex, pgx.Identifier{m.schema, "river_job"}.Sanitize()+` `+kindIndexColumns); err != nil {
		return err
	}
	if err := m.dropIndex(ctx, KindIndex); err != nil {
		return err
	}
	return m.store.RenameWiderIndex(ctx, m.pool)
}

// dropIndex drops an index if it is there, without blocking those who work with the table.
func (m *Migration) dropIndex(ctx context.Context, name string) error {
	qualified := pgx.Identifier{m.schema, name}.Sanitize()
	_, err := m.pool.Exec(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+qualified)
	if store.Code(err) == "0A000" { // YugabyteDB does not support that
		_, err = m.pool.Exec(ctx, `DROP INDEX IF EXISTS `+qualified)
	}
	return err
}

// index makes an index that is not there, or that an interrupted making left invalid.
func (m *Migration) index(ctx context.Context, name, definition string) error {
	qualified := pgx.Identifier{m.schema, name}.Sanitize()
	valid, err := m.store.IndexIsValid(ctx, m.pool, qualified)
	if err != nil || valid != nil && *valid {
		return err
	}
	if valid != nil {
		if err := m.dropIndex(ctx, name); err != nil {
			return err
		}
	}
	if _, err := m.pool.Exec(ctx, `CREATE INDEX CONCURRENTLY `+pgx.Identifier{name}.Sanitize()+` ON `+definition); err != nil {
		return fmt.Errorf("index %s: %w", name, err)
	}
	return nil
}
