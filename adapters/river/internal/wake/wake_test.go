package wake_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/wake"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// migrated is a database with River's tables, copied for each test.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return river.Migrate(ctx, pool, nil) })

// newWaker returns a waker and a function that returns the queues of the next notification.
func newWaker(t testing.TB, pollOnly bool) (w *wake.Waker, pool *pgxpool.Pool, next func() string) {
	t.Helper()
	pool = migrated.Pool(t)
	clock := dbclock.New(func(ctx context.Context, ask func(dbclock.Asker) error) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return ask(conn) })
	}, time.Now)
	require.NoError(t, clock.Measure(t.Context()))
	conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), `LISTEN "river.river_insert"`)
	require.NoError(t, err)
	next = func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n, err := conn.WaitForNotification(ctx)
		require.NoError(t, err)
		return n.Payload
	}
	return wake.New(pool, store.New("river"), clock, slog.New(slog.DiscardHandler), pollOnly), pool, next
}

func queued(queue string, due time.Time) []*insert.Job {
	return []*insert.Job{{Kind: "a.job", Queue: queue, Due: due}}
}

func TestInserted_WhatComesWithinTheCooldownIsToldWhenItEnds(t *testing.T) {
	t.Parallel()
	for within := false; !within; { // a slow machine may take longer
		w, _, next := newWaker(t, false)
		began := time.Now()
		w.Inserted(t.Context(), queued("one", time.Time{}), false)
		w.Inserted(t.Context(), queued("two", time.Time{}), false)
		w.Inserted(t.Context(), queued("two", time.Time{}), false)
		within = time.Since(began) < wake.Cooldown
		require.JSONEq(t, `{"queue": "one"}`, next())
		require.JSONEq(t, `{"queue": "two"}`, next())
		w.Notify(t.Context(), []string{"last"})
		if within {
			require.JSONEq(t, `{"queue": "last"}`, next(), "once for each queue")
		}
	}
}

func TestWaker_Attach(t *testing.T) {
	t.Parallel()
	w, pool, next := newWaker(t, false)
	for attached := false; !attached; { // a slow machine may take longer
		began := time.Now()
		var first, second pgx.Batch
		attached = w.Attach(&first, queued("one", time.Time{}))
		require.True(t, attached)
		again := w.Attach(&second, queued("one", time.Time{}))
		attached = time.Since(began) < wake.Cooldown
		require.False(t, attached && again, "inside the cooldown")
		require.NoError(t, pool.SendBatch(t.Context(), &first).Close())
		require.JSONEq(t, `{"queue": "one"}`, next())
		w.Inserted(t.Context(), queued("one", time.Time{}), true)
		w.Inserted(t.Context(), queued("two", time.Time{}), false)
		require.JSONEq(t, `{"queue": "two"}`, next(), "one was attached")
		require.Eventually(t, func() bool { return time.Since(began) > 3*wake.Cooldown }, time.Minute, time.Millisecond)
	}
	require.False(t, w.Attach(&pgx.Batch{}, queued("later", time.Now().Add(time.Hour))), "nothing is due")
}

func TestInserted_AJobThatIsDueSoonIsToldOfThen(t *testing.T) {
	t.Parallel()
	w, pool, next := newWaker(t, false)
	due := time.Now().Add(300 * time.Millisecond)
	w.Inserted(t.Context(), queued("soon", due), false)
	w.Inserted(t.Context(), queued("later", due.Add(time.Hour)), false) // the leader's business
	require.JSONEq(t, `{"queue": "soon"}`, next())
	var passed bool
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT clock_timestamp() >= $1`, due).Scan(&passed))
	require.True(t, passed, "not before it is due")
}

func TestInsertedTx_IsToldWhenTheTransactionCommits(t *testing.T) {
	t.Parallel()
	w, pool, next := newWaker(t, false)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, w.InsertedTx(t.Context(), tx, queued("rolled-back", time.Time{})...))
	require.NoError(t, tx.Rollback(t.Context()))
	began := time.Now()
	require.Eventually(t, func() bool { return time.Since(began) > 2*wake.Cooldown }, time.Minute, time.Millisecond)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return w.InsertedTx(t.Context(), tx, queued("committed", time.Time{})...)
	}))
	require.JSONEq(t, `{"queue": "committed"}`, next())
}

func TestPollOnly_NobodyIsNotified(t *testing.T) {
	t.Parallel()
	w, pool, next := newWaker(t, true)
	w.Inserted(t.Context(), queued("one", time.Time{}), false)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return w.InsertedTx(t.Context(), tx, queued("two", time.Time{})...)
	}))
	require.NoError(t, store.New("river").NotifyInsert(t.Context(), pool, []string{"by the test"}))
	require.JSONEq(t, `{"queue": "by the test"}`, next())
}
