package river

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// ShiftWallClock shifts the process's clock, as schedules read it, by the nanoseconds in by. It must be called before
// Start; by may change later.
func (s *Scheduler) ShiftWallClock(by *atomic.Int64) {
	s.clock.Wall = func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
}

// Pool returns the pool that New was given.
func (s *Scheduler) Pool() *pgxpool.Pool { return s.pool }

// OwnPool returns the pool for fetching, completing and scheduling jobs.
func (s *Scheduler) OwnPool() *pgxpool.Pool { return s.ownPool() }

// PausedQueue is the queue of paused jobs, which has no workers.
const PausedQueue = store.PausedQueue

// KnowsPaused reports whether this process has noticed that a job is paused.
func (s *Scheduler) KnowsPaused(name string) bool { return s.pauses.Has(name) }

// Rehome runs the maintenance step that moves jobs to the queues they belong to.
func (s *Scheduler) Rehome(ctx context.Context, all bool) error { return s.rehome(ctx, all) }

// GiveBack runs the maintenance step that returns jobs whose fetch was lost, without waiting until they are old.
func (s *Scheduler) GiveBack(ctx context.Context) error {
	return s.session.Load().stalls.GiveBack(ctx, 0)
}
