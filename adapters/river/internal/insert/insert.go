// Package insert inserts jobs into River's table. All inserts go through River's client, so that River encodes and
// validates them and runs hooks and insert middleware.
//
// Concurrent callers share one INSERT. If the INSERT fails and provably stored nothing, the batch is split until
// the job that caused the failure is found. After any other failure each caller gets an error saying that its job
// may or may not have been stored, and no job is inserted again.
package insert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/internal/batch"
)

const (
	// timeout bounds a statement, and how long a caller waits in total. A dead connection may never return an error.
	timeout = 10 * time.Second
	// patience is how long callers wait for a statement that may be stuck before another one is sent. It is shorter
	// than timeout.
	patience = 250 * time.Millisecond
	// maxRows and maxBytes bound a statement of [Inserter.One].
	maxRows, maxBytes = 1000, 4 << 20
	// manyRows and manyBytes bound a statement of [Inserter.Many] and [Inserter.Bulk].
	manyRows, manyBytes = 10_000, 16 << 20
	// rollbackTimeout bounds a rollback. A connection that fails there is closed.
	rollbackTimeout = 5 * time.Second
)

// An Inserter inserts jobs. Create one with [New].
type Inserter struct {
	pool     *pgxpool.Pool
	config   *pgxpool.Config
	client   *riverqueue.Client[pgx.Tx]
	clock    *dbclock.Clock
	notifier Notifier
	// inTx makes every batch a real transaction. It is needed with an insert middleware, so that nothing is stored
	// if the middleware fails after the INSERT, and if River does something that a stand-in does not support.
	inTx  atomic.Bool
	batch *batch.Batcher[*Job]
}

// A Notifier notifies workers of inserted jobs.
type Notifier interface {
	// Attach may add the notification for jobs to the batch that inserts them, and reports whether it did.
	Attach(batch *pgx.Batch, jobs []*Job) bool
	// Inserted is called after jobs were committed.
	Inserted(ctx context.Context, jobs []*Job, attached bool)
}

// New returns an inserter that uses client, which must have a [Hook] with clock, and pool. With inTx, each batch is
// a real transaction.
func New(pool *pgxpool.Pool, client *riverqueue.Client[pgx.Tx], clock *dbclock.Clock, inTx bool, n Notifier) *Inserter {
	in := &Inserter{pool: pool, config: pool.Config(), client: client, clock: clock, notifier: n}
	in.inTx.Store(inTx)
	in.batch = batch.New(batch.Config[*Job]{
		Call: in.insert, Divisible: divisible, Size: (*Job).size,
		MaxItems: maxRows, MaxSize: maxBytes, Patience: patience, Timeout: timeout,
	})
	return in
}

// insertingKey marks the context of an insert.
type insertingKey struct{}

// One inserts a job, in one statement with the jobs of concurrent callers. It takes at most 10 seconds, unless the
// job has a unique key that an open transaction holds.
func (in *Inserter) One(ctx context.Context, j *Job) error {
	if j.UniqueKey != nil {
		// A unique job joins no batch: a duplicate key would fail the whole statement, two batches with the same keys
		// could deadlock, and a key held by an open transaction would block all callers.
		return in.insert(ctx, []*Job{j})
	}
	if ctx.Value(insertingKey{}) != nil { // a hook must not wait for its own batch
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return in.insert(ctx, []*Job{j})
	}
	err := in.batch.Do(ctx, j)
	switch {
	case errors.Is(err, batch.ErrNotCalled):
		return fmt.Errorf("the INSERT was not sent within %s: %w", timeout, context.DeadlineExceeded)
	case errors.Is(err, batch.ErrNoAnswer):
		return uncertain(cmp.Or(ctx.Err(), context.DeadlineExceeded))
	}
	return err
}

// insert inserts all jobs or none, in one statement.
func (in *Inserter) insert(ctx context.Context, jobs []*Job) (err error) {
	ctx = context.WithValue(ctx, insertingKey{}, true)
	attached := false
	if in.inTx.Load() {
		err = in.insertInTx(ctx, jobs)
	} else {
		attach := func(batch *pgx.Batch) { attached = in.notifier.Attach(batch, jobs) }
		tx := &standIn{pool: in.pool, config: in.config, attach: attach}
		err = tx.outcome.Judge(in.insertBy(ctx, tx, jobs))
		if attached && divisible(err) { // the notification may be the cause
			attached = false
			tx = &standIn{pool: in.pool, config: in.config}
			err = tx.outcome.Judge(in.insertBy(ctx, tx, jobs))
		}
		if err != nil && tx.unsupported && !tx.outcome.Sent {
			in.inTx.Store(true)
			err = in.insertInTx(ctx, jobs)
		}
	}
	switch {
	case err == nil:
		in.notifier.Inserted(ctx, slices.DeleteFunc(slices.Clone(jobs), func(j *Job) bool { return j.Found }), attached)
	case !NotStored(err):
		return uncertain(err)
	}
	return err
}

// uncertain wraps an error after which nobody knows whether the job was stored.
func uncertain(err error) error {
	return fmt.Errorf("the job may or may not have been stored: %w", err)
}

func (in *Inserter) insertInTx(ctx context.Context, jobs []*Job) error {
	return in.inTransaction(ctx, func(tx pgx.Tx) error { return in.insertBy(ctx, quiet{tx}, jobs) })
}

// inTransaction is like [pgx.BeginFunc], but judges the outcome: nothing is stored before COMMIT is sent. Whatever the
// role's default, f sees what others commit meanwhile.
func (in *Inserter) inTransaction(ctx context.Context, f func(tx pgx.Tx) error) error {
	conn, err := in.pool.Acquire(ctx)
	if err != nil {
		return Outcome{NoConn: true}.Judge(err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return Outcome{NoConn: true}.Judge(err)
	}
	defer rollback(ctx, tx)
	if err := f(tx); err != nil {
		return Outcome{}.Judge(err)
	}
	err = tx.Commit(ctx)
	return Outcome{Sent: true, Intact: !conn.Conn().IsClosed()}.Judge(err)
}

// rollback ends a transaction, even if ctx has ended. It does nothing after Commit.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// insertBy makes River insert all jobs or none in tx, and sets their IDs.
func (in *Inserter) insertBy(ctx context.Context, tx pgx.Tx, jobs []*Job) error {
	results, err := in.client.InsertManyTx(ctx, tx, params(jobs))
	if err != nil {
		return err
	}
	if len(results) != len(jobs) {
		return tooFew(len(results), len(jobs))
	}
	for i, r := range results {
		jobs[i].ID, jobs[i].Found = r.Job.ID, r.UniqueSkippedAsDuplicate
	}
	return nil
}

func tooFew(stored, sent int) error {
	return fmt.Errorf("the database stored %d of %d jobs without saying which: is there a trigger on River's table?",
		stored, sent)
}

// Tx inserts jobs in the caller's transaction. The caller notifies workers once it has committed.
func (in *Inserter) Tx(ctx context.Context, tx pgx.Tx, jobs ...*Job) error {
	return in.insertBy(context.WithValue(ctx, insertingKey{}, true), quiet{tx}, jobs)
}

// Many inserts all jobs or none in one transaction, and sets their IDs.
func (in *Inserter) Many(ctx context.Context, jobs []*Job) error {
	return in.allOrNone(ctx, jobs, func(ctx context.Context, tx pgx.Tx) error { return in.inParts(ctx, tx, jobs) })
}

// Bulk inserts all jobs or none in one transaction with COPY, which returns no IDs. River encodes each part while the
// part before it is copied, which makes up for the wider index.
func (in *Inserter) Bulk(ctx context.Context, jobs []*Job) error {
	return in.allOrNone(ctx, jobs, func(ctx context.Context, tx pgx.Tx) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var group errgroup.Group
		group.SetLimit(2)
		var stored atomic.Int64
		previous := make(chan struct{})
		close(previous)
		for part := range parts(jobs) {
			before, after := previous, make(chan struct{})
			previous = after
			group.Go(func() (err error) {
				defer func() {
					<-before // even if a hook has ended the goroutine
					if err != nil {
						cancel(err) // before the next part has its turn
					}
					close(after)
				}()
				if ctx.Err() != nil { // River would call the hooks
					return nil
				}
				n, err := in.copy(ctx, inTurn{quiet: quiet{tx}, before: before}, part)
				stored.Add(int64(n))
				return err
			})
		}
		_ = group.Wait()
		err := context.Cause(ctx)
		if n := int(stored.Load()); err == nil && n != len(jobs) {
			err = tooFew(n, len(jobs))
		}
		return err
	})
}

// copy makes River copy all jobs in tx. It turns a panic of a hook into an error, because this is not the caller's
// goroutine.
func (in *Inserter) copy(ctx context.Context, tx pgx.Tx, jobs []*Job) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())
		}
	}()
	now := in.clock.Estimate()
	for _, j := range jobs {
		j.copied = &now
	}
	return in.client.InsertManyFastTx(ctx, tx, params(jobs))
}

// ManyTx is Many in a savepoint of the caller's transaction. The caller notifies workers once it has committed.
func (in *Inserter) ManyTx(ctx context.Context, tx pgx.Tx, jobs []*Job) error {
	ctx = context.WithValue(ctx, insertingKey{}, true)
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, savepoint)
	if err := in.inParts(ctx, savepoint, jobs); err != nil {
		return err
	}
	return savepoint.Commit(ctx)
}

// InTx calls f in a transaction of its own, at the isolation level read committed. It takes as long as f.
func (in *Inserter) InTx(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	err := in.inTransaction(ctx, func(tx pgx.Tx) error { return f(ctx, tx) })
	if err != nil && !NotStored(err) {
		return uncertain(err)
	}
	return err
}

// allOrNone calls insert, which inserts jobs, in a transaction of its own.
func (in *Inserter) allOrNone(
	ctx context.Context, jobs []*Job, insert func(ctx context.Context, tx pgx.Tx) error,
) error {
	ctx = context.WithValue(ctx, insertingKey{}, true)
	err := in.inTransaction(ctx, func(tx pgx.Tx) error { return insert(ctx, tx) })
	switch {
	case err == nil:
		in.notifier.Inserted(ctx, jobs, false)
	case !NotStored(err):
		return fmt.Errorf("either all of the jobs or none have been stored: %w", err)
	}
	return err
}

// inParts inserts jobs in tx, in several statements if they don't fit into one.
func (in *Inserter) inParts(ctx context.Context, tx pgx.Tx, jobs []*Job) error {
	for part := range parts(jobs) {
		if err := in.insertBy(ctx, quiet{tx}, part); err != nil {
			return err
		}
	}
	return nil
}

// parts splits jobs into parts that each fit into one statement.
func parts(jobs []*Job) iter.Seq[[]*Job] {
	return func(yield func([]*Job) bool) {
		for rest := jobs; len(rest) > 0; {
			n := fitting(rest)
			if !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// fitting returns how many of the first jobs fit into one statement, at least one.
func fitting(jobs []*Job) int {
	size := 0
	for i, j := range jobs {
		if size += j.size(); i > 0 && (i == manyRows || size > manyBytes) {
			return i
		}
	}
	return len(jobs)
}
