package insert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/internal/batch"
)

const (
	// timeout bounds a statement, and how long a caller waits in total. Of a connection that is dead nothing
	// may ever come. It is longer than patience.
	timeout = 10 * time.Second
	// patience is how long callers wait for a statement that may be stuck before another is sent beside it.
	patience = 250 * time.Millisecond
	// What goes into one statement of triggers at most.
	maxRows, maxBytes = 1000, 4 << 20
	// What goes into one statement of [Inserter.Many] at most.
	manyRows, manyBytes = 10_000, 16 << 20
)

// An Inserter inserts jobs. Make one with [New].
type Inserter struct {
	pool   *pgxpool.Pool
	config *pgxpool.Config
	client *riverqueue.Client[pgx.Tx]
	clock  *dbclock.Clock
	told   func(ctx context.Context, jobs []*Job)
	// inTx makes every batch a transaction: of somebody's insert middleware that fails after the INSERT
	// nothing may be stored, or River did something that a stand-in cannot do.
	inTx  atomic.Bool
	batch *batch.Batcher[*Job]
}

// New returns an inserter through client, which has a [Hook] with clock, on pool. inTx says that each batch needs a real transaction. told
// is called with jobs that were inserted and committed.
func New(pool *pgxpool.Pool, client *riverqueue.Client[pgx.Tx], clock *dbclock.Clock, inTx bool, told func(ctx context.Context, jobs []*Job)) *Inserter {
	in := &Inserter{pool: pool, config: pool.Config(), client: client, clock: clock, told: told}
	in.inTx.Store(inTx)
	in.batch = batch.New(batch.Config[*Job]{
		Call: in.insert, Divisible: divisible, Size: func(j *Job) int { return len(j.Data) + len(j.Metadata) },
		MaxItems: maxRows, MaxSize: maxBytes, Patience: patience, Timeout: timeout,
	})
	return in
}

// insertingKey marks the context of an insert. A hook that triggers must not wait for its own batch.
type insertingKey struct{}

// One inserts a job, in one statement with those that other callers insert at the same time. It waits for 10
// seconds at most.
func (in *Inserter) One(ctx context.Context, j *Job) error {
	if ctx.Value(insertingKey{}) != nil || j.UniqueKey != nil {
		// A unique job joins no batch: the same key twice refuses the whole statement, two orders deadlock,
		// and a key that an open transaction holds blocks everybody.
		return in.alone(ctx, j)
	}
	err := in.batch.Do(ctx, j)
	switch {
	case errors.Is(err, batch.ErrNotCalled):
		return fmt.Errorf("nothing was sent within %s: %w", timeout, context.DeadlineExceeded)
	case errors.Is(err, batch.ErrNoAnswer):
		return uncertain(context.DeadlineExceeded)
	}
	return err
}

// alone inserts a job in a statement of its own. One that is unique may wait for somebody's transaction.
func (in *Inserter) alone(ctx context.Context, j *Job) error {
	if j.UniqueKey == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return in.insert(ctx, []*Job{j})
}

// insert inserts all or none, in one statement.
func (in *Inserter) insert(ctx context.Context, jobs []*Job) (err error) {
	ctx = context.WithValue(ctx, insertingKey{}, true)
	if in.inTx.Load() {
		err = in.insertInTx(ctx, jobs)
	} else {
		tx := &standIn{pool: in.pool, config: in.config}
		err = in.insertBy(ctx, tx, jobs)
		err = tx.outcome.Judge(err)
		if err != nil && tx.unexpected && !tx.outcome.Sent {
			in.inTx.Store(true)
			err = in.insertInTx(ctx, jobs)
		}
	}
	switch {
	case err == nil:
		in.told(ctx, slices.DeleteFunc(slices.Clone(jobs), func(j *Job) bool { return j.found }))
	case !Undone(err):
		return uncertain(err)
	}
	return err
}

// uncertain says of a job that it may be stored or not.
func uncertain(err error) error { return fmt.Errorf("the job may be stored or not: %w", err) }

func (in *Inserter) insertInTx(ctx context.Context, jobs []*Job) error {
	return in.inTransaction(ctx, func(tx pgx.Tx) error { return in.insertBy(ctx, quiet{tx}, jobs) })
}

// inTransaction is [pgx.BeginFunc], but judges the outcome: before COMMIT is sent nothing is stored.
func (in *Inserter) inTransaction(ctx context.Context, f func(tx pgx.Tx) error) error {
	conn, err := in.pool.Acquire(ctx)
	if err != nil {
		return Outcome{NoConn: true}.Judge(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return Outcome{NoConn: true}.Judge(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after Commit it does nothing
	if err := f(tx); err != nil {
		return Outcome{}.Judge(err)
	}
	err = tx.Commit(ctx)
	return Outcome{Sent: true, Intact: !conn.Conn().IsClosed()}.Judge(err)
}

// insertBy has River insert all or none by tx, and sets the IDs.
func (in *Inserter) insertBy(ctx context.Context, tx pgx.Tx, jobs []*Job) error {
	results, err := in.client.InsertManyTx(ctx, tx, params(jobs, nil))
	if err != nil {
		return err
	}
	if len(results) != len(jobs) {
		return tooFew(len(results), len(jobs))
	}
	for i, r := range results {
		jobs[i].ID, jobs[i].found = r.Job.ID, r.UniqueSkippedAsDuplicate
	}
	return nil
}

func tooFew(stored, sent int) error {
	return fmt.Errorf("the database has stored %d of %d jobs and does not say which: is there a trigger on River's table?", stored, sent)
}

// Tx inserts jobs in the caller's transaction. Workers have to be told once it has committed.
func (in *Inserter) Tx(ctx context.Context, tx pgx.Tx, jobs ...*Job) error {
	return in.insertBy(context.WithValue(ctx, insertingKey{}, true), quiet{tx}, jobs)
}

// Many inserts all or none in one transaction, and sets the IDs.
func (in *Inserter) Many(ctx context.Context, jobs []*Job) error {
	return in.chunks(ctx, jobs, func(ctx context.Context, tx pgx.Tx, chunk []*Job) error { return in.insertBy(ctx, tx, chunk) })
}

// Bulk inserts all or none in one transaction by COPY, which returns no IDs.
func (in *Inserter) Bulk(ctx context.Context, jobs []*Job) error {
	return in.chunks(ctx, jobs, func(ctx context.Context, tx pgx.Tx, chunk []*Job) error {
		now := in.clock.Estimate()
		n, err := in.client.InsertManyFastTx(ctx, tx, params(chunk, &now))
		if err == nil && n != len(chunk) {
			err = tooFew(n, len(chunk))
		}
		return err
	})
}

func (in *Inserter) chunks(ctx context.Context, jobs []*Job, insert func(ctx context.Context, tx pgx.Tx, chunk []*Job) error) error {
	ctx = context.WithValue(ctx, insertingKey{}, true)
	err := in.inTransaction(ctx, func(tx pgx.Tx) error {
		for rest := jobs; len(rest) > 0; {
			n := fitting(rest)
			if err := insert(ctx, quiet{tx}, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
	switch {
	case err == nil:
		in.told(ctx, jobs)
	case !Undone(err):
		return fmt.Errorf("all of the jobs may be stored, or none: %w", err)
	}
	return err
}

// fitting returns how many of the first jobs go into one statement, one at least.
func fitting(jobs []*Job) int {
	size := 0
	for i, j := range jobs {
		if size += len(j.Data) + len(j.Metadata); i > 0 && (i == manyRows || size > manyBytes) {
			return i
		}
	}
	return len(jobs)
}
