package river_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestIdempotencyKey_IsFreeOnceTheRowIsDeleted(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	trigger := func() string {
		id, err := s.Trigger(t.Context(), "a.job", map[string]int{"n": 1}, jobs.IdempotencyKey("key"))
		require.NoError(t, err)
		return id
	}
	first := trigger()
	require.Equal(t, first, receive(t, ran).ID)
	eventually(t, "the run is completed", func() bool { return stateOf(t, s, "a.job", first) == jobs.StateCompleted })
	require.Equal(t, first, trigger())
	execSQL(t, pool, `DELETE FROM river.river_job`) // as River's leader does after the retention
	second := trigger()
	require.NotEqual(t, first, second)
	require.Equal(t, second, receive(t, ran).ID)
}

// A process that only triggers has other registrations than those that run the job, and a deployment changes them.
func TestIdempotencyKey_DoesNotDependOnTheRegistration(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	id := ""
	for _, delay := range []time.Duration{0, time.Hour, 2 * time.Hour} {
		s := newScheduler(t, pool, river.Config{TriggerOnly: delay == 0})
		if delay > 0 {
			require.NoError(t, s.RegisterDelayed("a.job", delay, noop, jobs.Priority(3)))
		}
		got, err := s.Trigger(t.Context(), "a.job", nil, jobs.IdempotencyKey("key"))
		require.NoError(t, err)
		if id == "" {
			id = got
		}
		require.Equal(t, id, got)
	}
	require.JSONEq(t, `true`, scalar[string](t, pool, `SELECT metadata->>'everytick_open' FROM river.river_job`))
}

// The role's default isolation does not matter, and neither does that of a caller's transaction.
func TestIdempotencyKey_WorksAtAnyIsolationLevel(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", time.Hour, noop))
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		key := jobs.IdempotencyKey(string(level))
		tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		require.NoError(t, err)
		first, err := s.TriggerTx(t.Context(), tx, "a.job", nil, key)
		require.NoError(t, err)
		again, err := s.TriggerTx(t.Context(), tx, "a.job", nil, key)
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.NoError(t, tx.Commit(t.Context()))
		found, err := s.Trigger(t.Context(), "a.job", nil, key)
		require.NoError(t, err)
		require.Equal(t, first, found)
	}
}
