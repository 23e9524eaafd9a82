package river_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestTrigger_NotifiesWhenAJobDueSoonIsDue(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	next := listening(t, pool.Config().ConnString(), "river")
	s := newScheduler(t, pool, river.Config{TriggerOnly: true}) // so that no process leads
	soon := jobs.Delay(4 * time.Second)                         // enough to insert many on a busy machine
	for name, trigger := range map[string]func() error{
		"Trigger":           func() error { _, err := s.Trigger(t.Context(), "a.job", nil, soon); return err },
		"Unique":            func() error { _, err := s.Trigger(t.Context(), "a.job", nil, soon, jobs.Unique("key")); return err },
		"TriggerMany, few":  func() error { _, err := s.TriggerMany(t.Context(), "a.job", numbered(3), soon); return err },
		"TriggerMany, many": func() error { _, err := s.TriggerMany(t.Context(), "a.job", numbered(600), soon); return err },
		"TriggerTx": func() error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := s.TriggerTx(t.Context(), tx, "a.job", nil, soon)
				return err
			})
		},
	} {
		require.NoError(t, trigger(), name)
		due := `SELECT count(*) FROM river.river_job WHERE state = 'available' AND scheduled_at <= now()`
		require.Zero(t, scalar[int](t, pool, due), name)
		require.JSONEq(t, `{"queue": "default"}`, next(), name)
		require.NotZero(t, scalar[int](t, pool, due), "%s: notified before the job was due", name)
		execSQL(t, pool, `DELETE FROM river.river_job`)
	}
}

func TestScheduler_LeaderNotifiesForJobsThatBecomeDue(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(1)))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran) // the first fetch, which must not take a probe for the watch, is over
	// River calls the hook that starts the leader's watch some seconds after the election.
	probes := 0
	for watching := false; !watching; {
		insertRows(t, pool, 1, `kind, state, scheduled_at`, `'a.job', 'available', now() + interval '500 milliseconds'`)
		probes++
		select {
		case <-ran:
			watching = true
		case <-time.After(2500 * time.Millisecond):
		}
	}
	for range probes - 1 {
		receive(t, ran)
	}
	_, err = s.Trigger(t.Context(), "a.own", nil)
	require.NoError(t, err)
	receive(t, ran)
	own := scalar[string](t, pool, `SELECT queue FROM river.river_job WHERE kind = 'a.own'`)
	// A row that commits after it is due is left to the poll, so a slow machine needs room.
	insertRows(t, pool, 1, `kind, state, scheduled_at, queue`, `'a.own', 'available', now() + interval '2 seconds', '`+own+`'`)
	require.Equal(t, "a.own", receive(t, ran).Name)
	for _, after := range []string{"1500 milliseconds", "2500 milliseconds"} {
		insertRows(t, pool, 3, `kind, state, scheduled_at, priority`, `'a.job', 'available', now() + interval '`+after+`', 2`)
		for range 3 {
			require.Equal(t, "a.job", receive(t, ran).Name)
		}
	}
	insertRows(t, pool, 1, `kind, state, scheduled_at`, `'a.job', 'scheduled', now() + interval '7 seconds'`)
	receive(t, ran)
}

func TestScheduler_StartsRetriedAndResumedJobsWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran, ticks := make(chan jobs.Job, 100), make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(1)))
	require.NoError(t, s.RegisterDelayed("a.retried", 0, func(ctx context.Context, job *jobs.Job) error {
		if job.Attempt < 3 {
			return jobs.RetryAfter(10*time.Millisecond, errAgain)
		}
		return forward(ran)(ctx, job)
	}))
	require.NoError(t, s.RegisterDelayed("a.failed", 0, func(ctx context.Context, job *jobs.Job) error {
		_ = forward(ran)(ctx, job)
		return jobs.Permanent(errAgain)
	}))
	require.NoError(t, s.Start(t.Context()))
	awaitLeader(t, pool, ticks)
	trigger := func(by jobs.Triggerer, name string) (id string) {
		id, err := by.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
		return id
	}
	trigger(s, "a.retried")
	require.Equal(t, 3, receive(t, ran).Attempt)

	// A TriggerOnly process does not know that the job has a queue of its own.
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	trigger(remote, "a.own")
	require.Equal(t, "a.own", receive(t, ran).Name)

	id := trigger(s, "a.failed")
	for range 3 {
		require.Equal(t, id, receive(t, ran).ID)
		eventually(t, "the job has failed", func() bool {
			return scalar[bool](t, pool, `SELECT finalized_at IS NOT NULL FROM river.river_job WHERE id = $1::text::bigint`, id)
		})
		require.NoError(t, s.Retry(t.Context(), "a.failed", id))
	}
	receive(t, ran)

	require.NoError(t, s.Pause(t.Context(), "a.own"))
	id = trigger(s, "a.own")
	eventually(t, "the job is set aside", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available' AND queue = $1 AND id = $2::text::bigint`, river.PausedQueue, id) == 1
	})
	require.NoError(t, s.Resume(t.Context(), "a.own"))
	require.Equal(t, id, receive(t, ran).ID)
}

func TestScheduler_StartsARetryStoredLateWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	begun, ran, locked := make(chan jobs.Job, 1), make(chan jobs.Job, 1), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		if job.Attempt > 1 {
			return forward(ran)(ctx, job)
		}
		begun <- *job
		<-locked
		return jobs.RetryAfter(10*time.Millisecond, errAgain)
	}))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, begun)
	tx := begin(t, pool)
	_, err = tx.Exec(t.Context(), `SELECT FROM river.river_job WHERE id = $1::text::bigint FOR UPDATE`, id)
	require.NoError(t, err)
	close(locked)
	_, err = tx.Exec(t.Context(), `SELECT pg_sleep(1)`) // River stores results every 250 ms
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, 2, receive(t, ran).Attempt)
}

func TestShutdown_NotifiesOthersOfInterruptedJobs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	begun, ran := make(chan jobs.Job, 1), make(chan jobs.Job, 1)
	leader := newScheduler(t, pool, river.Config{River: unpolled})
	require.NoError(t, leader.RegisterDelayed("a.job", 0, untilCancelled(begun)))
	require.NoError(t, leader.Start(t.Context()))
	_, err := leader.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, begun)
	other := newScheduler(t, pool, river.Config{River: unpolled})
	require.NoError(t, other.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, other.RegisterDelayed("b.job", 0, forward(ran)))
	require.NoError(t, other.Start(t.Context()))
	_, err = other.Trigger(t.Context(), "b.job", nil)
	require.NoError(t, err)
	require.Equal(t, "b.job", receive(t, ran).Name) // it has fetched by now
	require.ErrorIs(t, interrupt(leader), context.Canceled)
	again := receive(t, ran)
	require.Equal(t, "a.job", again.Name)
	require.Equal(t, 1, again.Attempt)
}

// The second transaction does not notify on commit, because the first did just before.
func TestTriggerTx_NotifiesWithinTheCooldownOfAnother(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	first := begin(t, pool)
	second := begin(t, pool)
	for _, tx := range []pgx.Tx{first, second} {
		_, err := s.TriggerTx(t.Context(), tx, "a.job", nil)
		require.NoError(t, err)
	}
	require.NoError(t, first.Commit(t.Context()))
	_, err := second.Exec(t.Context(), `SELECT pg_sleep(0.05)`) // longer than the cooldown
	require.NoError(t, err)
	require.NoError(t, second.Commit(t.Context()))
	receive(t, ran)
	receive(t, ran)
}
