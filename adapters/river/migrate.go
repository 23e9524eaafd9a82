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

// MigrateOptions configure [Migrate].
type MigrateOptions struct {
	// Schema is the database schema of River's tables, as in [Config]. Defaults to [DefaultSchema].
	Schema string
	// SearchIndexes is what to do with River's two GIN indexes, over args and metadata. Only searches by args or
	// metadata use them, in River UI, by River's JobList, and in SQL; without them jobs are inserted and worked
	// faster. Defaults to [SearchIndexesKeep].
	SearchIndexes SearchIndexes
}

// SearchIndexes is what [Migrate] does with River's search indexes. None of it blocks readers or writers of the table.
type SearchIndexes int

// The values of [SearchIndexes].
const (
	SearchIndexesKeep  SearchIndexes = iota // leave them as they are; a new schema gets them
	SearchIndexesDrop                       // drop them
	SearchIndexesBuild                      // build those that are missing
)

// Migrate creates the schema, applies River's migrations to it, and adds what this package needs: tables of schedules,
// processes and paused jobs, and two more columns, for counting, in River's index of jobs by kind. It does nothing if
// that is done already; processes that call it at the same time take turns. It needs the right to create a schema only
// if the schema does not exist, and two connections of the pool. opts may be nil.
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
		return fmt.Errorf("river: SearchIndexes is %d, must be SearchIndexesKeep, SearchIndexesDrop or SearchIndexesBuild", o.SearchIndexes)
	}
	st := store.New(schema)
	err = migrate.CheckEncoding(ctx, st, pool)
	var m *migrate.Migration
	if err == nil {
		m, err = migrate.New(pool, st, search)
	}
	if err == nil {
		err = m.Run(ctx)
	}
	if err != nil {
		return fmt.Errorf("river: migrate schema %q: %w", schema, err)
	}
	return nil
}

// inspectIndexes returns the indexes that River's reindexer may rebuild: those that exist and that this role owns.
// River logs errors about others. It warns if what Migrate adds is missing.
func (s *Scheduler) inspectIndexes(ctx context.Context) ([]string, error) {
	indexes, err := s.store.Indexes(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{migrate.KindIndex, migrate.RetriesIndex} {
		if !indexes[name].Complete {
			s.log.WarnContext(ctx, "an index is missing or lacks columns, so large tables are counted slowly: call river.Migrate",
				"schema", s.cfg.Schema, "index", name)
		}
	}
	names := append(riverqueue.ReindexerIndexNamesDefault(), migrate.RetriesIndex)
	return slices.DeleteFunc(names, func(name string) bool { return !indexes[name].Owned }), nil
}

// checkMigrated returns what is missing in the schema, or "". River's check takes some milliseconds, so a schema that
// has passed is checked again only when a query reports a missing table.
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

// unmigrated adds to an error about a missing table what to do. If the error says that the server is read-only, the
// next statement goes to another one.
func (s *Scheduler) unmigrated(err error) error {
	s.failover.Check(err)
	if store.IsMissing(err) {
		return fmt.Errorf("%s: %w", s.notMigrated(), err)
	}
	return err
}
