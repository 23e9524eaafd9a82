// Package bulk retries or cancels all runs that match a filter, however many these are.
//
// The runs that match are found once, so none is missed that other transactions lock for a while, and none is changed
// twice that begins to match again. They are changed in batches. A run that cannot be changed, or that another
// transaction has locked, stops no other: it is tried alone at the end, and the error says how many are left.
package bulk

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

const (
	// rows is how many runs a transaction locks.
	rows = 500
	// timeout bounds each of its statements.
	timeout = 10 * time.Second
	// lockedTimeout is how long the transaction of a single run waits for others.
	lockedTimeout = 5 * time.Second
	// tries is how often a single run is tried that conflicts with others.
	tries = 3
)

// A Bulk retries and cancels many runs. Create one with [New].
type Bulk struct {
	pool          *pgxpool.Pool
	store         *store.Store
	cancelRunning func(ctx context.Context, tx pgx.Tx, id int64) error
	notify        func(ctx context.Context, queues []string)
}

// New returns a Bulk. cancelRunning cancels a running run in tx and makes its process end it. notify notifies the
// workers of queues.
func New(
	pool *pgxpool.Pool, s *store.Store,
	cancelRunning func(ctx context.Context, tx pgx.Tx, id int64) error,
	notify func(ctx context.Context, queues []string),
) *Bulk {
	return &Bulk{pool: pool, store: s, cancelRunning: cancelRunning, notify: notify}
}

// Retry retries the runs that match and can be retried, and returns how many it has, also with an error.
func (b *Bulk) Retry(ctx context.Context, f store.Filter) (int, error) {
	return b.toAll(ctx, f, store.BulkRetry)
}

// CountRetryable returns how many runs Retry would find.
func (b *Bulk) CountRetryable(ctx context.Context, f store.Filter) (int, error) {
	return b.store.CountMatching(ctx, b.pool, f, withDue(store.BulkRetry))
}

// Cancel cancels the runs that match and have not ended, and returns how many it has, also with an error.
func (b *Bulk) Cancel(ctx context.Context, f store.Filter) (int, error) {
	return b.toAll(ctx, f, store.BulkCancel)
}

// CountCancellable returns how many runs Cancel would find.
func (b *Bulk) CountCancellable(ctx context.Context, f store.Filter) (int, error) {
	return b.store.CountMatching(ctx, b.pool, f, withDue(store.BulkCancel))
}

// withDue reports whether what applies to runs that are due and will start in any case.
func withDue(what store.Bulk) bool { return what == store.BulkCancel }

// apply does what to runs that tx has locked. last is set when a run failed repeatedly and is tried once more.
func (b *Bulk) apply(ctx context.Context, tx pgx.Tx, what store.Bulk, runs []store.Lockable, last bool) error {
	if what == store.BulkRetry {
		ids := idsOf(runs)
		if err := b.store.PrepareRetry(ctx, tx, ids, last); err != nil {
			return err
		}
		return b.store.RetryRuns(ctx, tx, ids)
	}
	var waiting []store.Lockable
	for _, r := range runs {
		if !r.Running {
			waiting = append(waiting, r)
		} else if err := b.cancelRunning(ctx, tx, r.ID); err != nil {
			return err
		}
	}
	return b.store.CancelRuns(ctx, tx, idsOf(waiting))
}

// applied notifies the workers of runs after the transaction that has retried them.
func (b *Bulk) applied(ctx context.Context, what store.Bulk, runs []store.Lockable) {
	if what != store.BulkRetry {
		return
	}
	var queues []string
	for _, r := range runs {
		queues = append(queues, r.Queue)
	}
	b.notify(ctx, queues)
}

// toAll does what to all runs that match f now.
func (b *Bulk) toAll(ctx context.Context, f store.Filter, what store.Bulk) (n int, err error) {
	matches, err := b.store.MatchingRuns(ctx, b.pool, f, withDue(what))
	if err != nil {
		return 0, err
	}
	var left []store.Match
	for batch := range slices.Chunk(matches, rows) {
		done, busy, err := b.toBatch(ctx, what, batch)
		n += done
		if err != nil {
			return n, err
		}
		left = append(left, busy...)
	}
	failed := 0
	for _, run := range left {
		done, oneErr := b.toOne(ctx, what, run)
		n += done
		switch {
		case oneErr == nil:
		case !ofOneRun(oneErr) || ctx.Err() != nil:
			return n, oneErr
		default:
			if failed++; err == nil {
				err = oneErr
			}
		}
	}
	if err != nil {
		return n, fmt.Errorf("%d of %d runs are left, the first because: %w", failed, len(matches), err)
	}
	return n, nil
}

// toBatch does what to those runs that no other transaction has locked. It returns how many these were, and the runs
// that are to be done one by one.
func (b *Bulk) toBatch(
	ctx context.Context, what store.Bulk, batch []store.Match,
) (done int, busy []store.Match, err error) {
	var locked []store.Lockable
	err = b.store.InTx(ctx, b.pool, store.Limits{Statement: timeout, Idle: timeout}, func(tx pgx.Tx) (err error) {
		if locked, err = b.store.Lockable(ctx, tx, store.LockFree, what, batch); err != nil || len(locked) == 0 {
			return err
		}
		return b.apply(ctx, tx, what, locked, false)
	})
	if ofOneRun(err) && ctx.Err() == nil {
		return 0, batch, nil
	}
	if err != nil {
		return 0, nil, err
	}
	b.applied(ctx, what, locked)
	if len(locked) == len(batch) {
		return len(locked), nil, nil
	}
	ids := idsOf(locked)
	left := slices.DeleteFunc(slices.Clone(batch), func(r store.Match) bool { return slices.Contains(ids, r.ID) })
	still, err := b.store.Lockable(ctx, b.pool, store.Read, what, left)
	for _, r := range still {
		busy = append(busy, left[slices.IndexFunc(left, func(m store.Match) bool { return m.ID == r.ID })])
	}
	return len(locked), busy, err
}

// toOne does what to a run, if it still applies to it.
func (b *Bulk) toOne(ctx context.Context, what store.Bulk, run store.Match) (done int, err error) {
	var locked []store.Lockable
	limits := store.Limits{Statement: lockedTimeout, Idle: lockedTimeout}
	for try := 1; try <= tries; try++ {
		err = b.store.InTx(ctx, b.pool, limits, func(tx pgx.Tx) (err error) {
			if locked, err = b.store.Lockable(ctx, tx, store.Lock, what, []store.Match{run}); err != nil || len(locked) == 0 {
				return err
			}
			return b.apply(ctx, tx, what, locked, try == tries)
		})
		if code := store.Code(err); code != "23505" && code != "40P01" { // another run took its key, or a deadlock
			break
		}
	}
	if err != nil {
		return 0, err
	}
	b.applied(ctx, what, locked)
	return len(locked), nil
}

func idsOf(runs []store.Lockable) []int64 {
	ids := make([]int64, len(runs))
	for i, r := range runs {
		ids[i] = r.ID
	}
	return ids
}

// ofOneRun reports whether an error may be due to one run of several: its values, its key, or a lock.
func ofOneRun(err error) bool {
	code := store.Code(err)
	switch code {
	case "55P03", "57014": // the limits of the transaction
		return true
	}
	return len(code) == 5 && slices.Contains([]string{"22", "23", "40"}, code[:2])
}
