package river

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// inserter stores rows, joining those that are asked for at the same time into one
// statement: while one is on its way, those that come gather for the next. There is
// no timer: a caller on its own is served at once. A commit costs the same for one
// row as for a hundred, so many callers share it.
type inserter struct {
	client *riverqueue.Client[pgx.Tx]
	pool   *pgxpool.Pool
	// notifier tells workers of the rows, nobody does if it is nil.
	notifier *notifier

	mu      sync.Mutex
	waiting []*insertion
	busy    bool // a statement is on its way
}

// insertion is one row on its way.
type insertion struct {
	row riverqueue.InsertManyParams
	// key is the same for rows that are one row by their unique key, and "" for rows
	// without one.
	key  string
	done chan struct{} // closed when res and err are set
	res  *rivertype.JobInsertResult
	err  error
}

// The size of one statement.
const (
	maxBatchRows  = 1000
	maxBatchBytes = 4 << 20
)

// batchTimeout bounds a statement for several callers, who may leave earlier.
const batchTimeout = 10 * time.Second

// insert returns when the row is stored, or the one that has its key already. When
// ctx ends it returns at once, and the row may be stored or not.
func (in *inserter) insert(ctx context.Context, row riverqueue.InsertManyParams, key string) (*rivertype.JobInsertResult, error) {
	p := &insertion{row: row, key: key, done: make(chan struct{})}
	in.mu.Lock()
	alone := !in.busy
	if alone {
		in.busy = true
	} else {
		in.waiting = append(in.waiting, p)
	}
	in.mu.Unlock()
	if alone {
		// On the caller's own goroutine and context: nobody else depends on it.
		in.store(ctx, []*insertion{p})
		if !in.idle() {
			go in.storeWaiting()
		}
		return p.res, p.err
	}
	select {
	case <-p.done:
		return p.res, p.err
	case <-ctx.Done():
		in.mu.Lock() // what is not on its way yet is not stored
		in.waiting = slices.DeleteFunc(in.waiting, func(o *insertion) bool { return o == p })
		in.mu.Unlock()
		return nil, ctx.Err()
	}
}

// insertAlone is like insert, joins nobody and holds nobody up.
func (in *inserter) insertAlone(ctx context.Context, row riverqueue.InsertManyParams) (*rivertype.JobInsertResult, error) {
	p := &insertion{row: row, done: make(chan struct{})}
	in.store(ctx, []*insertion{p})
	return p.res, p.err
}

// idle gives the turn back if nobody waits.
func (in *inserter) idle() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.busy = len(in.waiting) > 0
	return !in.busy
}

// storeWaiting works until nobody waits.
func (in *inserter) storeWaiting() {
	for !in.idle() {
		ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
		in.store(ctx, in.next())
		cancel()
	}
}

// next takes as many of the waiting as go into one statement.
func (in *inserter) next() (batch []*insertion) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, size := 0, 0
	for n < len(in.waiting) && n < maxBatchRows {
		if args, ok := in.waiting[n].row.Args.(rowArgs); ok {
			if size += len(args.raw); n > 0 && size > maxBatchBytes {
				break
			}
		}
		n++
	}
	batch, in.waiting = in.waiting[:n:n], in.waiting[n:]
	return batch
}

// store inserts a batch and tells each of its callers.
func (in *inserter) store(ctx context.Context, batch []*insertion) {
	err := in.storeAll(ctx, batch)
	var refused *pgconn.PgError
	if len(batch) > 1 && errors.As(err, &refused) {
		// PostgreSQL refused the statement, so nothing of it is stored: one row may be
		// the reason, and must not take the others with it.
		for _, p := range batch {
			p.err = in.storeAll(ctx, []*insertion{p})
		}
	} else if err != nil {
		for _, p := range batch {
			p.err = err
		}
	}
	for _, p := range batch {
		close(p.done)
	}
}

func (in *inserter) storeAll(ctx context.Context, batch []*insertion) error {
	// In one order, so that two statements cannot deadlock over unique keys.
	ordered := slices.Clone(batch)
	slices.SortStableFunc(ordered, func(a, b *insertion) int { return cmp.Compare(a.key, b.key) })
	rows := make([]riverqueue.InsertManyParams, 0, len(ordered))
	for i, p := range ordered {
		if !repeats(ordered, i) {
			rows = append(rows, p.row)
		}
	}
	var res []*rivertype.JobInsertResult
	err := in.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) (err error) {
		res, err = in.client.InsertManyTx(ctx, autocommit{conn: conn, notifier: in.notifier}, rows)
		return err
	})
	if err != nil {
		return err
	}
	n := -1
	for i, p := range ordered {
		if !repeats(ordered, i) {
			n++
		}
		p.res = res[n]
	}
	return nil
}

// repeats tells whether the row is the one before it: PostgreSQL refuses a statement
// that names a unique key twice.
func repeats(ordered []*insertion, i int) bool {
	return i > 0 && ordered[i].key != "" && ordered[i].key == ordered[i-1].key
}

// autocommit is a transaction to River, which sends an INSERT and a notification,
// and none to PostgreSQL: the INSERT is one statement and commits by itself. That
// spares the round trips of BEGIN and COMMIT.
type autocommit struct {
	pgx.Tx   // nil: River calls nothing else
	conn     *pgxpool.Conn
	notifier *notifier
}

// Conn is asked for its mode of sending queries.
func (a autocommit) Conn() *pgx.Conn { return a.conn.Conn() }

// Query sends the INSERT.
func (a autocommit) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return a.conn.Query(ctx, sql, args...)
}

// QueryRow is for what River asks about the server, once.
func (a autocommit) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return a.conn.QueryRow(ctx, sql, args...)
}

// Exec sends the notification. The job is stored already.
func (a autocommit) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if a.notifier == nil {
		return pgconn.CommandTag{}, nil
	}
	tag, err := a.notifier.exec(ctx, a.conn, sql, args)
	if err != nil {
		a.notifier.failed(ctx, err)
	}
	return tag, nil
}
