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
		switch {
		case err != nil || !r.ended.IsZero():
		case r.state == jobs.StateRunning:
			r.cancelled = true
			r.cancel()
		default:
			s.unpark(r)
			s.finish(r, jobs.StateCancelled, "", now)
		}
		return err
	})
}

// Retry implements [jobs.Retrier]. The run is not skipped for being late, see
// [jobs.StartWithin], nor because a later run has its key, see [jobs.Unique].
func (s *Scheduler) Retry(ctx context.Context, name, id string) error {
	return s.operate(ctx, name, func(q *queue, now time.Time) error {
		r, err := s.row(q, id)
		if err != nil {
			return err
		}
		switch r.state {
		case jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped:
			ended := s.ended(r)
			ended.rows = slices.DeleteFunc(ended.rows, func(other *row) bool { return other == r })
			if r.state == jobs.StateSkipped {
				r.err = ""
			}
			r.ended, r.begun, r.aside, r.cancelled = time.Time{}, true, true, false
			r.attempts = max(r.attempts, r.attempt+1)
			q.claim(r)
		case jobs.StateRetrying:
			s.unpark(r)
		case jobs.StateWaiting:
			if r.attempt > 0 || r.snoozes > 0 {
				return nil // it will start as soon as it can
			}
			return fmt.Errorf("%w: %q of %q is %s", jobs.ErrNotRetryable, id, name, r.state)
		case jobs.StateScheduled:
			if r.snoozes == 0 {
				return fmt.Errorf("%w: %q of %q is %s", jobs.ErrNotRetryable, id, name, r.state)
			}
			s.unpark(r)
		default:
			return fmt.Errorf("%w: %q of %q is %s", jobs.ErrNotRetryable, id, name, r.state)
		}
		r.due = now
		s.park(r, jobs.StateWaiting)
		return nil
	})
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
