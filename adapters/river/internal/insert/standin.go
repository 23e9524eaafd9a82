package insert

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errUnexpected says that River did something with its transaction that a stand-in cannot do.
var errUnexpected = errors.New("river: insert: a stand-in for a transaction cannot do that")

// standIn is a transaction to River and none to PostgreSQL: River's INSERT is one statement and commits by
// itself, which spares the round trips of BEGIN and COMMIT. It holds a connection only while that runs, so
// none is held while users' hooks do. River asks for Config, which tells it how queries are sent; QueryRow,
// once, to find what the server can do; Query, for the INSERT; and Exec, for the notification, which package
// wake sends.
type standIn struct {
	pool       *pgxpool.Pool
	config     *pgxpool.Config
	outcome    Outcome
	unexpected bool // River did something else
}

var _ pgx.Tx = (*standIn)(nil)

func (s *standIn) refuse() error {
	s.unexpected = true
	return errUnexpected
}

// Config has the pool's settings. Without it River would take those of the connection.
func (s *standIn) Config() *pgxpool.Config { return s.config }

// Query sends the INSERT.
func (s *standIn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if s.outcome.Sent {
		return nil, s.refuse()
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		s.outcome.NoConn = true
		return nil, err
	}
	s.outcome.Sent = true
	rows, err := conn.Query(ctx, sql, args...)
	held := &heldRows{Rows: rows, conn: conn, of: s}
	if err != nil {
		held.release()
		return nil, err
	}
	return held, nil
}

// heldRows releases its connection when it is closed, and says whether that still works.
type heldRows struct {
	pgx.Rows
	conn *pgxpool.Conn
	of   *standIn
}

func (r *heldRows) Close() {
	r.Rows.Close()
	r.release()
}

func (r *heldRows) release() {
	if r.conn != nil {
		r.of.outcome.Intact = !r.conn.Conn().IsClosed()
		r.conn.Release()
		r.conn = nil
	}
}

// QueryRow is for what River asks about the server.
func (s *standIn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return s.pool.QueryRow(ctx, sql, args...)
}

// Exec leaves out River's notification.
func (s *standIn) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	if !isNotify(sql) {
		return pgconn.CommandTag{}, s.refuse()
	}
	return pgconn.CommandTag{}, nil
}

func isNotify(sql string) bool { return strings.Contains(sql, "pg_notify(") }

// Begin implements [pgx.Tx], as all that follows.
func (s *standIn) Begin(context.Context) (pgx.Tx, error) { return nil, s.refuse() }

func (s *standIn) Commit(context.Context) error { return s.refuse() }

func (s *standIn) Rollback(context.Context) error { return s.refuse() }

func (s *standIn) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, s.refuse()
}

func (s *standIn) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults {
	return refusedBatch{s.refuse()}
}

func (s *standIn) LargeObjects() pgx.LargeObjects {
	s.unexpected = true
	return pgx.LargeObjects{}
}

func (s *standIn) Prepare(context.Context, string, string) (*pgconn.StatementDescription, error) {
	return nil, s.refuse()
}

// Conn returns nil: there is no one connection.
func (s *standIn) Conn() *pgx.Conn { return nil }

// refusedBatch is a [pgx.BatchResults] of a batch that was not sent.
type refusedBatch struct{ err error }

func (b refusedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b refusedBatch) Query() (pgx.Rows, error)         { return nil, b.err }
func (b refusedBatch) QueryRow() pgx.Row                { return refusedRow(b) }
func (b refusedBatch) Close() error                     { return b.err }
func (refusedBatch) Tx() pgx.Tx                         { return nil }

type refusedRow struct{ err error }

func (r refusedRow) Scan(...any) error { return r.err }

// quiet is a transaction in which River sends no notification: package wake does, since River's limiter
// drops what comes within its cooldown, and counts one that was rolled back.
type quiet struct{ pgx.Tx }

func (q quiet) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if isNotify(sql) {
		return pgconn.CommandTag{}, nil
	}
	return q.Tx.Exec(ctx, sql, args...)
}
