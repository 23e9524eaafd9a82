package river_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// busy returns a scheduler whose pool allows two connections, both in use, and what gives these back.
func busy(t *testing.T, cfg river.Config) (s *river.Scheduler, release func()) {
	t.Helper()
	pool := poolOf(t, 2, pgx.QueryExecModeCacheStatement)
	one, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	two, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	release = sync.OnceFunc(func() {
		one.Release()
		two.Release()
	})
	t.Cleanup(release)
	return newScheduler(t, pool, cfg), release
}

// crowd is many who ask a throttle for a turn at the same time.
type crowd struct {
	throttle *river.Throttle
	entered  atomic.Int64
	turns    chan int // of those that entered
	refused  chan error
}

func (c *crowd) ask(ctx context.Context, n int) {
	turns := make(chan int, n)
	c.refused, c.turns = make(chan error, n), turns
	for range n {
		go func() {
			turn, err := c.throttle.Enter(ctx)
			if err != nil {
				c.refused <- err
				return
			}
			turns <- turn
			c.entered.Add(1)
		}()
	}
}

func TestFewHandlersBeginWhileTheConnectionsAreInUse(t *testing.T) {
	t.Parallel()
	log, said := loud()
	warnings := func() int { return strings.Count(said.String(), "handlers wait for connections of the pool") }
	s, release := busy(t, river.Config{Logger: log})
	c := crowd{throttle: s.NewThrottle(t.Context(), time.Hour)}
	c.ask(t.Context(), 10)
	eventually(t, "it is said", func() bool { return warnings() == 1 })
	require.EqualValues(t, 4, c.entered.Load(), "twice as many as there are connections begin")
	c.throttle.Leave(receive(t, c.turns))
	c.throttle.Leave(receive(t, c.turns))
	c.throttle.Leave(receive(t, c.turns))
	eventually(t, "one that left made room, not all: there are fewer places now", func() bool { return c.entered.Load() == 5 })
	release()
	eventually(t, "all have had their turn while connections were free", func() bool { return c.entered.Load() == 10 })
	require.Equal(t, 1, warnings(), "once is enough")
}

// It may wait for something else than the database.
func TestAHandlerThatHasRunForAWhileTakesNobodysPlace(t *testing.T) {
	t.Parallel()
	s, release := busy(t, river.Config{})
	c := crowd{throttle: s.NewThrottle(t.Context(), 50*time.Millisecond)}
	c.ask(t.Context(), 20)
	eventually(t, "all have had their turn, though no connection was free", func() bool { return c.entered.Load() == 20 })
	for range 20 {
		c.throttle.Leave(receive(t, c.turns))
	}
	release()
	c.ask(t.Context(), 20)
	eventually(t, "and again", func() bool { return c.entered.Load() == 40 })
}

func TestWhatWaitsForItsTurnGoesBackToTheQueueWhenTheSchedulerStops(t *testing.T) {
	t.Parallel()
	s, _ := busy(t, river.Config{})
	running, stop := context.WithCancel(t.Context())
	c := crowd{throttle: s.NewThrottle(running, time.Hour)}
	c.ask(t.Context(), 10)
	eventually(t, "some have begun", func() bool { return c.entered.Load() == 4 })
	stop()
	for range 6 {
		require.ErrorIs(t, receive(t, c.refused), river.ErrNoTurn)
	}
}

func TestWhatWaitsForItsTurnGoesBackToTheQueueBeforeItIsTakenForLost(t *testing.T) {
	t.Parallel()
	s, _ := busy(t, river.Config{RescueAfter: time.Second})
	c := crowd{throttle: s.NewThrottle(t.Context(), time.Hour)}
	c.ask(t.Context(), 10)
	for range 6 {
		require.ErrorIs(t, receive(t, c.refused), river.ErrNoTurn)
	}
	require.EqualValues(t, 4, c.entered.Load())
}

func TestWhoIsCancelledWhileItWaitsTakesNobodysTurn(t *testing.T) {
	t.Parallel()
	s, _ := busy(t, river.Config{})
	asking, cancel := context.WithCancel(t.Context())
	c := crowd{throttle: s.NewThrottle(t.Context(), time.Hour)}
	c.ask(asking, 10)
	eventually(t, "some have begun", func() bool { return c.entered.Load() == 4 })
	cancel()
	for range 6 {
		require.ErrorIs(t, receive(t, c.refused), context.Canceled)
	}
	for range 4 {
		c.throttle.Leave(receive(t, c.turns))
	}
	c.ask(t.Context(), 2)
	eventually(t, "the next have their turn", func() bool { return c.entered.Load() == 6 })
}

// Else what River does between jobs would wait in line behind them, and so would ticks.
func TestHandlersThatHoldConnectionsAreFewerThanTheWorkers(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 4, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{})
	var running, most atomic.Int64
	ticks := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		n := running.Add(1)
		defer running.Add(-1)
		for before := most.Load(); n > before && !most.CompareAndSwap(before, n); before = most.Load() {
		}
		_, err := job.DB.Exec(ctx, `SELECT pg_sleep(0.05)`)
		return err
	}))
	const n = 150
	_, err := s.TriggerMany(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "all have run", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'a.job' AND state = 'completed'`) == n
	})
	require.Less(t, most.Load(), int64(n/2))
	require.Equal(t, n, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'a.job' AND attempt = 1`))
	receive(t, ticks)
}

func TestJobsRunThoughThePoolIsUsedUp(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 4, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{})
	ticks, ran := make(chan jobs.Job, 100), make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Second))
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	var held []*pgxpool.Conn
	for range 4 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
	}
	require.Equal(t, id, receive(t, ran).ID)
	for range 3 {
		receive(t, ticks)
	}
	for _, conn := range held[1:] {
		conn.Release()
	}
	require.NoError(t, shutdown(s))
	eventually(t, "the scheduler's own connections are closed", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()`) <= 4
	})
	held[0].Release()
}

// A run that waits for its turn would pass for one that goes on.
func TestATriggeredRunOfAScheduleThatSkipsOverlapsWaitsForNoTurn(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 4, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{})
	const n = 150
	started, finish := make(chan struct{}, n), make(chan struct{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, func(context.Context, *jobs.Job) error {
		started <- struct{}{}
		<-finish
		return nil
	}, jobs.Overlap(jobs.Skip)))
	_, err := s.TriggerMany(t.Context(), "a.tick", make([]any, n))
	require.NoError(t, err)
	var held []*pgxpool.Conn
	for range 4 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
	}
	held[0].Release()
	require.NoError(t, s.Start(t.Context()))
	held[0], err = pool.Acquire(t.Context())
	require.NoError(t, err)
	for range n {
		receive(t, started)
	}
	close(finish)
	for _, conn := range held {
		conn.Release()
	}
}

// overloaded has jobs that have been due for that long run on connections for seconds, and some of them put back
// meanwhile. It returns how many were started.
func overloaded(t *testing.T, n int, due time.Duration, options ...jobs.Option) (pool *pgxpool.Pool, started int) {
	t.Helper()
	pool = poolOf(t, 4, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{RescueAfter: time.Second})
	var runs atomic.Int64
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		runs.Add(1)
		_, err := job.DB.Exec(ctx, `SELECT pg_sleep(0.1)`)
		return err
	}, options...))
	_, err := s.TriggerMany(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() + interval '1 hour'`)
	require.NoError(t, s.Start(t.Context()))
	execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() - $1::interval`, due)
	eventually(t, "all are done with", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE finalized_at IS NOT NULL`) == n
	})
	require.NotZero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE metadata ? 'snoozes'`), "some were put back")
	return pool, int(runs.Load())
}

func TestAJobThatIsPutBackKeepsItsPlaceInTheQueue(t *testing.T) {
	t.Parallel()
	const n = 150
	pool, started := overloaded(t, n, time.Hour)
	require.Equal(t, n, started)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE scheduled_at > now() - interval '59 minutes'`))
}

func TestAJobThatIsPutBackIsSkippedIfItStartsTooLate(t *testing.T) {
	t.Parallel()
	const n = 300
	pool, started := overloaded(t, n, 0, jobs.StartWithin(3*time.Second))
	skipped := scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'cancelled' AND metadata ? 'snoozes'`)
	require.NotZero(t, skipped)
	require.Less(t, started, n)
}

func TestShutdownLeavesToOthersWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 4, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{})
	var started atomic.Int64
	finish := make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		return pgx.BeginFunc(ctx, job.DB, func(pgx.Tx) error {
			started.Add(1)
			<-finish
			return nil
		})
	}))
	const n = 150
	_, err := s.TriggerMany(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "handlers hold all connections", func() bool { return started.Load() == 4 })
	working := s.Client()
	stopped := make(chan error, 1)
	go func() { stopped <- shutdown(s) }()
	eventually(t, "it is being shut down", func() bool { return s.Client() != working })
	close(finish)
	require.NoError(t, receive(t, stopped))
	completed := scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'completed'`)
	require.EqualValues(t, started.Load(), completed)
	require.Less(t, completed, n/2)
	require.Equal(t, n-completed, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available' AND attempt = 0`))
}

// crowded has n runs of a.job begin on a scheduler whose pool is used up, so that most wait for their turn. They go
// on until the test ends. It returns how many have begun.
func crowded(t *testing.T, n int, register func(*river.Scheduler), options ...jobs.Option) (s *river.Scheduler, begun *atomic.Int64) {
	t.Helper()
	pool := poolOf(t, 4, pgx.QueryExecModeCacheStatement)
	other, err := pgxpool.New(t.Context(), pool.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(other.Close)
	s, begun = newScheduler(t, pool, river.Config{}), new(atomic.Int64)
	finish := make(chan struct{})
	t.Cleanup(func() { close(finish) })
	blocked := func(context.Context, *jobs.Job) error {
		begun.Add(1)
		<-finish
		return nil
	}
	register(s)
	require.NoError(t, s.RegisterDelayed("a.job", 0, blocked, options...))
	require.NoError(t, s.Start(t.Context()))
	for range 4 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		t.Cleanup(conn.Release)
	}
	remote := newScheduler(t, other, river.Config{})
	require.NoError(t, remote.RegisterDelayed("a.job", 0, noop))
	_, err = remote.TriggerMany(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	return remote, begun
}

func TestAJobThatWaitsTooLongForItsTurnIsSkipped(t *testing.T) {
	t.Parallel()
	remote, _ := crowded(t, 50, func(*river.Scheduler) {}, jobs.StartWithin(500*time.Millisecond))
	eventually(t, "some are skipped that were not put back meanwhile", func() bool {
		return scalar[int](t, remote.Pool(), `SELECT count(*) FROM river.river_job WHERE state = 'cancelled' AND NOT metadata ? 'snoozes'`) > 0
	})
}

func TestTicksWaitForNoTurn(t *testing.T) {
	t.Parallel()
	ticks := make(chan jobs.Job, 1000)
	remote, begun := crowded(t, 150, func(s *river.Scheduler) {
		require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	})
	eventually(t, "jobs are taken", func() bool { return begun.Load() > 0 })
	for range len(ticks) + 3 {
		job := receive(t, ticks)
		taken := scalar[time.Time](t, remote.Pool(), `SELECT attempted_at FROM river.river_job WHERE id = $1::text::bigint`, job.ID)
		require.Equal(t, taken.UTC(), job.StartedAt, "what waits starts later than it was taken")
	}
}
