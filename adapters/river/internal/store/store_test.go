package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// migrated provides each test with a migrated database.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return river.Migrate(ctx, pool, nil) })

func execSQL(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func insertRows(t testing.TB, pool *pgxpool.Pool, n int, columns, values string) {
	t.Helper()
	execSQL(t, pool, `INSERT INTO river.river_job (`+columns+`, args, max_attempts) SELECT `+values+`, '{}', 3 FROM generate_series(1, $1)`, n)
}

// River makes scheduled jobs available up to 5 seconds early. By then it may be too late to look for the first time.
func TestStore_BecomingDueFindsJobsBeforeRiverMakesThemAvailable(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := store.New("river")
	const columns = `kind, state, queue, priority, scheduled_at`
	look := func(since *time.Time) (time.Time, []string, *time.Time) {
		t.Helper()
		now, queues, next, err := s.BecomingDue(t.Context(), pool, since)
		require.NoError(t, err)
		return now, queues, next
	}
	before, queues, next := look(nil)
	require.Empty(t, queues)
	require.Nil(t, next)
	for _, row := range []struct {
		values string
		in     time.Duration
	}{
		{`'a.job', 'retryable', 'a-queue', 4`, 5 * time.Hour},
		{`'a.job', 'scheduled', 'default', 1`, 4 * time.Hour},
		{`'a.job', 'scheduled', 'z-queue', 2`, 3 * time.Hour},
		{`'a.job', 'available', 'default', 3`, 2 * time.Hour},
		{`'a.job', 'available', '` + store.PausedQueue + `', 1`, time.Hour},
	} {
		insertRows(t, pool, 2, columns, row.values+fmt.Sprintf(`, now() + interval '%d seconds'`, int(row.in.Seconds())))
		if row.in == time.Hour {
			continue // a queue without workers
		}
		now, queues, next := look(&before)
		require.Empty(t, queues)
		require.WithinDuration(t, now.Add(row.in), *next, time.Minute)
	}
	insertRows(t, pool, 1, columns, `'a.job', 'scheduled', 'default', 2, now()`) // River notifies of it
	insertRows(t, pool, 1, columns, `'a.job', 'available', 'a-queue', 1, now()`)
	insertRows(t, pool, 1, columns, `'a.job', 'available', 'a-queue', 4, now()`)
	now, queues, next := look(&before)
	require.Equal(t, []string{"a-queue"}, queues)
	require.WithinDuration(t, now.Add(2*time.Hour), *next, time.Minute)
	_, queues, _ = look(&now)
	require.Empty(t, queues, "each job is returned once")
}

// A transactional run stores its success while maintenance copies outcomes: the success must stay.
func TestCopyOutcomes_KeepsASuccessStoredMeanwhile(t *testing.T) {
	t.Parallel()
	pool, s := migrated.Pool(t), store.New("river")
	ctx := t.Context()
	// Many schedules make the statement slow enough for the test; with one it takes a millisecond.
	_, err := pool.Exec(ctx, `INSERT INTO river.everytick_schedule (name, spec, claimed_at, last_tick, last_job_id)
		SELECT 'a.fill' || i, 'every 1s', now(), now(), 1000000 + i FROM generate_series(1, 30000) AS i`)
	require.NoError(t, err)
	names := []string{"z.job"}
	for i := range 30000 {
		names = append(names, fmt.Sprintf("a.fill%d", i+1))
	}
	t1 := time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC)
	t2, t3 := t1.Add(time.Second), t1.Add(2*time.Second)
	var id int64 // the run of t3, which is in progress
	require.NoError(t, pool.QueryRow(ctx, `INSERT INTO river.river_job (kind, args, state, attempt, attempted_at, max_attempts)
		VALUES ('z.job', '{}', 'running', 1, now(), 3) RETURNING id`).Scan(&id))
	for try := range 12 {
		_, err = pool.Exec(ctx, `DELETE FROM river.everytick_schedule WHERE name = 'z.job'`)
		require.NoError(t, err)
		_, err = pool.Exec(ctx, `INSERT INTO river.everytick_schedule (name, spec, claimed_at, last_success, prev_tick, last_tick, last_job_id)
			VALUES ('z.job', 'every 1s', now(), $1, $2, $3, $4)`, t1, t2, t3, id)
		require.NoError(t, err)
		copied := make(chan error, 1)
		go func() { copied <- s.CopyOutcomes(ctx, pool, names) }()
		time.Sleep(time.Duration(try*15) * time.Millisecond) // at another moment of the statement in each try
		require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := s.LockSuccess(ctx, tx, store.Limits{Statement: time.Minute, Idle: time.Minute}, "z.job"); err != nil {
				return err
			}
			return s.PutSuccess(ctx, tx, "z.job", t2)
		}))
		require.NoError(t, <-copied)
		var last time.Time
		require.NoError(t, pool.QueryRow(ctx, `SELECT last_success FROM river.everytick_schedule WHERE name = 'z.job'`).Scan(&last))
		require.Equal(t, t2, last.UTC(), "the latest success was overwritten by an earlier one, in try %d", try)
	}
}
