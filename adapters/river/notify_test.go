package river_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/adapters/river/internal/wake"
	"github.com/everytick/everytick/jobs"
)

var errAgain = errors.New("again")

// unpolled makes workers fetch only when they are notified.
func unpolled(cfg *riverqueue.Config) { cfg.FetchPollInterval = time.Hour }

// listening returns a function that waits for the next notification of new jobs.
func listening(t testing.TB, url, schema string) func() string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), `LISTEN "`+schema+`.river_insert"`)
	require.NoError(t, err)
	return func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n, err := conn.WaitForNotification(ctx)
		require.NoError(t, err)
		return n.Payload
	}
}

func TestTrigger_NotifiesWhenTheCooldownEnds(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	next := listening(t, pool.Config().ConnString(), "river")
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.later", time.Hour, noop))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(1)))
	for range 20 { // each pair at another distance from the last notification
		for range 2 {
			_, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			_, err = s.Trigger(t.Context(), "a.later", nil)
			require.NoError(t, err)
		}
		require.JSONEq(t, `{"queue": "default"}`, next())
	}
	_, err := s.Trigger(t.Context(), "a.own", nil)
	require.NoError(t, err)
	for payload := ""; !strings.Contains(payload, "a-own-"); {
		payload = next()
	}
}

func TestTrigger_ConcurrentJobsStartWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(5)))
	require.NoError(t, s.Start(t.Context()))
	defer func() {
		if t.Failed() {
			t.Log("waiting jobs: ", scalar[string](t, pool, `SELECT coalesce(string_agg(waiting::text, '; '), 'none')
				FROM (SELECT id, kind, scheduled_at, unique_key FROM river.river_job WHERE state = 'available') AS waiting`))
		}
	}()
	for range 20 {
		var wg sync.WaitGroup
		for _, name := range []string{"a.job", "a.own", "a.job"} {
			wg.Go(func() {
				if _, err := s.Trigger(context.Background(), name, nil); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := s.Trigger(context.Background(), name, nil, jobs.Unique("key")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		eventually(t, "no job waits", func() bool {
			return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available'`) == 0
		})
	}
}

// newUnpolled returns a scheduler of a.job and a.other that fetches only when it is notified.
func newUnpolled(t *testing.T, pool *pgxpool.Pool) (s *river.Scheduler, ran chan jobs.Job) {
	t.Helper()
	s = newScheduler(t, pool, river.Config{River: unpolled})
	ran = make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.other", 0, forward(ran)))
	return s, ran
}

// A trigger that finds its key taken locks the row, and workers skip locked rows.
func TestTriggerTx_AJobItLockedStartsWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s, ran := newUnpolled(t, pool)
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		again, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Unique("key"))
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.NoError(t, s.Start(t.Context()))
		_, err = s.Trigger(t.Context(), "a.other", nil)
		require.NoError(t, err)
		require.Equal(t, "a.other", receive(t, ran).Name, "workers fetch while the row is locked")
		return nil
	}))
	require.Equal(t, id, receive(t, ran).ID)
}

// So does one whose INSERT finds the job, which another transaction committed meanwhile.
func TestTriggerTx_AJobItsInsertFoundStartsWithoutPolling(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]jobs.TriggerOption{"Unique": jobs.Unique("key"), "IdempotencyKey": jobs.IdempotencyKey("key")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			s, ran := newUnpolled(t, pool)
			first, second := begin(t, pool), begin(t, pool)
			id, err := s.TriggerTx(t.Context(), first, "a.job", nil, opt)
			require.NoError(t, err)
			found := make(chan string, 1)
			go func() {
				again, err := s.TriggerTx(context.Background(), second, "a.job", nil, opt)
				found <- fmt.Sprint(again, err)
			}()
			eventually(t, "the INSERT waits", func() bool {
				return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
			})
			pass(t, 2*wake.Cooldown) // within it, a notification is not part of the transaction
			require.NoError(t, first.Commit(t.Context()))
			require.Equal(t, fmt.Sprint(id, nil), <-found)
			require.NoError(t, s.Start(t.Context()))
			_, err = s.Trigger(t.Context(), "a.other", nil)
			require.NoError(t, err)
			require.Equal(t, "a.other", receive(t, ran).Name, "workers fetch while the row is locked")
			pass(t, 2*time.Second) // until what a trigger sends outside of its transaction is sent
			require.NoError(t, second.Commit(t.Context()))
			require.Equal(t, id, receive(t, ran).ID)
		})
	}
}

func TestTriggerMany_JobsStartWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 2000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(50)))
	require.NoError(t, s.Start(t.Context()))
	for _, name := range []string{"a.job", "a.own"} {
		for _, n := range []int{3, 600} {
			_, err := s.TriggerMany(t.Context(), name, numbered(n))
			require.NoError(t, err)
			for range n {
				receive(t, ran)
			}
		}
	}
}

func TestTriggerTx_NotifiesOnCommit(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	next := listening(t, pool.Config().ConnString(), "river")
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	for range 3 {
		first, err := s.Trigger(t.Context(), "a.job", nil) // starts a cooldown
		require.NoError(t, err)
		var second string
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if second, err = s.TriggerTx(t.Context(), tx, "a.job", nil); err != nil {
				return err
			}
			require.Equal(t, first, receive(t, ran).ID)
			next()
			// Well past the cooldown, when a held notification would have been sent.
			_, err = tx.Exec(t.Context(), `SELECT pg_sleep(0.05)`)
			return err
		}))
		require.Equal(t, second, receive(t, ran).ID)
		next()
	}
	tx := begin(t, pool)
	_, err := s.TriggerTx(t.Context(), tx, "a.job", nil)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pg_sleep(0.05)`)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	execSQL(t, pool, `SELECT pg_notify('river.river_insert', '{"queue": "last"}')`)
	require.JSONEq(t, `{"queue": "last"}`, next(), "a transaction that is rolled back does not notify")
}

func TestTrigger_HeldNotificationMayOutliveThePool(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), migrated.URL(t))
	require.NoError(t, err)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	for range 2 {
		_, err := s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
	}
	pool.Close()
	pass(t, 20*time.Millisecond) // until the second notification is sent
	_, err = s.Trigger(t.Context(), "a.job", nil)
	require.Error(t, err)
}
