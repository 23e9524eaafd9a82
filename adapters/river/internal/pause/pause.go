// Package pause keeps track of paused jobs. Runs of a paused job are moved to a queue without workers: Pause moves
// the waiting ones, and workers move those that they fetch before they notice the pause, or that are inserted later.
// Due ticks are skipped in the row of their schedule.
package pause

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

const (
	// retryFree is how long [Pauses.Free] waits before it tries again to move runs that were locked.
	retryFree = 20 * time.Millisecond
	// Every is how often a process calls [Pauses.Refresh].
	Every = 2 * time.Second
	// lingering is how long after the end of a pause processes that have not noticed it may still move runs to the
	// queue of paused jobs. It is longer than Every.
	lingering = 3 * Every
)

// Pauses is what one process knows about paused jobs. Create one with [New].
type Pauses struct {
	store *store.Store

	mu    sync.RWMutex
	asked int                  // how often the database was asked
	known int                  // which time since is the answer to
	since map[string]time.Time // the paused jobs
	ended map[string]time.Time // when this process saw a pause end that may have left runs behind
}

// New returns a Pauses that knows of no paused job.
func New(s *store.Store) *Pauses { return &Pauses{store: s, ended: map[string]time.Time{}} }

// Has reports whether a job is paused, as far as this process knows.
func (p *Pauses) Has(name string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, ok := p.since[name]
	return ok
}

// Learn reads which jobs are paused. An answer that comes after that to a later question is not news.
func (p *Pauses) Learn(ctx context.Context, db store.DB) error {
	p.mu.Lock()
	p.asked++
	question := p.asked
	p.mu.Unlock()
	now, err := p.store.Pauses(ctx, db)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if question < p.known {
		return nil
	}
	p.known = question
	for name := range p.since {
		p.ended[name] = time.Now()
	}
	maps.DeleteFunc(p.ended, func(name string, _ time.Time) bool { _, paused := now[name]; return paused })
	p.since = now
	return nil
}

// Start reads which of these jobs are paused. It treats the others as if their pause had just ended, because an
// earlier pause may have left runs behind before this process started.
func (p *Pauses) Start(ctx context.Context, db store.DB, names []string) error {
	if err := p.Learn(ctx, db); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		if _, paused := p.since[name]; !paused {
			p.ended[name] = time.Now()
		}
	}
	return nil
}

// Refresh reads which jobs are paused, and moves runs of these jobs back to queues if their pause has ended. queues
// has one queue per name.
func (p *Pauses) Refresh(ctx context.Context, db store.DB, names, queues []string) error {
	if err := p.Learn(ctx, db); err != nil {
		return err
	}
	var endedNames, endedQueues []string
	p.mu.RLock()
	for i, name := range names {
		if _, ok := p.ended[name]; ok {
			endedNames, endedQueues = append(endedNames, name), append(endedQueues, queues[i])
		}
	}
	p.mu.RUnlock()
	if len(endedNames) == 0 {
		return nil
	}
	began := time.Now()
	left, err := p.store.Unpark(ctx, db, endedNames, endedQueues)
	if err == nil && !left {
		p.mu.Lock()
		defer p.mu.Unlock()
		maps.DeleteFunc(p.ended, func(_ string, at time.Time) bool { return at.Before(began.Add(-lingering)) })
	}
	return err
}

// Free moves the runs of a job whose pause has ended to its queue. It waits for runs that are locked.
func (p *Pauses) Free(ctx context.Context, db store.DB, name, queue string) error {
	for {
		left, err := p.store.Unpark(ctx, db, []string{name}, []string{queue})
		if err != nil || !left {
			return err
		}
		select {
		case <-time.After(retryFree):
		case <-ctx.Done():
			return fmt.Errorf("some paused runs are locked by another transaction: %w", ctx.Err())
		}
	}
}
