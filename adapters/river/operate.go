package river

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var (
	_ jobs.ActivityReporter = (*Scheduler)(nil)
	_ jobs.Canceller        = (*Scheduler)(nil)
	_ jobs.Retrier          = (*Scheduler)(nil)
	_ jobs.Pauser           = (*Scheduler)(nil)
)

// activityRows bounds what Activity counts of each of River's states.
const activityRows = 50_000

// Activity implements [jobs.ActivityReporter]. It counts at most the latest 50,000 jobs that completed, 50,000 that
// failed, and 50,000 that were cancelled or skipped.
func (s *Scheduler) Activity(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
	now, err := s.clock.Now(ctx, nil)
	if err != nil {
		return jobs.Activity{}, fmt.Errorf("river: activity: %w", err)
	}
	activity, err := provider.NewActivity(now, step, n)
	if err != nil {
		return activity, err
	}
	ended, err := s.store.Activity(ctx, s.pool, activity.Start, step, activityRows)
	if err != nil {
		return jobs.Activity{}, fmt.Errorf("river: activity: %w", s.unmigrated(err))
	}
	for _, e := range ended {
		provider.AddEnded(activity, e.Name, e.Step, n, e.State, e.Count)
		if e.Oldest != nil && e.Oldest.After(activity.CompleteSince) {
			activity.CompleteSince = e.Oldest.UTC()
		}
	}
	return activity, nil
}

// Cancel implements [jobs.Canceller].
func (s *Scheduler) Cancel(ctx context.Context, name, id string) error {
	err := s.withJob(ctx, name, id, func(tx pgx.Tx, id int64, state jobs.State, _ bool) error {
		switch state {
		case jobs.StateScheduled, jobs.StateWaiting, jobs.StateRetrying:
			// River would also notify its process, and end an attempt that a Retry has started meanwhile.
			return s.store.CancelRuns(ctx, tx, []int64{id})
		default:
			return s.cancelTx(ctx, tx, id)
		}
	})
	if err != nil {
		return fmt.Errorf("river: cancel job %q of %q: %w", id, name, s.unmigrated(err))
	}
	if ss := s.session.Load(); ss != nil {
		ss.ticker.CheckNow() // a tick may have waited for it
	}
	return nil
}

// cancelTx cancels a run in tx. If it is running, its process is notified.
func (s *Scheduler) cancelTx(ctx context.Context, tx pgx.Tx, id int64) error {
	_, err := s.inserting.JobCancelTx(ctx, tx, id)
	return err
}

// Retry implements [jobs.Retrier].
func (s *Scheduler) Retry(ctx context.Context, name, id string) error {
	var queue string
	retry := func() error {
		return s.withJob(ctx, name, id, func(tx pgx.Tx, id int64, state jobs.State, snoozed bool) error {
			switch state {
			case jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped, jobs.StateRetrying:
			default:
				if snoozed && (state == jobs.StateScheduled || state == jobs.StateWaiting) {
					break
				}
				return fmt.Errorf("%w: it is %s", jobs.ErrNotRetryable, state)
			}
			if err := s.store.PrepareRetry(ctx, tx, []int64{id}, false); err != nil {
				return err
			}
			row, err := s.inserting.JobRetryTx(ctx, tx, id)
			if err == nil {
				queue = row.Queue
			}
			return err
		})
	}
	err := retry()
	if store.Code(err) == "23505" {
		err = retry() // another transaction held its unique key, and has committed
	}
	if err != nil {
		return fmt.Errorf("river: retry job %q of %q: %w", id, name, s.unmigrated(err))
	}
	s.wake.Notify(ctx, []string{queue})
	return nil
}

// withJob calls f in a transaction that has locked the job with that name and ID. snoozed is whether the handler has
// ever snoozed it.
func (s *Scheduler) withJob(ctx context.Context, name, id string, f func(tx pgx.Tx, id int64, state jobs.State, snoozed bool) error) error {
	if _, err := s.definition(name); err != nil {
		return err
	}
	number, err := parseID(id)
	if err != nil {
		return err
	}
	// At another isolation level it would not see what a former holder of the lock committed.
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		state, snoozed, err := s.store.LockJob(ctx, tx, number, name)
		if errors.Is(err, pgx.ErrNoRows) {
			return jobs.ErrUnknownID
		}
		if err != nil {
			return err
		}
		return f(tx, number, state, snoozed)
	})
}
