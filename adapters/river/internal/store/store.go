// Package store holds every SQL statement of the adapter. Each is in a .sql file, under a name, with a typed
// function over it. The package reads and writes and leaves decisions to its callers. Apart from River's client,
// nothing else reads or writes River's tables.
//
// docs/architecture.md lists what the statements rely on in River, with a test for each item.
package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// DB is a pool, a connection or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// A Store has the statements for one schema. Create one with [New].
type Store struct {
	schema     string
	statements map[string]string // by name
}

//go:embed sql/*.sql
var files embed.FS

// New returns the statements for a schema.
func New(schema string) *Store {
	s := &Store{schema: schema, statements: map[string]string{}}
	pieces := map[string]string{"schema": pgx.Identifier{schema}.Sanitize()}
	names, err := fs.Glob(files, "sql/*.sql")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		parse(string(text), s.statements, pieces)
	}
	for name, sql := range s.statements {
		s.statements[name] = expand(sql, pieces)
	}
	return s
}

var (
	// A statement starts after the line "-- name: Name", and a fragment that several statements use starts after
	// "-- piece: name".
	header = regexp.MustCompile(`(?m)^-- (name|piece): (\w+)$`)
	// {{name}} stands for the piece of that name, {{schema}} for the quoted schema.
	placeholder = regexp.MustCompile(`\{\{(\w+)\}\}`)
	comment     = regexp.MustCompile(`(?m)\s*--.*$`)
)

// parse adds the statements and pieces of a file.
func parse(text string, statements, pieces map[string]string) {
	headers := header.FindAllStringSubmatchIndex(text, -1)
	for i, h := range headers {
		end := len(text)
		if i+1 < len(headers) {
			end = headers[i+1][0]
		}
		kind, name := text[h[2]:h[3]], text[h[4]:h[5]]
		into := statements
		if kind == "piece" {
			into = pieces
		}
		if _, ok := into[name]; ok {
			panic("store: duplicate statement " + name)
		}
		into[name] = strings.TrimSpace(comment.ReplaceAllString(text[h[1]:end], ""))
	}
}

// expand replaces placeholders, also those inside pieces.
func expand(sql string, pieces map[string]string) string {
	return placeholder.ReplaceAllStringFunc(sql, func(use string) string {
		piece, ok := pieces[strings.Trim(use, "{}")]
		if !ok {
			panic(fmt.Sprintf("store: unknown piece %s in %q", use, sql))
		}
		return expand(piece, pieces)
	})
}

// Schema returns the name of the schema.
func (s *Store) Schema() string { return s.schema }

// sql returns the statement with the given name.
func (s *Store) sql(name string) string {
	sql, ok := s.statements[name]
	if !ok {
		panic("store: unknown statement " + name)
	}
	return sql
}

// exec runs a statement that returns no rows.
func (s *Store) exec(ctx context.Context, db DB, name string, args ...any) error {
	_, err := db.Exec(ctx, s.sql(name), args...)
	return err
}

// one reads the single value that a statement returns.
func one[T any](ctx context.Context, s *Store, db DB, name string, args ...any) (v T, err error) {
	err = db.QueryRow(ctx, s.sql(name), args...).Scan(&v)
	return v, err
}

// collect reads all rows that a statement returns.
func collect[T any](
	ctx context.Context, s *Store, db DB, name string, read func(pgx.CollectableRow) (T, error), args ...any,
) ([]T, error) {
	rows, err := db.Query(ctx, s.sql(name), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, read)
}

// atMostOne reads the row that a statement returns. ok is false if it returns none.
func atMostOne[T any](
	ctx context.Context, s *Store, db DB, name string, read func(pgx.CollectableRow) (T, error), args ...any,
) (v T, ok bool, err error) {
	all, err := collect(ctx, s, db, name, read, args...)
	if err != nil || len(all) == 0 {
		return v, false, err
	}
	return all[0], true, nil
}

// collectByName reads all rows that a statement returns into a map whose key is the first column. columns returns
// where to scan the others.
func collectByName[T any](
	ctx context.Context, s *Store, db DB, name string, columns func(*T) []any, args ...any,
) (map[string]T, error) {
	all := map[string]T{}
	_, err := collect(ctx, s, db, name, func(row pgx.CollectableRow) (v T, err error) {
		var key string
		err = row.Scan(append([]any{&key}, columns(&v)...)...)
		all[key] = v
		return v, err
	}, args...)
	return all, err
}

// instant scans a timestamptz as a time in UTC, and NULL as the zero time.
type instant time.Time

// ScanTimestamptz implements [pgtype.TimestamptzScanner].
func (i *instant) ScanTimestamptz(v pgtype.Timestamptz) error {
	*i = instant{}
	if v.Valid {
		*i = instant(v.Time.UTC())
	}
	return nil
}

// orNull returns nil for the zero time.
func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
