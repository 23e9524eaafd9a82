package river

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// inserter stores rows, joining those that are asked for at the same time into one
// statement: while one is on its way, those that come gather for the next. There is
// no timer: a caller on its own is served at once. A commit costs the same for one
// row as for a hundred, so many callers share it. Two statements at most are on their way.
type inserter[Row any] struct {
	// store stores all rows or none, at once, and sets what it knows of them.
	store func(ctx context.Context, rows []Row) error
	// size is roughly how many bytes a row has.
	size func(Row) int

	mu      sync.Mutex
	waiting []*insertion[Row]
	running int // how many statements are on their way, or about to be
}

// insertion is one row on its way.
type insertion[Row any] struct {
	row  Row
	done chan struct{} // closed when err is set
	err  error
}

// The size of one statement.
const (
	maxBatchRows  = 1000
	maxBatchBytes = 4 << 20
)

// overlapAtLeast is how many rows have to wait for a second statement to be sent beside the one on its
// way: while one is flushed to disk the other is worked on. Of fewer rows the two would cost more than
// they save.
const overlapAtLeast = 12

// batchTimeout bounds a statement for several callers, who may leave earlier.
const batchTimeout = 10 * time.Second

// insert returns when the row is stored. When ctx ends it returns at once, and the row
// may be stored or not.
func (in *inserter[Row]) insert(ctx context.Context, row Row) error {
	p := &insertion[Row]{row: row, done: make(chan struct{})}
	in.mu.Lock()
	alone := in.running == 0
	if !alone {
		in.waiting = append(in.waiting, p)
	}
	more := in.running == 1 && len(in.waiting) >= overlapAtLeast
	if alone || more {
		in.running++
	}
	in.mu.Unlock()
	if alone {
		// On the caller's own goroutine and context: nobody else depends on it.
		err := in.store(ctx, []Row{row})
		if !in.idle() {
			go in.storeWaiting()
		}
		return err
	}
	if more {
		go in.storeWaiting()
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		in.mu.Lock() // what is not on its way yet is not stored
		in.waiting = slices.DeleteFunc(in.waiting, func(o *insertion[Row]) bool { return o == p })
		in.mu.Unlock()
		return ctx.Err()
	}
}

// idle gives the turn back if nobody waits, or so few that the other statement's turn will do.
func (in *inserter[Row]) idle() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.waiting) == 0 || in.running > 1 && len(in.waiting) < overlapAtLeast {
		in.running--
		return true
	}
	return false
}

// storeWaiting works until nobody waits.
func (in *inserter[Row]) storeWaiting() {
	for in.gather(); !in.idle(); in.gather() {
		ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
		in.storeBatch(ctx, in.next())
		cancel()
	}
}

// gather lets those who are about to ask do so. Callers whose rows have just been stored
// often have the next one ready: without this the first of them would go alone, and the
// others wait for it.
func (in *inserter[Row]) gather() {
	for before := -1; ; runtime.Gosched() {
		in.mu.Lock()
		n := len(in.waiting)
		in.mu.Unlock()
		if n == before || n >= maxBatchRows {
			return
		}
		before = n
	}
}

// next takes as many of the waiting as go into one statement.
func (in *inserter[Row]) next() (batch []*insertion[Row]) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, size := 0, 0
	for n < len(in.waiting) && n < maxBatchRows {
		if size += in.size(in.waiting[n].row); n > 0 && size > maxBatchBytes {
			break
		}
		n++
	}
	batch, in.waiting = in.waiting[:n:n], in.waiting[n:]
	return batch
}

// storeBatch stores a batch and tells each of its callers.
func (in *inserter[Row]) storeBatch(ctx context.Context, batch []*insertion[Row]) {
	rows := make([]Row, len(batch))
	for i, p := range batch {
		rows[i] = p.row
	}
	err := in.store(ctx, rows)
	var refused *pgconn.PgError
	oneByOne := len(batch) > 1 && errors.As(err, &refused)
	for i, p := range batch {
		p.err = err
		if oneByOne {
			// PostgreSQL refused the statement, so nothing of it is stored: one row may be
			// the reason, and must not take the others with it.
			p.err = in.store(ctx, rows[i:i+1])
		}
	}
	for _, p := range batch {
		close(p.done)
	}
}

// autocommit is a transaction to River, which sends an INSERT and a notification,
// and none to PostgreSQL: the INSERT is one statement and commits by itself. That
// spares the round trips of BEGIN and COMMIT. The notification is the notifier's.
type autocommit struct {
	pgx.Tx // nil: River calls nothing else
	conn   *pgxpool.Conn
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

// Exec is for the notification.
func (autocommit) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, nil
}
