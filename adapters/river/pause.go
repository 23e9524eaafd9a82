package river

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
)

// Runs of a paused job are moved to a queue without workers: Pause moves those that wait, and workers move those
// that they fetch before they know of the pause, or that come later. Ticks that come due are skipped in the row of
// their schedule.

// lingering is how long after a pause ended rows may still come into that queue, from processes that had not
// noticed.
const lingering = 3 * pausesEvery

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
	err := errors.Join(s.pauses.learn(ctx, s), s.store.Park(ctx, s.ownPool(), name))
	if err != nil {
		s.log.WarnContext(ctx, "job is paused; those that wait are put aside as workers find them", "job", name, "error", err)
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
	if err := s.pauses.learn(ctx, s); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.unmigrated(err))
	}
	if d.Schedule != nil && s.pauses.has(name) {
		// What came due while nobody looked is skipped too.
		t := s.newTicker(s.ownPool(), []*jobs.Definition{d}, time.Time{}, func() (int, map[string]bool) { return 0, nil })
		if err := t.Once(ctx); err != nil {
			return fmt.Errorf("river: resume %q: %w", name, err)
		}
	}
	if err := s.store.Resume(ctx, s.pool, name); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.unmigrated(err))
	}
	// Maintenance sees the pause end, and frees what other processes may still put aside.
	if err := s.pauses.learn(ctx, s); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	if ss := s.session.Load(); ss != nil {
		ss.ticker.Look()
	}
	names, queues := s.homes([]*jobs.Definition{d})
	for {
		left, err := s.store.Unpark(ctx, s.ownPool(), names, queues)
		if err == nil && left {
			select {
			case <-time.After(unparkPause):
				continue
			case <-ctx.Done():
				err = fmt.Errorf("somebody else has locked jobs of the pause: %w", ctx.Err())
			}
		}
		s.wake.Notify(ctx, queues)
		if err != nil {
			return fmt.Errorf("river: resume %q: %w", name, err)
		}
		return nil
	}
}

// unparkPause is how long Resume waits before it looks again for what others had locked.
const unparkPause = 20 * time.Millisecond

// pauses is what this process knows to be paused and since when, and when it saw
// other pauses end of which something may still lie aside.
type pauses struct {
	mu           sync.RWMutex
	since, ended map[string]time.Time
}

func (p *pauses) has(name string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, ok := p.since[name]
	return ok
}

// learn reads what is paused.
func (p *pauses) learn(ctx context.Context, s *Scheduler) error {
	now, err := s.store.Pauses(ctx, s.ownPool())
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = map[string]time.Time{}
	}
	for name := range p.since {
		p.ended[name] = time.Now()
	}
	maps.DeleteFunc(p.ended, func(name string, _ time.Time) bool { _, still := now[name]; return still })
	p.since = now
	return nil
}

// start reads what is paused, and takes all that is not for pauses that have just ended: they may have left
// something behind while this process was not there.
func (p *pauses) start(ctx context.Context, s *Scheduler) error {
	if err := p.learn(ctx, s); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range s.reg.Jobs() {
		if _, paused := p.since[d.Name]; !paused {
			p.ended[d.Name] = time.Now()
		}
	}
	return nil
}

// refresh reads what is paused, and frees what is not any more.
func (p *pauses) refresh(ctx context.Context, s *Scheduler) error {
	if err := p.learn(ctx, s); err != nil {
		return err
	}
	p.mu.RLock()
	ended := maps.Clone(p.ended)
	p.mu.RUnlock()
	names, queues := s.homes(slices.DeleteFunc(s.reg.Jobs(), func(d *jobs.Definition) bool {
		_, ok := ended[d.Name]
		return !ok
	}))
	if len(names) == 0 {
		return nil
	}
	began := time.Now()
	left, err := s.store.Unpark(ctx, s.ownPool(), names, queues)
	if err == nil && !left {
		p.forget(began.Add(-lingering))
	}
	return err
}

// forget is for when all is freed of the pauses that ended before t.
func (p *pauses) forget(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.ended, func(_ string, at time.Time) bool { return at.Before(t) })
}
