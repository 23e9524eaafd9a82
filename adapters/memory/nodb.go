package memory

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// noDB is a database, and the rows of its queries, whose methods return it as the error.
type noDB string

const errNoDB noDB = "memory: no DB was configured"

func (e noDB) Error() string { return string(e) }

func (e noDB) Begin(context.Context) (pgx.Tx, error) { return nil, e }

func (e noDB) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, e
}

// Query returns rows with the error, as pgx does: callers may check only the rows.
func (e noDB) Query(context.Context, string, ...any) (pgx.Rows, error) { return e, e }

func (e noDB) QueryRow(context.Context, string, ...any) pgx.Row { return e }

func (e noDB) Close()                                       {}
func (e noDB) Err() error                                   { return e }
func (e noDB) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (e noDB) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (e noDB) Next() bool                                   { return false }
func (e noDB) Scan(...any) error                            { return e }
func (e noDB) Values() ([]any, error)                       { return nil, e }
func (e noDB) RawValues() [][]byte                          { return nil }
func (e noDB) Conn() *pgx.Conn                              { return nil }
func (e noDB) TypeMap() *pgtype.Map                         { return nil }
