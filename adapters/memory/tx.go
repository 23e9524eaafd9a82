package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/jobs"
)

const errNoTxDB noDB = "memory: the Tx has no DB"

// A Tx is a transaction without a database, for tests of code that triggers jobs in a
// transaction. Jobs triggered in it, or in a transaction nested in it by [Tx.Begin], are
// inserted when it commits and dropped when it rolls back. The zero value is an open
// transaction. A type that embeds *Tx works as well.
type Tx struct {
	// DB executes Exec, Query and QueryRow. A rollback does not undo its statements. Defaults
	// to a DB whose methods return an error.
	DB jobs.DB

	outer  *Tx // the outermost transaction; nil if it is this one
	begun  int // number of the outermost transaction's jobs when this one began
	locked int // number of its locks then
	mu     sync.Mutex
	closed bool
	jobs   []func(committed bool) // in the outermost transaction only
	locks  []func()               // to be released after jobs; in the outermost transaction only
}

var _ pgx.Tx = (*Tx)(nil)

func (tx *Tx) outermost() *Tx { return cmp.Or(tx.outer, tx) }

// Begin begins a nested transaction, like a savepoint.
func (tx *Tx) Begin(context.Context) (pgx.Tx, error) {
	nested, err := tx.nest()
	if err != nil {
		return nil, err
	}
	return nested, nil
}

func (tx *Tx) nest() (*Tx, error) {
	outer := tx.outermost()
	outer.mu.Lock()
	defer outer.mu.Unlock()
	if err := tx.check(); err != nil {
		return nil, err
	}
	return &Tx{DB: tx.DB, outer: outer, begun: len(outer.jobs), locked: len(outer.locks)}, nil
}

// check returns [pgx.ErrTxClosed] if tx or the outermost transaction has ended.
func (tx *Tx) check() error {
	if tx.closed || tx.outermost().closed {
		return pgx.ErrTxClosed
	}
	return nil
}

// Commit commits tx. If ctx has ended, tx is rolled back.
func (tx *Tx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errors.Join(err, tx.end(false))
	}
	return tx.end(true)
}

// Rollback rolls tx back.
func (tx *Tx) Rollback(context.Context) error { return tx.end(false) }

func (tx *Tx) end(commit bool) error {
	outer := tx.outermost()
	outer.mu.Lock()
	err := tx.check()
	var ended []func(bool)
	var released []func()
	if err == nil {
		tx.closed = true
		if tx == outer || !commit {
			ended = slices.Clone(outer.jobs[tx.begun:])
			outer.jobs = outer.jobs[:tx.begun]
			released = slices.Clone(outer.locks[tx.locked:])
			outer.locks = outer.locks[:tx.locked]
		}
	}
	outer.mu.Unlock()
	for _, f := range ended {
		f(commit)
	}
	for _, f := range released {
		f()
	}
	return err
}

// add calls f when tx commits or rolls back.
func (tx *Tx) add(f func(committed bool)) error {
	outer := tx.outermost()
	outer.mu.Lock()
	defer outer.mu.Unlock()
	if err := tx.check(); err != nil {
		return err
	}
	outer.jobs = append(outer.jobs, f)
	return nil
}

// addLock calls release when tx has committed or rolled back, after the functions given to add.
func (tx *Tx) addLock(release func()) error {
	outer := tx.outermost()
	outer.mu.Lock()
	defer outer.mu.Unlock()
	if err := tx.check(); err != nil {
		return err
	}
	outer.locks = append(outer.locks, release)
	return nil
}

// db returns tx.DB or its default.
func (tx *Tx) db() jobs.DB { return cmp.Or[jobs.DB](tx.DB, errNoTxDB) }

// Exec implements [pgx.Tx].
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return tx.db().Exec(ctx, sql, args...)
}

// Query implements [pgx.Tx].
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return tx.db().Query(ctx, sql, args...)
}

// QueryRow implements [pgx.Tx].
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return tx.db().QueryRow(ctx, sql, args...)
}

// CopyFrom returns an error.
func (tx *Tx) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, errNoTxDB
}

// SendBatch returns an error with each result.
func (tx *Tx) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults { return noBatch{tx} }

// Prepare returns an error.
func (tx *Tx) Prepare(context.Context, string, string) (*pgconn.StatementDescription, error) {
	return nil, errNoTxDB
}

// LargeObjects returns a zero value, which cannot be used.
func (tx *Tx) LargeObjects() pgx.LargeObjects { return pgx.LargeObjects{} }

// Conn returns nil.
func (tx *Tx) Conn() *pgx.Conn { return nil }

type noBatch struct{ tx *Tx }

func (b noBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, errNoTxDB }
func (b noBatch) Query() (pgx.Rows, error)         { return errNoTxDB, errNoTxDB }
func (b noBatch) QueryRow() pgx.Row                { return errNoTxDB }
func (b noBatch) Close() error                     { return errNoTxDB }
func (b noBatch) Tx() pgx.Tx                       { return b.tx }

// TriggerTx implements [jobs.TxTriggerer]. If tx is a [*Tx] or a [jobs.Job.Tx], the job is inserted
// when it commits. This provider cannot follow any other transaction: the job is inserted at once, even if tx is
// rolled back later.
func (s *Scheduler) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	if tx == nil {
		return "", fmt.Errorf("memory: trigger %q: the transaction is nil; use Trigger without one", name)
	}
	return s.trigger(ctx, unwrapTx(tx), name, data, opts)
}

// TriggerManyTx implements [jobs.TxTriggerer]. See [Scheduler.TriggerTx] for what tx may be.
func (s *Scheduler) TriggerManyTx(
	ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption,
) ([]string, error) {
	if tx == nil {
		return nil, fmt.Errorf("memory: trigger %d of %q: the transaction is nil; use TriggerMany without one", len(data), name)
	}
	return s.triggerMany(ctx, unwrapTx(tx), name, data, opts)
}

func (tx *Tx) itself() *Tx { return tx }

// addIn stores r once tx commits.
func (s *Scheduler) addIn(tx *Tx, r *row) error {
	r.tx, r.settled = tx, make(chan struct{})
	return txError(r.queue, tx.add(func(committed bool) { s.txEnded(r, committed) }))
}

// txError adds to an error of a transaction what it happened to.
func txError(q *queue, err error) error {
	if err != nil {
		err = fmt.Errorf("memory: trigger %q: %w", q.def.Name, err)
	}
	return err
}

// txEnded stores or drops r after its transaction has ended.
func (s *Scheduler) txEnded(r *row, committed bool) {
	defer s.notify()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.tx = nil
	close(r.settled)
	if committed {
		s.add(r)
	} else {
		r.queue.dropKey(r)
		r.freeKey()
	}
}

// holder returns the row that holds the key, nil if there is none. If an open transaction other
// than tx inserts that row, holder waits for its end with the mutex released.
func (s *Scheduler) holder(ctx context.Context, q *queue, key string, tx *Tx) (*row, error) {
	for {
		r := q.unique[key]
		if r == nil || r.tx == nil || tx != nil && r.tx.outermost() == tx.outermost() {
			return r, nil
		}
		if err := s.await(ctx, q, r.settled); err != nil {
			return nil, err
		}
	}
}

// await waits with the mutex released until a transaction that holds a key of q has ended.
func (s *Scheduler) await(ctx context.Context, q *queue, settled <-chan struct{}) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("memory: trigger %q: an open transaction holds the key: %w", q.def.Name, ctx.Err())
	}
}
