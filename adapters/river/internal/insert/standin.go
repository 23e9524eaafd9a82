package insert

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var errUnsupported = errors.New("the stand-in for a transaction does not support this call")

// standIn is a transaction to River but not to PostgreSQL: River's INSERT is one statement that commits by itself,
// which saves the round trips of BEGIN and COMMIT. It holds a connection only during the INSERT, not while users'
// hooks run. River calls Config for the mode of queries, QueryRow once for the server's features, Query for the
// INSERT, and Exec for its notification, which package wake sends instead.
type standIn struct {
	pool        *pgxpool.Pool
	config      *pgxpool.Config
	attach      func(*pgx.Batch) // may add a statement to the INSERT's; nil adds none
	outcome     Outcome
	unsupported bool // River called another method
}

var _ pgx.Tx = (*standIn)(nil)

func (s *standIn) refuse() error {
	s.unsupported = true
	return errUnsupported
}

// Config returns the pool's settings. Without it River would encode arguments for cached statements, whatever the
// pool's query mode.
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
	var batch pgx.Batch // PostgreSQL runs it as one transaction
	batch.Queue(sql, args...)
	if s.attach != nil {
		s.attach(&batch)
	}
	results := conn.SendBatch(ctx, &batch)
	rows, err := results.Query()
	held := &heldRows{Rows: rows, results: results, conn: conn, tx: s}
	if err != nil {
		held.Close()
		return nil, err
	}
	return held, nil
}

// heldRows are the rows of the INSERT. At their end they wait for the commit, release the connection, and record
// whether it still works.
type heldRows struct {
	pgx.Rows
	results pgx.BatchResults
	err     error // of the commit
	conn    *pgxpool.Conn
	tx      *standIn
}

func (r *heldRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *heldRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

func (r *heldRows) Close() {
	if r.conn == nil {
		return
	}
	r.Rows.Close()
	r.err = r.results.Close()
	r.tx.outcome.Intact = !r.conn.Conn().IsClosed()
	r.conn.Release()
	r.conn = nil
}

// QueryRow sends River's queries about the server.
func (s *standIn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return s.pool.QueryRow(ctx, sql, args...)
}

// Exec drops River's notification.
func (s *standIn) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	if !isNotify(sql) {
		return pgconn.CommandTag{}, s.refuse()
	}
	return pgconn.CommandTag{}, nil
}

func isNotify(sql string) bool { return strings.Contains(sql, "pg_notify(") }

// Begin is not supported, like the methods below.
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
	s.unsupported = true
	return pgx.LargeObjects{}
}

func (s *standIn) Prepare(context.Context, string, string) (*pgconn.StatementDescription, error) {
	return nil, s.refuse()
}

// Conn returns nil, because there is no single connection.
func (s *standIn) Conn() *pgx.Conn { return nil }

// refusedBatch is the result of a batch that was not sent.
type refusedBatch struct{ err error }

func (b refusedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b refusedBatch) Query() (pgx.Rows, error)         { return nil, b.err }
func (b refusedBatch) QueryRow() pgx.Row                { return refusedRow(b) }
func (b refusedBatch) Close() error                     { return b.err }
func (refusedBatch) Tx() pgx.Tx                         { return nil }

type refusedRow struct{ err error }

func (r refusedRow) Scan(...any) error { return r.err }

// quiet is a transaction without River's notifications. Package wake sends them, because River drops those within
// its cooldown, even if the previous one was rolled back.
type quiet struct{ pgx.Tx }

func (q quiet) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if isNotify(sql) {
		return pgconn.CommandTag{}, nil
	}
	return q.Tx.Exec(ctx, sql, args...)
}

// inTurn is a transaction whose COPY begins once before is closed.
type inTurn struct {
	quiet
	before <-chan struct{}
}

func (t inTurn) CopyFrom(
	ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource,
) (int64, error) {
	<-t.before
	if err := ctx.Err(); err != nil { // the part before it failed
		return 0, err
	}
	return t.quiet.CopyFrom(ctx, table, columns, rows)
}
