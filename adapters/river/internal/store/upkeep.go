package store

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// AnalyzeGrown updates the planner's statistics of the job table if the table has grown to many times the size it
// had when they were collected. It does nothing while another session holds a conflicting lock.
func (s *Store) AnalyzeGrown(ctx context.Context, pool *pgxpool.Pool) error {
	grown, err := one[bool](ctx, s, pool, "HasGrown")
	if err != nil || !grown {
		return err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Waiting for a second would cancel an autovacuum that holds the lock.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '100ms'`); err != nil {
			return err
		}
		locked, err := one[bool](ctx, s, tx, "TryAnalyzeLock", s.schema)
		if err == nil && locked {
			err = s.exec(ctx, tx, "Analyze")
		}
		return err
	})
	if Code(err) == "55P03" { // lock timeout: try again next time
		return nil
	}
	return err
}

// tables maps each of our tables to the statement that creates it.
var tables = map[string]string{
	"everytick_pause": "CreatePause", "everytick_schedule": "CreateSchedule", "everytick_process": "CreateProcess", "everytick_failed": "CreateFailed",
}

// CreateTables creates our tables that do not exist. It does not use IF NOT EXISTS, which requires the right to
// create tables even if they all exist.
func (s *Store) CreateTables(ctx context.Context, db DB) error {
	missing, err := s.MissingTables(ctx, db)
	for _, table := range missing {
		// The simple protocol allows several statements at once.
		if _, err := db.Exec(ctx, s.sql(tables[table]), pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return err
}

// MissingTables returns those of our tables that do not exist.
func (s *Store) MissingTables(ctx context.Context, db DB) ([]string, error) {
	return collect(ctx, s, db, "MissingTables", pgx.RowTo[string], slices.Collect(maps.Keys(tables)))
}

// TryMigrateLock takes the lock of migrations until the transaction ends, and reports whether it was free.
func (s *Store) TryMigrateLock(ctx context.Context, tx DB) (bool, error) {
	return one[bool](ctx, s, tx, "TryMigrateLock")
}

// SchemaExists reports whether the schema exists.
func (s *Store) SchemaExists(ctx context.Context, db DB) (bool, error) {
	return one[bool](ctx, s, db, "SchemaExists", s.schema)
}

// DeleteOldTicks deletes future ticks that an older version stored as jobs.
func (s *Store) DeleteOldTicks(ctx context.Context, db DB) error {
	return s.exec(ctx, db, "DeleteOldTicks")
}

// RenameWiderIndex renames the wider index to River's name.
func (s *Store) RenameWiderIndex(ctx context.Context, db DB) error {
	return s.exec(ctx, db, "RenameWiderIndex")
}

// An Index is an index of the schema.
type Index struct {
	Owned    bool // this role may rebuild it
	Valid    bool // its creation was not interrupted
	Complete bool // it has the columns that Migrate gives it
}

// Indexes returns the indexes of the schema by name.
func (s *Store) Indexes(ctx context.Context, db DB) (map[string]Index, error) {
	columns := func(i *Index) []any { return []any{&i.Owned, &i.Valid, &i.Complete} }
	return collectByName(ctx, s, db, "Indexes", columns, s.schema)
}

// ServerState reports whether the database rejects writes, and whether a process is leader.
func (s *Store) ServerState(ctx context.Context, db DB) (readOnly, leader bool, err error) {
	err = db.QueryRow(ctx, s.sql("ServerState")).Scan(&readOnly, &leader)
	return readOnly, leader, err
}

// Code returns the SQLSTATE of an error, or "".
func Code(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// IsMissing reports whether PostgreSQL returned err because a table or schema does not exist.
func IsMissing(err error) bool {
	code := Code(err)
	return code == "42P01" || code == "3F000"
}
