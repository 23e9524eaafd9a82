package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AnalyzeGrown renews the planner's statistics of the table of jobs if it has grown to many times the size it
// had when they were made. It does nothing while somebody else has a lock that this would wait for.
func (s *Store) AnalyzeGrown(ctx context.Context, pool interface {
	DB
	Begin(ctx context.Context) (pgx.Tx, error)
},
) error {
	outdated, err := one[bool](ctx, s, pool, "HasGrown")
	if err != nil || !outdated {
		return err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// An autovacuum that we waited a second for would be cancelled.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '100ms'`); err != nil {
			return err
		}
		turn, err := one[bool](ctx, s, tx, "TryAnalyzeLock", s.schema)
		if err == nil && turn {
			_, err = s.exec(ctx, tx, "Analyze")
		}
		return err
	})
	if Code(err) == "55P03" { // somebody has the lock: the next time
		return nil
	}
	return err
}

// tables are ours, with the statement that creates each.
var tables = map[string]string{
	"everytick_pause": "CreatePause", "everytick_schedule": "CreateSchedule", "everytick_process": "CreateProcess",
}

// CreateTables creates those of our tables that are missing. (IF NOT EXISTS would need the right to create them
// all the same.)
func (s *Store) CreateTables(ctx context.Context, db DB) error {
	for table, create := range tables {
		exists, err := one[bool](ctx, s, db, "HasTable", pgx.Identifier{s.schema, table}.Sanitize())
		if err == nil && !exists {
			_, err = db.Exec(ctx, s.sql(create), pgx.QueryExecModeSimpleProtocol) // of several statements
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// HasTables reports whether all of our tables are there.
func (s *Store) HasTables(ctx context.Context, db DB) (bool, error) {
	for table := range tables {
		if exists, err := one[bool](ctx, s, db, "HasTable", pgx.Identifier{s.schema, table}.Sanitize()); err != nil || !exists {
			return false, err
		}
	}
	return true, nil
}

// TryMigrateLock reports whether no other process migrates until the transaction ends.
func (s *Store) TryMigrateLock(ctx context.Context, tx DB) (bool, error) {
	return one[bool](ctx, s, tx, "TryMigrateLock")
}

// SchemaExists reports whether the schema does.
func (s *Store) SchemaExists(ctx context.Context, db DB) (bool, error) {
	return one[bool](ctx, s, db, "SchemaExists", s.schema)
}

// DeleteOldTicks deletes ticks to come of an older form.
func (s *Store) DeleteOldTicks(ctx context.Context, db DB) error {
	_, err := s.exec(ctx, db, "DeleteOldTicks")
	return err
}

// KindIndexIsWide reports whether River's index of jobs by kind has our columns.
func (s *Store) KindIndexIsWide(ctx context.Context, db DB) (bool, error) {
	return one[bool](ctx, s, db, "KindIndexIsWide")
}

// RenameWiderIndex gives the wider index the name of River's.
func (s *Store) RenameWiderIndex(ctx context.Context, db DB) error {
	_, err := s.exec(ctx, db, "RenameWiderIndex")
	return err
}

// IndexIsValid reports whether an index is valid; nil if there is none.
func (s *Store) IndexIsValid(ctx context.Context, db DB, qualified string) (*bool, error) {
	return one[*bool](ctx, s, db, "IndexIsValid", qualified)
}

// An Index is one of the schema.
type Index struct {
	Owned    bool // this role may rebuild it
	Complete bool // it is as Migrate makes it
}

// Indexes returns the indexes of the schema by name.
func (s *Store) Indexes(ctx context.Context, db DB) (map[string]Index, error) {
	rows, err := db.Query(ctx, s.sql("Indexes"), s.schema)
	if err != nil {
		return nil, err
	}
	all := map[string]Index{}
	var (
		name string
		i    Index
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &i.Owned, &i.Complete}, func() error {
		all[name] = i
		return nil
	})
	return all, err
}

// HasLeader reports whether a process leads.
func (s *Store) HasLeader(ctx context.Context, db DB) (bool, error) {
	return one[bool](ctx, s, db, "HasLeader")
}

// IsReadOnly reports whether the database takes no writes.
func (s *Store) IsReadOnly(ctx context.Context, db DB) (bool, error) {
	return one[bool](ctx, s, db, "IsReadOnly")
}

// Code returns the SQLSTATE of an error, or "".
func Code(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// IsMissing reports whether PostgreSQL says that a table or schema does not exist.
func IsMissing(err error) bool {
	code := Code(err)
	return code == "42P01" || code == "3F000"
}
