// Package pause keeps what is paused. Runs of a paused job are moved to a queue without workers: Pause moves those
// that wait, and workers move those that they fetch before they know of the pause, or that come later. Ticks that
// come due are skipped in the row of their schedule.
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
	// again is how long [Pauses.Free] waits before it looks again for what others had locked.
	again = 20 * time.Millisecond
	// Every is how often processes are to call [Pauses.Refresh].
	Every = 2 * time.Second
	// lingering is how long after a pause ended rows may still come into the queue of paused jobs, from processes
	// that had not noticed. It is longer than Every.
	lingering = 3 * Every
)

// Pauses is what one process knows to be paused and since when, and when it saw other pauses end of which
// something may still lie aside. Make one with [New].
type Pauses struct {
	store *store.Store

	mu           sync.RWMutex
	since, ended map[string]time.Time
}

// New returns a process's knowledge, which is nothing yet.
func New(s *store.Store) *Pauses { return &Pauses{store: s, ended: map[string]time.Time{}} }

// Has reports whether a job is paused, as far as the process knows.
func (p *Pauses) Has(name string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, ok := p.since[name]
	return ok
}

// Learn reads what is paused.
func (p *Pauses) Learn(ctx context.Context, db store.DB) error {
	now, err := p.store.Pauses(ctx, db)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.since {
		p.ended[name] = time.Now()
	}
	maps.DeleteFunc(p.ended, func(name string, _ time.Time) bool { _, still := now[name]; return still })
	p.since = now
	return nil
}

// Start reads what is paused, and takes those of names that are not for pauses that have just ended: they may have
// left something behind while this process was not there.
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

// Refresh reads what is paused, and frees what is not any more. Each of names has its queue in queues.
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

// Free moves the jobs of a pause that has ended to their queue. It waits for those that somebody has locked.
func (p *Pauses) Free(ctx context.Context, db store.DB, name, queue string) error {
	for {
		left, err := p.store.Unpark(ctx, db, []string{name}, []string{queue})
		if err != nil || !left {
			return err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return fmt.Errorf("some paused jobs are locked by another transaction: %w", ctx.Err())
		}
	}
}
