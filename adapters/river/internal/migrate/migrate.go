// Package migrate brings a schema up to date: River's migrations, our tables, one more column in River's index on the
// kind of jobs, and an index of the runs to be retried.
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

const (
	// KindIndex is River's index on the kind of jobs. With one more column it counts the waiting and running runs of a
	// job without reading them. A second index of waiting runs would make TriggerMany a fifth slower; the wider one
	// costs it nothing measurable, and a COPY 2 %. It keeps its name, which River's reindexer and migrations know.
	KindIndex        = "river_job_kind"
	kindIndexColumns = "(kind, state)"
	// WiderIndex is the name of the wider index until it has replaced KindIndex.
	WiderIndex = "everytick_job_kind_index"
	// RetriesIndex counts the runs that wait for another attempt. An insert and a run that succeeds don't write to it.
	// As a third column of KindIndex, attempt would cost a COPY another 4 %.
	RetriesIndex        = "everytick_job_retries_index"
	retriesIndexColumns = "(kind) WHERE attempt > 0 AND state IN ('available', 'scheduled', 'retryable', 'pending')"
	// oldTicksIndex was used by older versions.
	oldTicksIndex = "everytick_job_ticks_index"
	// poll is how often Run checks whether another migration has ended.
	poll = 100 * time.Millisecond
)

// searchIndexes maps River's indexes that only serve searches to their column.
var searchIndexes = map[string]string{"river_job_args_index": "args", "river_job_metadata_index": "metadata"}

// A Migration migrates one schema. Create one with [New].
type Migration struct {
	pool     *pgxpool.Pool
	store    *store.Store
	migrator *rivermigrate.Migrator[pgx.Tx]
	search   *bool
}

// New returns the migration of the schema of s. search says whether River's search indexes should exist; nil leaves
// them as they are.
func New(pool *pgxpool.Pool, s *store.Store, search *bool) (*Migration, error) {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool),
		&rivermigrate.Config{Schema: s.Schema(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return &Migration{pool: pool, store: s, migrator: migrator, search: search}, nil
}

// Run migrates the schema. If another process is migrating, it waits and then checks again.
func (m *Migration) Run(ctx context.Context) error {
	for {
		done, err := m.try(ctx)
		if err != nil || done {
			return err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return fmt.Errorf("waiting for another process to finish its migration: %w", ctx.Err())
		}
	}
}

// Complete reports whether the schema has all tables and River's latest version. It does not check indexes.
func (m *Migration) Complete(ctx context.Context) (bool, error) {
	res, err := m.migrator.Validate(ctx, nil)
	switch {
	case store.IsMissing(err), err == nil && !res.OK:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("checking River's migrations: %w", err)
	}
	missing, err := m.store.MissingTables(ctx, m.pool)
	return err == nil && len(missing) == 0, err
}

// try migrates unless another caller does. It does not wait for the lock, because the caller that holds it needs a
// second connection, possibly of the same pool. The lock belongs to a transaction that does nothing else: behind
// PgBouncer, a session's lock could stay with a server connection that the unlock does not reach.
func (m *Migration) try(ctx context.Context) (done bool, err error) {
	// A stricter isolation level would hold a snapshot, for which CREATE INDEX CONCURRENTLY waits.
	err = pgx.BeginTxFunc(ctx, m.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		// The transaction is idle while indexes are built.
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
			if _, err := m.pool.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{m.store.Schema()}.Sanitize()); err != nil {
				return err
			}
		}
		if _, err := m.migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return err
		}
		// The portal of the last query in tx still holds a snapshot. A simple query replaces it and holds none.
		if err := tx.Conn().PgConn().Exec(ctx, `SELECT`).Close(); err != nil {
			return err
		}
		return m.addOurs(ctx)
	})
	return done, err
}

// addOurs makes our changes on a second connection, because CREATE INDEX CONCURRENTLY cannot run in a transaction.
func (m *Migration) addOurs(ctx context.Context) error {
	if err := m.store.CreateTables(ctx, m.pool); err != nil {
		return err
	}
	if err := m.widenKindIndex(ctx); err != nil {
		return err
	}
	if err := m.createIndex(ctx, RetriesIndex, retriesIndexColumns); err != nil {
		return err
	}
	if err := m.store.DeleteOldTicks(ctx, m.pool); err != nil {
		return err
	}
	if err := m.dropIndex(ctx, oldTicksIndex); err != nil || m.search == nil {
		return err
	}
	for name, column := range searchIndexes {
		var err error
		if *m.search {
			err = m.createIndex(ctx, name, `USING gin (`+column+`)`)
		} else {
			err = m.dropIndex(ctx, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// widenKindIndex replaces River's index with the wider one. If it was interrupted, the next call continues.
func (m *Migration) widenKindIndex(ctx context.Context) error {
	indexes, err := m.store.Indexes(ctx, m.pool)
	if kind := indexes[KindIndex]; err != nil || kind.Valid && kind.Complete {
		return err
	}
	if err := m.createIndex(ctx, WiderIndex, kindIndexColumns); err != nil {
		return err
	}
	if err := m.dropIndex(ctx, KindIndex); err != nil {
		return err
	}
	return m.store.RenameWiderIndex(ctx, m.pool)
}

// dropIndex drops an index if it exists, without blocking access to the table.
func (m *Migration) dropIndex(ctx context.Context, name string) error {
	_, err := m.pool.Exec(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+m.qualified(name))
	if store.Code(err) == "0A000" { // not supported by YugabyteDB
		_, err = m.pool.Exec(ctx, `DROP INDEX IF EXISTS `+m.qualified(name))
	}
	return err
}

// createIndex creates an index on the job table if it does not exist, or if an interrupted call left it invalid.
func (m *Migration) createIndex(ctx context.Context, name, definition string) error {
	indexes, err := m.store.Indexes(ctx, m.pool)
	if err != nil || indexes[name].Valid {
		return err
	}
	if _, exists := indexes[name]; exists {
		if err := m.dropIndex(ctx, name); err != nil {
			return err
		}
	}
	_, err = m.pool.Exec(ctx, `CREATE INDEX CONCURRENTLY `+pgx.Identifier{name}.Sanitize()+
		` ON `+m.qualified("river_job")+` `+definition)
	if err != nil {
		return fmt.Errorf("index %s: %w", name, err)
	}
	return nil
}

// qualified returns the quoted name of a table or index in the schema.
func (m *Migration) qualified(name string) string {
	return pgx.Identifier{m.store.Schema(), name}.Sanitize()
}

// CheckEncoding returns an error unless the database can store every text.
func CheckEncoding(ctx context.Context, st *store.Store, db store.DB) error {
	encoding, err := st.Encoding(ctx, db)
	if err == nil && encoding != "UTF8" {
		err = fmt.Errorf("the database's encoding is %s: it must be UTF8, or an error text that it cannot store would stop "+
			"all jobs; create the database with ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	return err
}
