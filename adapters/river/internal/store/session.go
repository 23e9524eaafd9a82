package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Encoding returns the encoding of the database.
func (s *Store) Encoding(ctx context.Context, db DB) (string, error) {
	return one[string](ctx, s, db, "Encoding")
}

// PrepareSession makes a session read committed, and keeps the server from ending it while it is idle, if a role or
// database has other defaults. It does nothing behind a pooler.
func (s *Store) PrepareSession(ctx context.Context, conn *pgx.Conn) error {
	// Without preparing the statement, it takes one round trip.
	return s.exec(ctx, conn, "PrepareSession", pgx.QueryExecModeExec, int64(conn.PgConn().PID()))
}
