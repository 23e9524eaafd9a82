package river

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/everytick/everytick/jobs/provider"
)

// Pause implements [jobs.Pauser]. Jobs of that name that wait are put aside, or otherwise
// workers do so as they find them.
func (s *Scheduler) Pause(ctx context.Context, name string) error {
	if _, err := s.definition(name); err != nil {
		return err
	}
	if err := s.store.Pause(ctx, s.pool, name); err != nil {
		return fmt.Errorf("river: pause %q: %w", name, s.unmigrated(err))
	}
	// The pause holds from here on, whatever becomes of the rest.
	err := errors.Join(s.pauses.Learn(ctx, s.ownPool()), s.store.Park(ctx, s.ownPool(), name))
	if err != nil {
		s.log.WarnContext(ctx, "job is paused, but its waiting runs could not be moved yet; workers move them as they find them", "job", name, "error", err)
	}
	return nil
}

// Resume implements [jobs.Pauser]. When it fails as it frees the jobs that wait, the
// processes that run them do so within seconds.
func (s *Scheduler) Resume(ctx context.Context, name string) error {
	d, err := s.definition(name)
	if err != nil {
		return err
	}
	if err := s.pauses.Learn(ctx, s.ownPool()); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.unmigrated(err))
	}
	if d.Schedule != nil && s.pauses.Has(name) {
		// What came due while nobody looked is skipped too.
		t := s.newTicker(s.ownPool(), []*provider.Definition{d}, time.Time{}, func() (int, map[string]bool) { return 0, nil })
		if err := t.Once(ctx); err != nil {
			return fmt.Errorf("river: resume %q: %w", name, err)
		}
	}
	if err := s.store.Resume(ctx, s.pool, name); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.unmigrated(err))
	}
	// Maintenance sees the pause end, and frees what other processes may still put aside.
	if err := s.pauses.Learn(ctx, s.ownPool()); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	if ss := s.session.Load(); ss != nil {
		ss.ticker.Look()
	}
	queue := s.queueOf(d)
	err = s.pauses.Free(ctx, s.ownPool(), name, queue)
	s.wake.Notify(ctx, []string{queue})
	if err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	return nil
}
