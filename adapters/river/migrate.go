package river

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"

	"github.com/everytick/everytick/adapters/river/internal/migrate"
	"github.com/everytick/everytick/adapters/river/internal/store"
)

// MigrateOptions change what [Migrate] does.
type MigrateOptions struct {
	// Schema is the database schema of River's tables, as in [Config]. Defaults to
	// [DefaultSchema].
	Schema string
	// SearchIndexes says what becomes of River's two GIN indexes, over args and metadata.
	// They serve searches by args or metadata in River UI, by River's JobList, and in SQL;
	// nothing else uses them, and without them jobs are stored and worked faster. Defaults
	// to [SearchIndexesKeep].
	SearchIndexes SearchIndexes
}

// SearchIndexes says what becomes of River's indexes for searches, see [MigrateOptions].
type SearchIndexes int

// What [Migrate] can do about River's indexes for searches. None of it blocks those who
// work with the table.
const (
	SearchIndexesKeep  SearchIndexes = iota // leave them as they are; a new schema gets them
	SearchIndexesDrop                       // drop them
	SearchIndexesBuild                      // build those that are missing
)

// Migrate creates the schema, applies River's migrations to it, and adds what this package
// needs beside them: tables of schedules, processes and paused jobs, and two columns to
// River's index of jobs by kind, for counting. It does nothing where that is done already,
// and processes that call it together do it one after the other. It needs the right to create
// a schema only if the schema does not exist, and two connections of the pool. Nil opts stand
// for the defaults.
func Migrate(ctx context.Context, pool *pgxpool.Pool, opts *MigrateOptions) error {
	o := *cmp.Or(opts, &MigrateOptions{})
	schema, err := checkSchema(o.Schema)
	if err != nil {
		return err
	}
	if pool == nil {
		return errNilPool
	}
	if pool.Config().MaxConns < 2 {
		return errOneConnection
	}
	var search *bool
	switch o.SearchIndexes {
	case SearchIndexesKeep:
	case SearchIndexesDrop, SearchIndexesBuild:
		search = new(o.SearchIndexes == SearchIndexesBuild)
	default:
		return fmt.Errorf("river: SearchIndexes is %d, allowed are SearchIndexesKeep, SearchIndexesDrop and SearchIndexesBuild", o.SearchIndexes)
	}
	m, err := migrate.New(pool, store.New(schema), search)
	if err == nil {
		err = m.Run(ctx)
	}
	if err != nil {
		return fmt.Errorf("river: migrate schema %q: %w", schema, err)
	}
	return nil
}

// inspectIndexes returns those indexes that River's reindexer can rebuild, which are
// there and ours: it complains of others. It logs if what Migrate adds is missing.
func (s *Scheduler) inspectIndexes(ctx context.Context) ([]string, error) {
	indexes, err := s.store.Indexes(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	if !indexes[migrate.KindIndex].Complete {
		s.log.WarnContext(ctx, "an index is missing or lacks columns, so large tables are counted slowly: call river.Migrate",
			"schema", s.cfg.Schema, "index", migrate.KindIndex)
	}
	return slices.DeleteFunc(riverqueue.ReindexerIndexNamesDefault(), func(name string) bool { return !indexes[name].Owned }), nil
}

// checkMigrated says in words what Migrate would have to do, or "". River's check asks
// for the columns it knows, which takes some milliseconds, so a schema that has passed
// is only looked at again when a query says that a table is gone.
func (s *Scheduler) checkMigrated(ctx context.Context) (reason string, err error) {
	if s.migrated.Load() {
		return "", nil
	}
	m, err := migrate.New(s.pool, s.store, nil)
	if err != nil {
		return "", err
	}
	complete, err := m.Complete(ctx)
	if err == nil && !complete {
		return s.notMigrated(), nil
	}
	s.migrated.Store(err == nil)
	return "", err
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
