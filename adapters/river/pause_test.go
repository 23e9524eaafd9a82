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

// twoProcesses returns two schedulers on one database, each with its own pool.
func twoProcesses(t testing.TB, register func(*river.Scheduler)) (one, two *river.Scheduler) {
	t.Helper()
	url := migrated.URL(t)
	var both [2]*river.Scheduler
	for i := range both {
		both[i] = newScheduler(t, openPool(t, url), river.Config{})
		register(both[i])
	}
	return both[0], both[1]
}

// parked returns how many jobs of that name are set aside.
func parked(t testing.TB, pool *pgxpool.Pool, name string) int {
	t.Helper()
	return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE queue = $1 AND kind = $2 AND state = 'available'`, river.PausedQueue, name)
}

func TestPause_HoldsInEveryProcessUntilAnyResumes(t *testing.T) {
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
		eventually(t, "both processes have noticed the pauses", func() bool {
			for _, name := range names {
				if !one.KnowsPaused(name) || !two.KnowsPaused(name) {
					return false
				}
			}
			return true
		})
		var skipped time.Time
		eventually(t, "three ticks are skipped", func() bool {
			all, err := by[1].Jobs(t.Context())
			require.NoError(t, err)
			st := all[2]
			if st.PrevState == jobs.StateSkipped && skipped.IsZero() {
				skipped = st.PrevTick
			}
			return st.PrevState == jobs.StateSkipped && st.PrevTick.Sub(skipped) >= 2*time.Second
		})
		for len(ticks) > 0 {
			last = receive(t, ticks) // from before the pause, or from a process that had not noticed it
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
		eventually(t, "the triggered jobs are set aside", func() bool { return parked(t, pool, "a.job") == 10 && parked(t, pool, "a.own") == 10 })
		require.Empty(t, ran)
		for _, name := range names {
			require.NoError(t, by[1].Resume(t.Context(), name))
		}
		// A process that has not noticed the resume yet sets some of these aside.
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
		// The schedule continues. A tick that was set aside may run after a later one.
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

func TestResume_FreesJobsSetAsideAfterwards(t *testing.T) {
	t.Parallel()
	ran := make(chan jobs.Job, 10)
	one, two := twoProcesses(t, func(s *river.Scheduler) {
		require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	})
	pool := one.Pool()
	setAside := func() string {
		id, err := one.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Hour))
		require.NoError(t, err)
		execSQL(t, pool, `UPDATE river.river_job SET state = 'available', scheduled_at = now(), queue = $2 WHERE id = $1::text::bigint`, id, river.PausedQueue)
		return id
	}
	require.NoError(t, one.Start(t.Context()))
	require.NoError(t, one.Pause(t.Context(), "a.job"))
	require.NoError(t, two.Resume(t.Context(), "a.job"), "by a process that is not started")
	eventually(t, "the other process has noticed", func() bool {
		id, err := one.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
		return receive(t, ran).ID == id && parked(t, pool, "a.job") == 0
	})
	late := setAside()
	require.Equal(t, late, receive(t, ran).ID, "within seconds after the pause")

	require.NoError(t, shutdown(one))
	late = setAside()
	require.NoError(t, one.Start(t.Context()))
	require.Equal(t, late, receive(t, ran).ID, "at Start, whenever the pause ended")
}

func TestResume_FreesCancelledJobs(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.other", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "the job is set aside", func() bool { return parked(t, s.Pool(), "a.job") == 1 })
	require.NoError(t, s.Cancel(t.Context(), "a.job", id))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.Equal(t, "default", scalar[string](t, s.Pool(), `SELECT queue FROM river.river_job WHERE id = $1::text::bigint`, id),
		"nothing reads the queue of paused jobs after the pause")
	require.NoError(t, s.Retry(t.Context(), "a.job", id))
	require.Equal(t, id, receive(t, ran).ID)
}

func TestTriggerOnly_PausesAndResumes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(1)))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, remote.Pause(t.Context(), "a.own"))
	eventually(t, "the workers have noticed the pause", func() bool {
		_, err := remote.Trigger(t.Context(), "a.own", nil)
		require.NoError(t, err)
		return parked(t, pool, "a.own") > 0
	})
	require.NoError(t, remote.Resume(t.Context(), "a.own"))
	eventually(t, "all jobs have run", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL`) == 0
	})
}

// begin returns a transaction that is rolled back at the end of the test, if it is still open.
func begin(t testing.TB, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// River stores the results of several jobs in one statement, in no particular order. A transaction that waits for one
// of their rows while it holds another can deadlock with it.
func TestPause_HoldsNoRowWhileItWaitsForAnother(t *testing.T) {
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
	require.NoError(t, s.Pause(t.Context(), "a.job"), "workers set aside the jobs that Pause skips")
	require.Equal(t, 2, parked(t, pool, "a.job"))
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.Equal(t, 3, parked(t, pool, "a.job"))

	tx = begin(t, pool)
	require.NoError(t, lock(ids[1]))
	resumed := make(chan error, 1)
	go func() { resumed <- s.Resume(t.Context(), "a.job") }()
	eventually(t, "the other jobs are freed meanwhile", func() bool { return parked(t, pool, "a.job") == 1 })
	require.NoError(t, lock(ids[0]))
	require.NoError(t, lock(ids[2]))
	require.Empty(t, resumed, "Resume waits for the locked job")
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, receive(t, resumed))
	require.Zero(t, parked(t, pool, "a.job"))
}

func TestPause_CausesNoDeadlock(t *testing.T) {
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
	two.Pool().Reset() // connections report their statistics when they end
	require.Zero(t, scalar[int](t, one.Pool(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`))
	require.Empty(t, ran, "each ran once")
}

func TestPause_MovesManyJobs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	const many = 12_000 // more than one statement moves
	insertRows(t, pool, many, `kind, state`, `'a.job', 'available'`)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.Equal(t, many, parked(t, pool, "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.Zero(t, parked(t, pool, "a.job"))
}

func TestResume_FreesLockedJobsOnceTheyAreUnlocked(t *testing.T) {
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
	eventually(t, "the pause has ended", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.everytick_pause`) == 0
	})
	cancel()
	require.ErrorIs(t, receive(t, resumed), context.Canceled)
	pass(t, 9*time.Second) // longer than processes free jobs after a pause if none is left
	require.Equal(t, 1, parked(t, pool, "a.job"))
	require.NoError(t, tx.Rollback(t.Context()))
	eventually(t, "the job is freed once it is unlocked", func() bool { return parked(t, pool, "a.job") == 0 })
}

func TestResume_NotifiesWorkersAtOnce(t *testing.T) {
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

func TestPause_HoldsAfterAnEarlierResume(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	insertRows(t, pool, 1, `kind, state`, `'a.job', 'available'`)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.NoError(t, s.Start(t.Context()))
	pass(t, 3*time.Second) // the pauses are read again
	require.Equal(t, 1, parked(t, pool, "a.job"))
}

func TestPause_LogsSkippedTicksAtInfo(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, noop))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Pause(t.Context(), "a.tick"))
	eventually(t, "the skipped tick is logged", func() bool {
		return strings.Contains(logged.String(), `level=INFO msg="tick skipped: the job is paused" job=a.tick tick=`)
	})
}
