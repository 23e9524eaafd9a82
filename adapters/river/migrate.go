package river

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// kindIndex is River's index of jobs by kind, which Migrate gives two columns more: by these
// it counts what waits, runs and is retried of a name without reading the jobs. One of our
// own beside it, even of waiting jobs alone, costs a fifth of the time of TriggerMany; wider,
// it costs nothing that can be measured. It keeps its name, which River's reindexer and
// migrations know.
const (
	kindIndex        = "river_job_kind"
	kindIndexColumns = "(kind, state, attempt)"
	// widerIndex is the name of it while it is made.
	widerIndex = "everytick_job_kind_index"
	// oldTicksIndex served ticks of an older form.
	oldTicksIndex = "everytick_job_ticks_index"
)

// searchIndexes are those of River's that serve searches in args and metadata alone.
var searchIndexes = map[string]string{"river_job_args_index": "args", "river_job_metadata_index": "metadata"}

// A MigrateOption changes what [Migrate] does.
type MigrateOption func(*migration)

type migration struct {
	pool     *pgxpool.Pool
	store    *store.Store
	schema   string
	migrator *rivermigrate.Migrator[pgx.Tx]
	search   *bool
}

// SearchIndexes says whether River's two GIN indexes are kept, over args and metadata.
// They serve searches by args or metadata in River UI, by River's JobList, and in SQL;
// nothing else uses them, and without them jobs are stored and worked faster. false
// drops them, true makes them again; without this option they stay as they are. Both
// are done without blocking those who work with the table.
func SearchIndexes(keep bool) MigrateOption {
	return func(m *migration) { m.search = &keep }
}

// Migrate creates the schema, "river" if it is "", applies River's migrations to it,
// and adds what this package needs beside them: tables of schedules, processes and paused
// jobs, and two columns to River's index of jobs by kind, for counting. It does nothing where that is done already, and processes
// that call it together do it one after the other. It needs the right to create a schema
// only if the schema does not exist, and two connections of the pool.
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string, opts ...MigrateOption) error {
	schema, err := checkSchema(schema)
	if err != nil {
		return err
	}
	if pool == nil {
		return errNilPool
	}
	if pool.Config().MaxConns < 2 {
		return errOneConnection
	}
	migrator, err := newMigrator(pool, schema)
	if err != nil {
		return fmt.Errorf("river: migrate: %w", err)
	}
	m := &migration{pool: pool, store: store.New(schema), schema: schema, migrator: migrator}
	for _, opt := range opts {
		opt(m)
	}
	for {
		done, err := m.try(ctx)
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

// try migrates unless another caller does. It does not wait for that one,
// which needs a second connection of what may be the same pool. The lock is that of a
// transaction that does nothing else: behind PgBouncer a session's would stay with
// a server connection that the unlock does not reach.
func (m *migration) try(ctx context.Context) (done bool, err error) {
	// In another isolation it would hold a snapshot, and CREATE INDEX CONCURRENTLY wait for it.
	err = pgx.BeginTxFunc(ctx, m.pool, readCommitted, func(tx pgx.Tx) error {
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
func (m *migration) addOurs(ctx context.Context) error {
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
func (m *migration) widenKindIndex(ctx context.Context) error {
	if wide, err := m.store.KindIndexIsWide(ctx, m.pool); err != nil || wide {
		return err
	}
	if err := m.index(ctx, widerIndex, pgx.Identifier{m.schema, "river_job"}.Sanitize()+` `+kindIndexColumns); err != nil {
		return err
	}
	if err := m.dropIndex(ctx, kindIndex); err != nil {
		return err
	}
	return m.store.RenameWiderIndex(ctx, m.pool)
}

// dropIndex drops an index if it is there, without blocking those who work with the table.
func (m *migration) dropIndex(ctx context.Context, name string) error {
	qualified := pgx.Identifier{m.schema, name}.Sanitize()
	_, err := m.pool.Exec(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+qualified)
	if store.Code(err) == "0A000" { // YugabyteDB does not support that
		_, err = m.pool.Exec(ctx, `DROP INDEX IF EXISTS `+qualified)
	}
	return err
}

// index makes an index that is not there, or that an interrupted making left invalid.
func (m *migration) index(ctx context.Context, name, definition string) error {
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

// inspectIndexes returns those indexes that River's reindexer can rebuild, which are
// there and ours: it complains of others. It logs if what Migrate adds is missing.
func (s *Scheduler) inspectIndexes(ctx context.Context) ([]string, error) {
	indexes, err := s.store.Indexes(ctx, s.ownPool())
	if err != nil {
		return nil, err
	}
	if !indexes[kindIndex].Complete {
		s.log.WarnContext(ctx, "an index is missing or lacks columns, so large tables are counted slowly: call river.Migrate", "schema", s.cfg.Schema, "index", kindIndex)
	}
	return slices.DeleteFunc(riverqueue.ReindexerIndexNamesDefault(), func(name string) bool { return !indexes[name].Owned }), nil
}

func newMigrator(pool *pgxpool.Pool, schema string) (*rivermigrate.Migrator[pgx.Tx], error) {
	// It logs at info what Migrate and Health say in their own words.
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
}

// checkMigrated says in words what Migrate would have to do, or "". River's check asks
// for the columns it knows, which takes some milliseconds, so a schema that has passed
// is only looked at again when a query says that a table is gone.
func (s *Scheduler) checkMigrated(ctx context.Context) (reason string, err error) {
	if s.migrated.Load() {
		return "", nil
	}
	migrator, err := newMigrator(s.pool, s.cfg.Schema)
	if err != nil {
		return "", err
	}
	res, err := migrator.Validate(ctx, nil)
	switch {
	case store.IsMissing(err), err == nil && !res.OK:
		return s.notMigrated(), nil
	case err != nil:
		return "", fmt.Errorf("asking for River's migrations: %w", err)
	}
	complete, err := s.store.HasTables(ctx, s.pool)
	if err != nil || !complete {
		return s.notMigrated(), err
	}
	s.migrated.Store(true)
	return "", nil
}

func (s *Scheduler) notMigrated() string {
	return fmt.Sprintf("schema %q lacks River's tables, or everytick's, or their latest version: call river.Migrate", s.cfg.Schema)
}

// unmigrated says of an error about a missing table what to do.
func (s *Scheduler) unmigrated(err error) error {
	if store.IsMissing(err) {
		return fmt.Errorf("%s: %w", s.notMigrated(), err)
	}
	return err
}
