// Package store has every statement of ours: each stands in a .sql file, under a name, with a typed function
// over it. Code elsewhere decides; this package reads and writes, and decides nothing. River's tables are
// read and written here alone, apart from what goes through River's client.
//
// What it relies on in River is listed in docs/architecture.md, with a test for each item.
package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a pool, a connection or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// A Store has the statements for one schema. Make one with [New].
type Store struct {
	schema     string
	statements map[string]string
}

// New returns the statements for that schema.
func New(schema string) *Store {
	quoted := strings.NewReplacer("{{schema}}", pgx.Identifier{schema}.Sanitize())
	s := &Store{schema: schema, statements: map[string]string{}}
	for name, sql := range templates() {
		s.statements[name] = quoted.Replace(sql)
	}
	return s
}

// Schema returns the name of the schema.
func (s *Store) Schema() string { return s.schema }

// sql returns the statement of that name.
func (s *Store) sql(name string) string {
	sql, ok := s.statements[name]
	if !ok {
		panic("store: no statement " + name)
	}
	return sql
}

//go:embed sql/*.sql
var files embed.FS

var (
	// Each statement begins after a line "-- name: Name", each piece that statements share after one
	// "-- piece: name".
	header = regexp.MustCompile(`(?m)^-- (name|piece): (\w+)$`)
	// {{name}} stands for a piece.
	used    = regexp.MustCompile(`\{\{(\w+)\}\}`)
	comment = regexp.MustCompile(`(?m)\s*--.*$`)
)

// templates returns all statements with their pieces put in, and {{schema}} left.
var templates = sync.OnceValue(func() map[string]string {
	statements, pieces := map[string]string{}, map[string]string{"schema": "{{schema}}"}
	names, err := fs.Glob(files, "sql/*.sql")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		parse(string(text), statements, pieces)
	}
	for name, sql := range statements {
		statements[name] = expand(name, sql, pieces)
	}
	return statements
})

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
			panic("store: two statements " + name)
		}
		into[name] = strings.TrimSuffix(strings.TrimSpace(comment.ReplaceAllString(text[h[1]:end], "")), ";")
	}
}

func expand(name, sql string, pieces map[string]string) string {
	for depth := 0; ; depth++ {
		expanded := used.ReplaceAllStringFunc(sql, func(use string) string {
			piece, ok := pieces[strings.Trim(use, "{}")]
			if !ok || depth > 10 {
				panic(fmt.Sprintf("store: statement %s uses %s", name, use))
			}
			return piece
		})
		if expanded == sql {
			return sql
		}
		sql = expanded
	}
}
