package pause_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/adapters/river/internal/pause"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// migrated provides each test with a migrated database.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return river.Migrate(ctx, pool, nil) })

func insertRow(t testing.TB, pool *pgxpool.Pool, queue string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, state, queue, max_attempts)
		VALUES ('a.job', '{}', 'available', $1, 3)`, queue)
	require.NoError(t, err)
}

func queueOf(t testing.TB, pool *pgxpool.Pool) (queue string) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT queue FROM river.river_job`).Scan(&queue))
	return queue
}

func TestPauses_RefreshFreesRunsAfterAPause(t *testing.T) {
	t.Parallel()
	pool, s := migrated.Pool(t), store.New("river")
	insertRow(t, pool, "home")
	p := pause.New(s)
	require.False(t, p.Has("a.job"), "before Learn")
	require.NoError(t, s.Pause(t.Context(), pool, "a.job"))
	require.NoError(t, s.Pause(t.Context(), pool, "a.job"), "pausing twice is allowed")
	require.NoError(t, s.Park(t.Context(), pool, "a.job"))
	require.Equal(t, store.PausedQueue, queueOf(t, pool))
	require.NoError(t, p.Learn(t.Context(), pool))
	require.True(t, p.Has("a.job"))
	refresh := func() { require.NoError(t, p.Refresh(t.Context(), pool, []string{"a.job"}, []string{"home"})) }
	refresh()
	require.Equal(t, store.PausedQueue, queueOf(t, pool), "still paused")

	require.NoError(t, s.Resume(t.Context(), pool, "a.job"))
	refresh()
	require.False(t, p.Has("a.job"))
	require.Equal(t, "home", queueOf(t, pool))
	// A process that has not noticed the end of the pause moves the run again.
	require.NoError(t, s.Park(t.Context(), pool, "a.job"))
	refresh()
	require.Equal(t, "home", queueOf(t, pool), "runs that were moved late are freed too")
}

func TestPauses_StartFreesRunsThatAPauseLeftBehind(t *testing.T) {
	t.Parallel()
	pool, s := migrated.Pool(t), store.New("river")
	insertRow(t, pool, store.PausedQueue)
	p := pause.New(s)
	require.NoError(t, p.Start(t.Context(), pool, []string{"a.job"}))
	require.NoError(t, p.Refresh(t.Context(), pool, []string{"a.job"}, []string{"home"}))
	require.Equal(t, "home", queueOf(t, pool))
}

func TestPauses_FreeWaitsForLockedRuns(t *testing.T) {
	t.Parallel()
	pool, s := migrated.Pool(t), store.New("river")
	insertRow(t, pool, store.PausedQueue)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM river.river_job FOR UPDATE`)
	require.NoError(t, err)
	p := pause.New(s)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Free(ctx, pool, "a.job", "home"), context.DeadlineExceeded)
	freed := make(chan error, 1)
	go func() { freed <- p.Free(context.Background(), pool, "a.job", "home") }()
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, <-freed)
	require.Equal(t, "home", queueOf(t, pool))
}

// slow is a pool whose first query has been answered when asked is closed, and returns when release is.
type slow struct {
	*pgxpool.Pool
	once           sync.Once
	asked, release chan struct{}
}

func (s *slow) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := s.Pool.Query(ctx, sql, args...)
	s.once.Do(func() {
		close(s.asked)
		<-s.release
	})
	return rows, err
}

func TestPauses_ALateAnswerEndsNoPause(t *testing.T) {
	t.Parallel()
	pool, s := migrated.Pool(t), store.New("river")
	insertRow(t, pool, "home")
	p := pause.New(s)
	late := &slow{Pool: pool, asked: make(chan struct{}), release: make(chan struct{})}
	refreshed := make(chan error, 1)
	go func() { refreshed <- p.Refresh(context.Background(), late, []string{"a.job"}, []string{"home"}) }()
	<-late.asked
	require.NoError(t, s.Pause(t.Context(), pool, "a.job"))
	require.NoError(t, p.Learn(t.Context(), pool))
	require.NoError(t, s.Park(t.Context(), pool, "a.job"))
	close(late.release)
	require.NoError(t, <-refreshed)
	require.True(t, p.Has("a.job"))
	require.Equal(t, store.PausedQueue, queueOf(t, pool))
}
