package river

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// inserter stores rows, joining those that are asked for at the same time into one
// statement: while one is on its way, those that come gather for the next. Nobody waits
// for others to come: a caller on its own is served at once. A commit costs the same for one
// row as for a hundred, so many callers share it. Two statements at most are on their way,
// unless they are stuck.
type inserter[Row any] struct {
	// store stores all rows or none, at once, and sets what it knows of them.
	store func(ctx context.Context, rows []Row) error
	// size is roughly how many bytes a row has.
	size func(Row) int
	// patience is how long rows wait while no statement begins. Then one does, on another connection:
	// that of the one on its way may be dead, and its caller patient.
	patience time.Duration

	mu      sync.Mutex
	waiting []*insertion[Row]
	running int       // how many statements are on their way, or about to be
	started time.Time // when the last of them began
	// epoch increases when those on their way turn out to be stuck. They are counted apart.
	epoch, stuck int
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

const (
	insertPatience = 250 * time.Millisecond
	// mostStuck is how many connections stuck statements may take from others.
	mostStuck = 4
)

// storeTimeout bounds a statement, and waiting for a connection for it. Of a connection that
// is dead nothing else may ever come, and its caller may be patient.
const storeTimeout = 10 * time.Second

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
		in.started = time.Now()
	}
	epoch := in.epoch
	in.mu.Unlock()
	if alone {
		// On the caller's own goroutine and context. It may panic: a tracer of the pool, for one.
		defer func() {
			if !in.idle(epoch) {
				go in.storeWaiting(epoch)
			}
		}()
		return in.storeInTime(ctx, []Row{row})
	}
	if more {
		go in.storeWaiting(epoch)
	}
	patience := time.NewTimer(in.patience)
	defer patience.Stop()
	for {
		select {
		case <-p.done:
			return p.err
		case <-patience.C:
			in.overtake()
			patience.Reset(in.patience)
		case <-ctx.Done():
			in.mu.Lock() // what is not on its way yet is not stored
			in.waiting = slices.DeleteFunc(in.waiting, func(o *insertion[Row]) bool { return o == p })
			in.mu.Unlock()
			return ctx.Err()
		}
	}
}

// overtake stores those that wait beside statements that are stuck.
func (in *inserter[Row]) overtake() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.waiting) > 0 && in.stuck < mostStuck && time.Since(in.started) >= in.patience {
		in.epoch++
		in.stuck += in.running
		in.running = 1
		in.started = time.Now()
		go in.storeWaiting(in.epoch)
	}
}

// idle gives the turn back if nobody waits, or so few that the other statement's turn will do.
func (in *inserter[Row]) idle(epoch int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if epoch != in.epoch {
		in.stuck--
		return true
	}
	if len(in.waiting) == 0 || in.running > 1 && len(in.waiting) < overlapAtLeast {
		in.running--
		return true
	}
	return false
}

// storeWaiting works until nobody waits.
func (in *inserter[Row]) storeWaiting(epoch int) {
	for in.gather(); !in.idle(epoch); in.gather() {
		in.storeBatch(in.next())
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
	in.started = time.Now()
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
func (in *inserter[Row]) storeBatch(batch []*insertion[Row]) {
	rows := make([]Row, len(batch))
	for i, p := range batch {
		rows[i] = p.row
	}
	err := in.storeSafely(rows)
	var refused *pgconn.PgError
	oneByOne := len(batch) > 1 && errors.As(err, &refused)
	for i, p := range batch {
		p.err = err
		if oneByOne {
			// PostgreSQL refused the statement, so nothing of it is stored: one row may be
			// the reason, and must not take the others with it.
			p.err = in.storeSafely(rows[i : i+1])
		}
	}
	for _, p := range batch {
		close(p.done)
	}
}

// storeSafely makes a panic an error of the callers, whose goroutine this is not.
func (in *inserter[Row]) storeSafely(rows []Row) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())
		}
	}()
	return in.storeInTime(context.Background(), rows)
}

func (in *inserter[Row]) storeInTime(ctx context.Context, rows []Row) error {
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := in.store(bounded, rows)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer within %s, so it may be stored or not: %w", storeTimeout, err)
	}
	return err
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
