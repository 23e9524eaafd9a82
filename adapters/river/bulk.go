package river

import (
	"context"
	"fmt"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var (
	_ jobs.BulkRetrier   = (*Scheduler)(nil)
	_ jobs.BulkCanceller = (*Scheduler)(nil)
)

// RetryMany implements [jobs.BulkRetrier]. It finds the runs first, which takes 32 bytes of memory for each, and then
// retries 500 in each transaction. It comes back to runs that another transaction has locked, and waits up to 5 seconds
// for each. If another run has a run's key by now, see [jobs.Unique], the run is retried without it.
func (s *Scheduler) RetryMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	return s.toMany(ctx, "retry many", q, provider.NewRetryFilter, s.bulk.Retry)
}

// CountRetryable implements [jobs.BulkRetrier].
func (s *Scheduler) CountRetryable(ctx context.Context, q jobs.RunQuery) (int, error) {
	return s.toMany(ctx, "count runs", q, provider.NewRetryFilter, s.bulk.CountRetryable)
}

// CancelMany implements [jobs.BulkCanceller]. It works like RetryMany.
func (s *Scheduler) CancelMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	n, err := s.toMany(ctx, "cancel many", q, provider.NewCancelFilter, s.bulk.Cancel)
	if ss := s.session.Load(); ss != nil && n > 0 {
		ss.ticker.CheckNow() // ticks may have waited for them
	}
	return n, err
}

// CountCancellable implements [jobs.BulkCanceller].
func (s *Scheduler) CountCancellable(ctx context.Context, q jobs.RunQuery) (int, error) {
	return s.toMany(ctx, "count runs", q, provider.NewCancelFilter, s.bulk.CountCancellable)
}

// toMany calls do for the runs that match q. what is for its error.
func (s *Scheduler) toMany(
	ctx context.Context, what string, q jobs.RunQuery, newFilter func(jobs.RunQuery) (provider.RunFilter, error),
	do func(context.Context, store.Filter) (int, error),
) (n int, err error) {
	f, err := newFilter(q)
	if err != nil {
		return 0, err
	}
	filter, err := s.filter(ctx, f)
	if err != nil {
		return 0, err
	}
	if n, err = do(ctx, filter); err != nil {
		err = fmt.Errorf("river: %s: %w", what, s.unmigrated(err))
	}
	return n, err
}
