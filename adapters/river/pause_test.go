package river_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// twoProcesses are two schedulers, each with a pool of its own, on one database.
func twoProcesses(t testing.TB, register func(*river.Scheduler)) (one, two *river.Scheduler) {
	t.Helper()
	url := migrated.URL(t)
	var both [2]*river.Scheduler
	for i := range both {
		pool, err := pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		both[i] = newScheduler(t, pool, river.Config{})
		register(both[i])
	}
	return both[0], both[1]
}

// parked tells how many jobs of that name lie in the queue that nobody works.
func parked(t testing.TB, pool *pgxpool.Pool, name string) int {
	t.Helper()
	return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE queue = $1 AND kind = $2 AND state = 'available'`, river.PausedQueue, name)
}

func TestAPauseHoldsInEveryProcessAndAnyOfThemEndsIt(t *testing.T) {
	t.Parallel()
	ran := make(chan jobs.Job, 1000)
	ticks := make(chan jobs.Job, 1000)
	one, two := twoProcesses(t, func(s *river.Scheduler) {
		require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
		require.NoError(t, s.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(3)))
		require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
		require.NoError(t, s.Start(t.Context()))
	})
	pool := one.Pool()
	names := []string{"a.job", "a.own", "a.tick"}
	for round, by := range [][2]*river.Scheduler{{one, two}, {two, one}} {
		last := receive(t, ticks)
		for _, name := range names {
			require.NoError(t, by[0].Pause(t.Context(), name))
		}
		eventually(t, "both have noticed", func() bool {
			for _, name := range names {
				if !one.KnowsPaused(name) || !two.KnowsPaused(name) {
					return false
				}
			}
			return true
		})
		var skipped time.Time
		eventually(t, "ticks are skipped, three times", func() bool {
			all, err := by[1].Jobs(t.Context())
			require.NoError(t, err)
			st := all[2]
			if st.PrevState == jobs.StateSkipped && skipped.IsZero() {
				skipped = st.PrevTick
			}
			return st.PrevState == jobs.StateSkipped && st.PrevTick.Sub(skipped) >= 2*time.Second
		})
		for len(ticks) > 0 {
			last = receive(t, ticks) // of before the pause, or of a process that had not noticed
		}
		requireNoRunAt(t, one, "a.tick", skipped)
		ids := map[string]bool{}
		for _, name := range names[:2] {
			for range 10 {
				id, err := by[1].Trigger(t.Context(), name, nil)
				require.NoError(t, err)
				ids[id] = true
			}
		}
		eventually(t, "what was triggered is put aside", func() bool { return parked(t, pool, "a.job") == 10 && parked(t, pool, "a.own") == 10 })
		require.Empty(t, ran)
		for _, name := range names {
			require.NoError(t, by[1].Resume(t.Context(), name))
		}
		// Some of what comes now is put aside by the process that has not noticed.
		for range 20 {
			id, err := by[0].Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			ids[id] = true
		}
		for range ids {
			job := receive(t, ran)
			require.Contains(t, ids, job.ID)
			require.Equal(t, 1, job.Attempt)
		}
		// The schedule goes on. A tick that was put aside may run after one that has come due since.
		for since := map[time.Time]bool{}; len(since) < 3; {
			tick := receive(t, ticks).Tick
			require.True(t, tick.After(last.Tick), "round %d", round)
			require.False(t, since[tick], "%s runs twice", tick)
			since[tick] = true
		}
		require.Empty(t, ran)
	}
}

func requireNoRunAt(t testing.TB, s *river.Scheduler, name string, tick time.Time) {
	t.Helper()
	runs, err := s.Runs(t.Context(), name, 1000)
	require.NoError(t, err)
	for _, r := range runs {
		require.NotEqual(t, tick, r.Tick)
	}
}

func TestAJobThatIsPutAsideAsThePauseEndsIsFreed(t *testing.T) {
	t.Parallel()
	ran := make(chan jobs.Job, 10)
	one, two := twoProcesses(t, func(s *river.Scheduler) {
		require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	})
	pool := one.Pool()
	putAside := func() string {
		id, err := one.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Hour))
		require.NoError(t, err)
		execSQL(t, pool, `UPDATE river.river_job SET state = 'available', scheduled_at = now(), queue = $2 WHERE id = $1::text::bigint`, id, river.PausedQueue)
		return id
	}
	require.NoError(t, one.Start(t.Context()))
	require.NoError(t, one.Pause(t.Context(), "a.job"))
	require.NoError(t, two.Resume(t.Context(), "a.job"), "by a process that does not run")
	eventually(t, "the other one has noticed", func() bool {
		id, err := one.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
		return receive(t, ran).ID == id && parked(t, pool, "a.job") == 0
	})
	late := putAside()
	require.Equal(t, late, receive(t, ran).ID, "within seconds after the pause")

	require.NoError(t, shutdown(one))
	late = putAside()
	require.NoError(t, one.Start(t.Context()))
	require.Equal(t, late, receive(t, ran).ID, "at a start, whenever the pause ended")
}

func TestAJobThatWasCancelledAsideCanBeRetriedAfterThePause(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.other", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "it is put aside", func() bool { return parked(t, s.Pool(), "a.job") == 1 })
	require.NoError(t, s.Cancel(t.Context(), "a.job", id))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.Equal(t, "default", scalar[string](t, s.Pool(), `SELECT queue FROM river.river_job WHERE id = $1::text::bigint`, id),
		"nobody looks into the queue of paused jobs when the pause is over")
	require.NoError(t, s.Retry(t.Context(), "a.job", id))
	require.Equal(t, id, receive(t, ran).ID)
}

func TestATriggerOnlyProcessPausesAndResumes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(1)))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, remote.Pause(t.Context(), "a.own"))
	eventually(t, "the workers have noticed", func() bool {
		_, err := remote.Trigger(t.Context(), "a.own", nil)
		require.NoError(t, err)
		return parked(t, pool, "a.own") > 0
	})
	require.NoError(t, remote.Resume(t.Context(), "a.own"))
	eventually(t, "all have run", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL`) == 0
	})
}

// begin returns a transaction that ends with the test at the latest.
func begin(t testing.TB, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// River stores what became of several jobs in one statement, in no order. Whoever waits for
// one of them while it holds another can wait for ever.
func TestPauseAndResumeHoldNoJobWhileTheyWaitForAnother(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	ids, err := s.TriggerMany(t.Context(), "a.job", numbered(3))
	require.NoError(t, err)
	tx := begin(t, pool)
	lock := func(id string) error {
		_, err := tx.Exec(t.Context(), `SELECT FROM river.river_job WHERE id = $1::text::bigint FOR UPDATE NOWAIT`, id)
		return err
	}
	require.NoError(t, lock(ids[1]))
	require.NoError(t, s.Pause(t.Context(), "a.job"), "the workers put aside what a pause passes over")
	require.Equal(t, 2, parked(t, pool, "a.job"))
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.Equal(t, 3, parked(t, pool, "a.job"))

	tx = begin(t, pool)
	require.NoError(t, lock(ids[1]))
	resumed := make(chan error, 1)
	go func() { resumed <- s.Resume(t.Context(), "a.job") }()
	eventually(t, "the others are freed meanwhile", func() bool { return parked(t, pool, "a.job") == 1 })
	require.NoError(t, lock(ids[0]))
	require.NoError(t, lock(ids[2]))
	require.Empty(t, resumed, "it frees them all")
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, receive(t, resumed))
	require.Zero(t, parked(t, pool, "a.job"))
}

func TestNobodyDeadlocksWhileJobsArePutAsideAndFreed(t *testing.T) {
	t.Parallel()
	ran := make(chan jobs.Job, 10_000)
	one, two := twoProcesses(t, func(s *river.Scheduler) {
		require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
		require.NoError(t, s.Start(t.Context()))
	})
	const rounds, n = 10, 600
	for range rounds {
		require.NoError(t, one.Pause(t.Context(), "a.job"))
		_, err := one.TriggerMany(t.Context(), "a.job", numbered(n))
		require.NoError(t, err)
		require.NoError(t, two.Resume(t.Context(), "a.job"))
	}
	for range rounds * n {
		receive(t, ran)
	}
	require.NoError(t, shutdown(one))
	require.NoError(t, shutdown(two))
	one.Pool().Reset()
	two.Pool().Reset() // a connection that ends has told what it counted
	require.Zero(t, scalar[int](t, one.Pool(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`))
	require.Empty(t, ran, "each ran once")
}

func TestManyJobsArePutAsideAndFreed(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	const many = 12_000 // more than are moved at a time
	insertRows(t, pool, many, `kind, state`, `'a.job', 'available'`)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.Equal(t, many, parked(t, pool, "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.Zero(t, parked(t, pool, "a.job"))
}

func TestAJobThatSomebodyHasLockedAsThePauseEndsIsFreedInTheEnd(t *testing.T) {
	t.Parallel()
	one, two := twoProcesses(t, func(s *river.Scheduler) {
		require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	})
	pool := one.Pool()
	insertRows(t, pool, 1, `kind, state`, `'a.job', 'available'`)
	require.NoError(t, one.Pause(t.Context(), "a.job"))
	require.NoError(t, one.Start(t.Context()))
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SELECT FROM river.river_job FOR UPDATE`)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	resumed := make(chan error, 1)
	go func() { resumed <- two.Resume(ctx, "a.job") }()
	eventually(t, "the pause to be over", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.everytick_pause`) == 0
	})
	cancel()
	require.ErrorIs(t, receive(t, resumed), context.Canceled)
	began := time.Now()
	eventually(t, "longer than a pause that has ended is looked after", func() bool { return time.Since(began) > 9*time.Second })
	require.Equal(t, 1, parked(t, pool, "a.job"))
	require.NoError(t, tx.Rollback(t.Context()))
	eventually(t, "it looks until there is nothing left", func() bool { return parked(t, pool, "a.job") == 0 })
}

func TestResumeTellsWorkersAndThisProcessAtOnce(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.True(t, s.KnowsPaused("a.job"))
	insertRows(t, pool, 1, `kind, state, queue`, `'a.job', 'available', '`+river.PausedQueue+`'`)
	next := listening(t, pool.Config().ConnString(), "river")
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.False(t, s.KnowsPaused("a.job"))
	execSQL(t, pool, `SELECT pg_notify('river.river_insert', '{"queue": "last"}')`)
	require.JSONEq(t, `{"queue": "default"}`, next())
}

func TestAJobThatIsPausedAgainIsNotTakenForOneWhosePauseEnded(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	insertRows(t, pool, 1, `kind, state`, `'a.job', 'available'`)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.NoError(t, s.Start(t.Context()))
	began := time.Now()
	eventually(t, "pauses are looked after", func() bool { return time.Since(began) > 3*time.Second })
	require.Equal(t, 1, parked(t, pool, "a.job"))
}

func TestASkipThatSomebodyAskedForIsNoWarning(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, noop))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Pause(t.Context(), "a.tick"))
	eventually(t, "a tick is skipped", func() bool {
		return strings.Contains(logged.String(), `level=INFO msg="tick skipped: the job is paused" job=a.tick tick=`)
	})
}
