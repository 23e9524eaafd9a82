package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
)

// Cancel implements [jobs.Canceller].
func (s *Scheduler) Cancel(ctx context.Context, name, id string) error {
	return s.operate(ctx, name, func(q *queue, now time.Time) error {
		r, err := s.row(q, id)
		if err == nil {
			s.cancel(now, r)
		}
		return err
	})
}

// cancel cancels rows, except those that have ended.
func (s *Scheduler) cancel(now time.Time, rows ...*row) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r *row) bool { return !r.ended.IsZero() })
	s.unpark(rows...)
	for _, r := range rows {
		r.cancelled = now
		if r.state == jobs.StateRunning {
			r.cancel()
		} else {
			s.finish(r, jobs.StateCancelled, "", now)
		}
	}
}

// Retry implements [jobs.Retrier]. The run is not skipped for being late, see
// [jobs.StartWithin], nor because a later run has its key, see [jobs.Unique].
func (s *Scheduler) Retry(ctx context.Context, name, id string) error {
	return s.operate(ctx, name, func(q *queue, now time.Time) error {
		r, err := s.row(q, id)
		switch {
		case err != nil:
			return err
		case r.canRetry(), r.snoozes > 0 && r.state == jobs.StateScheduled:
			s.retry(now, r)
		case r.snoozes > 0 && r.state == jobs.StateWaiting: // it will start as soon as it can
		case r.shown() != jobs.StateRetrying: // otherwise it will start as soon as it can
			return fmt.Errorf("%w: %q of %q is %s", jobs.ErrNotRetryable, id, name, r.state)
		}
		return nil
	})
}

// canRetry reports whether r has ended without success or waits for an attempt that is not due yet.
func (r *row) canRetry() bool {
	return !r.ended.IsZero() && r.state != jobs.StateCompleted || r.state == jobs.StateRetrying
}

// retry makes rows that can be retried due at once.
func (s *Scheduler) retry(now time.Time, rows ...*row) {
	s.unpark(rows...)
	for _, r := range rows {
		if !r.ended.IsZero() {
			if r.state == jobs.StateSkipped {
				r.err = ""
			}
			r.ended, r.cancelled, r.begun, r.aside = time.Time{}, time.Time{}, true, true
			r.attempts = max(r.attempts, r.attempt+1)
			r.queue.claim(r)
		}
		r.due, r.overtaken = now, ""
		s.park(r, jobs.StateWaiting)
	}
	for _, f := range []*finished{&s.finished, &s.failed} {
		f.rows = slices.DeleteFunc(f.rows, func(r *row) bool { return r.ended.IsZero() })
	}
}

// Pause implements [jobs.Pauser]. It takes effect at once, and lasts across Shutdown and Start
// of this scheduler.
func (s *Scheduler) Pause(ctx context.Context, name string) error {
	return s.operate(ctx, name, func(q *queue, now time.Time) error {
		if !q.paused.IsZero() {
			return nil
		}
		q.paused = now
		ready := &q.slots.ready
		waiting := ready.rows
		ready.rows = nil
		for _, r := range waiting {
			s.ready(r)
		}
		return nil
	})
}

// Resume implements [jobs.Pauser].
func (s *Scheduler) Resume(ctx context.Context, name string) error {
	var skipped []func()
	err := s.operate(ctx, name, func(q *queue, now time.Time) error {
		if !q.paused.IsZero() {
			skipped = s.advance(ctx, q, now) // ticks that became due during the pause, even while stopped
		}
		waited := q.back
		q.paused, q.back = time.Time{}, nil
		for _, r := range waited {
			s.ready(r)
		}
		return nil
	})
	for _, report := range skipped {
		report()
	}
	return err
}

// operate calls do with the queue of the named job, with s.mu locked.
func (s *Scheduler) operate(ctx context.Context, name string, do func(q *queue, now time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := s.registry.Job(name)
	if err != nil {
		return err
	}
	defer s.notify()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	s.promote(now)
	return do(s.queue(d), now)
}

func (s *Scheduler) row(q *queue, id string) (*row, error) {
	if r := s.rows[id]; r != nil && r.queue == q {
		return r, nil
	}
	return nil, fmt.Errorf("%w: %.100q of %q", jobs.ErrUnknownID, id, q.def.Name)
}
