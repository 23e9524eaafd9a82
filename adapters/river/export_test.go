package river

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// TickRow returns the row of a tick of a registered job.
func (s *Scheduler) TickRow(name string, tick time.Time) (riverqueue.JobArgs, *riverqueue.InsertOpts) {
	d, err := s.reg.Job(name)
	if err != nil {
		panic(err)
	}
	args, opts := tickRow(d, tick)
	return args, opts
}

// StoodFor tells whether the guard leaves out a tick that has no row.
func (s *Scheduler) StoodFor(t testing.TB, name string, tick time.Time) bool {
	args, opts := s.TickRow(name, tick)
	left, err := (&seederMiddleware{s: s}).withoutStoodFor(t.Context(), []riverqueue.InsertManyParams{{Args: args, InsertOpts: opts}})
	if err != nil {
		t.Fatal(err)
	}
	return len(left) == 0
}

// Seed asks for a tick to be stored, as the seeder does, so many times, and waits for it.
func (s *Scheduler) Seed(t testing.TB, name string, tick time.Time, times int) {
	args, _ := s.TickRow(name, tick)
	m := &seederMiddleware{s: s}
	for range times {
		if _, err := m.InsertMany(t.Context(), []*rivertype.JobInsertParams{{Args: args}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.background.Wait()
}

// ShiftWallClock makes the process's clock, as far as schedules read it, wrong by
// what by holds, in nanoseconds. It is called before Start; by may change later.
func (s *Scheduler) ShiftWallClock(by *atomic.Int64) {
	s.clock.Wall = func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
}

// Pool returns the pool that New was given.
func (s *Scheduler) Pool() *pgxpool.Pool { return s.pool }

// OwnPool returns the pool for what goes on between jobs.
func (s *Scheduler) OwnPool() *pgxpool.Pool { return s.ownPool() }

// EndCooldown lets workers be told at once of what is triggered next.
func (s *Scheduler) EndCooldown() {
	s.notifier.mu.Lock()
	defer s.notifier.mu.Unlock()
	s.notifier.last = time.Time{}
}

// NotifyLate sends what the notifier has put off.
func (s *Scheduler) NotifyLate() { s.notifier.sendLate() }

// FindDue does what the leader does: since is the database's time of the look before.
func (s *Scheduler) FindDue(ctx context.Context, since *time.Time) (now time.Time, queues []string, next *time.Time, err error) {
	return s.findDue(ctx, since)
}

// AnalyzeGrown does what the keeper does.
func (s *Scheduler) AnalyzeGrown(ctx context.Context) error { return s.analyzeGrown(ctx) }

// The names of what Migrate adds or changes.
const (
	PausedQueue = pausedQueue
	KindIndex   = kindIndex
	WiderIndex  = widerIndex
	TicksIndex  = ticksIndex
)

// KnowsPaused tells whether this process has noticed a pause.
func (s *Scheduler) KnowsPaused(name string) bool { return s.paused.is(name) }

// Rescue does what the keeper does.
func (s *Scheduler) Rescue(ctx context.Context) error { return s.rescue(ctx) }

// RefreshPauses does what the keeper does, as if pauses that it knows to have ended had done so
// that much earlier.
func (s *Scheduler) RefreshPauses(ctx context.Context, earlier time.Duration) error {
	s.paused.mu.Lock()
	for name, at := range s.paused.ended {
		s.paused.ended[name] = at.Add(-earlier)
	}
	s.paused.mu.Unlock()
	return s.refreshPauses(ctx)
}

// Rehome does what the keeper does.
func (s *Scheduler) Rehome(ctx context.Context, all bool) error { return s.rehome(ctx, all) }

// Broken returns how many schedules the keeper would mend.
func (s *Scheduler) Broken(ctx context.Context) (int, error) {
	found, err := s.broken(ctx, s.pool, time.Time{})
	return len(found), err
}

// Mend looks after the schedules as the keeper of a process that has done so since then.
func (s *Scheduler) Mend(ctx context.Context, since time.Time) error {
	s.watchedSince.Store(since.UnixNano())
	return s.mend(ctx)
}

// StartedEarlier makes a start that much older.
func (s *Scheduler) StartedEarlier(by time.Duration) { s.startedAt.Add(-int64(by)) }
