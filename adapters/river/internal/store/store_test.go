package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

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
