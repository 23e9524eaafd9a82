package river

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// ShiftWallClock makes the process's clock, as far as schedules read it, wrong by
// what by holds, in nanoseconds. It is called before Start; by may change later.
func (s *Scheduler) ShiftWallClock(by *atomic.Int64) {
	s.clock.Wall = func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
}

// Pool returns the pool that New was given.
func (s *Scheduler) Pool() *pgxpool.Pool { return s.pool }

// OwnPool returns the pool for what goes on between jobs.
func (s *Scheduler) OwnPool() *pgxpool.Pool { return s.ownPool() }

// PausedQueue is where the rows of paused jobs lie.
const PausedQueue = store.PausedQueue

// KnowsPaused reports whether this process has noticed a pause.
func (s *Scheduler) KnowsPaused(name string) bool { return s.pauses.Has(name) }

// Rehome does what maintenance does.
func (s *Scheduler) Rehome(ctx context.Context, all bool) error { return s.rehome(ctx, all) }
