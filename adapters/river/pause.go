package river

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/everytick/everytick/jobs/provider"
)

// Pause implements [jobs.Pauser]. It moves waiting runs to a queue without workers; workers move those that it misses.
func (s *Scheduler) Pause(ctx context.Context, name string) error {
	if _, err := s.definition(name); err != nil {
		return err
	}
	if err := s.store.Pause(ctx, s.pool, name); err != nil {
		return fmt.Errorf("river: pause %q: %w", name, s.unmigrated(err))
	}
	// The job is paused from here on, even if the rest fails.
	err := errors.Join(s.pauses.Learn(ctx, s.ownPool()), s.store.Park(ctx, s.ownPool(), name))
	if err != nil {
		s.log.WarnContext(ctx, "job is paused, but its waiting runs could not be moved yet; workers will move them", "job", name, "error", err)
	}
	return nil
}

// Resume implements [jobs.Pauser]. If it fails while moving waiting runs back to their queue, the processes that run
// them do so within seconds.
func (s *Scheduler) Resume(ctx context.Context, name string) error {
	d, err := s.definition(name)
	if err != nil {
		return err
	}
	if err := s.pauses.Learn(ctx, s.ownPool()); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.unmigrated(err))
	}
	if d.Schedule != nil && s.pauses.Has(name) {
		// Ticks that came due unnoticed during the pause are skipped too.
		t := s.newTicker(s.ownPool(), s.log, []*provider.Definition{d}, time.Time{}, func() (int, map[string]bool) { return 0, nil })
		if err := t.Once(ctx); err != nil {
			return fmt.Errorf("river: resume %q: %w", name, err)
		}
	}
	if err := s.store.Resume(ctx, s.pool, name); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.unmigrated(err))
	}
	// Maintenance sees that the pause has ended, and frees runs that other processes may still move.
	if err := s.pauses.Learn(ctx, s.ownPool()); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	if ss := s.session.Load(); ss != nil {
		ss.ticker.CheckNow()
	}
	queue := s.queues.Of(d)
	err = s.pauses.Free(ctx, s.ownPool(), name, queue)
	s.wake.Notify(ctx, []string{queue})
	if err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	return nil
}
