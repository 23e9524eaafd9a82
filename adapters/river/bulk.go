package river

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var (
	_ jobs.BulkRetrier   = (*Scheduler)(nil)
	_ jobs.BulkCanceller = (*Scheduler)(nil)
)

// A bulk does something to many runs.
type bulk struct {
	kind store.Bulk
	// due includes runs that are due and will start in any case.
	due bool
	// apply does it to runs that tx has locked. last is set when a run failed repeatedly and is tried once more.
	apply func(ctx context.Context, tx pgx.Tx, runs []store.Lockable, last bool) error
	// applied is called after the transaction.
	applied func(ctx context.Context, runs []store.Lockable)
}

// RetryMany implements [jobs.BulkRetrier]. It finds the runs first, which takes 32 bytes of memory for each, and then
// retries 500 in each transaction. It comes back to runs that another transaction has locked, and waits up to 5 seconds
// for each. If another run has a run's key by now, see [jobs.Unique], the run is retried without it.
func (s *Scheduler) RetryMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	f, err := provider.NewRetryFilter(q)
	if err != nil {
		return 0, err
	}
	n, err := s.toMany(ctx, f, s.retrying())
	if err != nil {
		err = fmt.Errorf("river: retry many: %w", err)
	}
	return n, err
}

// CountRetryable implements [jobs.BulkRetrier].
func (s *Scheduler) CountRetryable(ctx context.Context, q jobs.RunQuery) (int, error) {
	f, err := provider.NewRetryFilter(q)
	if err != nil {
		return 0, err
	}
	return s.countMany(ctx, f, s.retrying())
}

// CancelMany implements [jobs.BulkCanceller]. It works like RetryMany.
func (s *Scheduler) CancelMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	f, err := provider.NewCancelFilter(q)
	if err != nil {
		return 0, err
	}
	n, err := s.toMany(ctx, f, s.cancelling())
	if err != nil {
		err = fmt.Errorf("river: cancel many: %w", err)
	}
	if ss := s.session.Load(); ss != nil && n > 0 {
		ss.ticker.CheckNow() // ticks may have waited for them
	}
	return n, err
}

// CountCancellable implements [jobs.BulkCanceller].
func (s *Scheduler) CountCancellable(ctx context.Context, q jobs.RunQuery) (int, error) {
	f, err := provider.NewCancelFilter(q)
	if err != nil {
		return 0, err
	}
	return s.countMany(ctx, f, s.cancelling())
}

func (s *Scheduler) retrying() bulk {
	return bulk{
		kind: store.BulkRetry,
		apply: func(ctx context.Context, tx pgx.Tx, runs []store.Lockable, last bool) error {
			ids := idsOf(runs)
			if err := s.store.PrepareRetry(ctx, tx, ids, last); err != nil {
				return err
			}
			return s.store.RetryRuns(ctx, tx, ids)
		},
		applied: func(ctx context.Context, runs []store.Lockable) {
			var queues []string
			for _, r := range runs {
				if !slices.Contains(queues, r.Queue) {
					queues = append(queues, r.Queue)
				}
			}
			s.wake.Notify(ctx, queues)
		},
	}
}

func (s *Scheduler) cancelling() bulk {
	return bulk{
		kind: store.BulkCancel, due: true,
		apply: func(ctx context.Context, tx pgx.Tx, runs []store.Lockable, _ bool) error {
			var waiting []store.Lockable
			for _, r := range runs {
				if !r.Running {
					waiting = append(waiting, r)
					continue
				}
				if _, err := s.inserting.JobCancelTx(ctx, tx, r.ID); err != nil { // it notifies the run's process
					return err
				}
			}
			return s.store.CancelRuns(ctx, tx, idsOf(waiting))
		},
		applied: func(context.Context, []store.Lockable) {},
	}
}

func idsOf(runs []store.Lockable) []int64 {
	ids := make([]int64, len(runs))
	for i, r := range runs {
		ids[i] = r.ID
	}
	return ids
}

func (s *Scheduler) countMany(ctx context.Context, f provider.RunFilter, b bulk) (int, error) {
	filter, err := s.filter(f)
	if err != nil {
		return 0, err
	}
	n, err := s.store.CountMatching(ctx, s.pool, filter, b.due)
	if err != nil {
		return 0, fmt.Errorf("river: count runs: %w", err)
	}
	return n, nil
}

const (
	// bulkRows is how many runs a transaction locks.
	bulkRows = 500
	// bulkTimeout bounds each of its statements.
	bulkTimeout = 10 * time.Second
	// lockedTimeout is how long the transaction of a single run waits for others.
	lockedTimeout = 5 * time.Second
	// bulkTries is how often a single run is tried that conflicts with others.
	bulkTries = 3
)

// toMany does b to all runs that match f now. The runs that match are found once, so that none is missed that other
// transactions lock for a while, and none is done twice that begins to match again.
func (s *Scheduler) toMany(ctx context.Context, f provider.RunFilter, b bulk) (n int, err error) {
	filter, err := s.filter(f)
	if err != nil {
		return 0, err
	}
	matches, err := s.store.MatchingRuns(ctx, s.pool, filter, b.due)
	if err != nil {
		return 0, err
	}
	var left []store.Match
	for batch := range slices.Chunk(matches, bulkRows) {
		done, busy, err := s.toBatch(ctx, b, batch)
		n += done
		if err != nil {
			return n, err
		}
		left = append(left, busy...)
	}
	failed := 0
	for _, run := range left {
		done, oneErr := s.toOne(ctx, b, run)
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

// toBatch does b to those runs that no other transaction has locked. It returns how many these were, and the runs that
// are to be done one by one.
func (s *Scheduler) toBatch(ctx context.Context, b bulk, batch []store.Match) (done int, busy []store.Match, err error) {
	var locked []store.Lockable
	err = s.inBulk(ctx, bulkTimeout, func(tx pgx.Tx) (err error) {
		if locked, err = s.store.LockFree(ctx, tx, b.kind, batch); err != nil || len(locked) == 0 {
			return err
		}
		return b.apply(ctx, tx, locked, false)
	})
	if ofOneRun(err) && ctx.Err() == nil {
		return 0, batch, nil
	}
	if err != nil {
		return 0, nil, err
	}
	b.applied(ctx, locked)
	if len(locked) == len(batch) {
		return len(locked), nil, nil
	}
	was := make(map[int64]bool, len(locked))
	for _, r := range locked {
		was[r.ID] = true
	}
	left := slices.DeleteFunc(slices.Clone(batch), func(r store.Match) bool { return was[r.ID] })
	still, err := s.store.Read(ctx, s.pool, b.kind, left)
	for _, r := range still {
		busy = append(busy, left[slices.IndexFunc(left, func(m store.Match) bool { return m.ID == r.ID })])
	}
	return len(locked), busy, err
}

// toOne does b to a run, if it still applies to it.
func (s *Scheduler) toOne(ctx context.Context, b bulk, run store.Match) (done int, err error) {
	var locked []store.Lockable
	for try := 1; try <= bulkTries; try++ {
		err = s.inBulk(ctx, lockedTimeout, func(tx pgx.Tx) (err error) {
			if locked, err = s.store.Lock(ctx, tx, b.kind, []store.Match{run}); err != nil || len(locked) == 0 {
				return err
			}
			return b.apply(ctx, tx, locked, try == bulkTries)
		})
		if code := store.Code(err); code != "23505" && code != "40P01" { // another run took its key, or a deadlock
			break
		}
	}
	if err != nil {
		return 0, err
	}
	b.applied(ctx, locked)
	return len(locked), nil
}

func (s *Scheduler) inBulk(ctx context.Context, timeout time.Duration, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		if err := s.store.SetLimits(ctx, tx, store.Limits{Statement: timeout, Idle: timeout}); err != nil {
			return err
		}
		return f(tx)
	})
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
