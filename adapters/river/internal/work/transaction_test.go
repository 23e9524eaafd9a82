package work

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
)

func TestEndingOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		row  store.AttemptRow
		want ending
	}{
		{"no row", store.AttemptRow{}, lost},
		{"running", store.AttemptRow{State: rivertype.JobStateRunning, Own: true}, notYet},
		{"running and cancelled", store.AttemptRow{State: rivertype.JobStateRunning, Own: true, Cancelled: true}, cancelled},
		{"running elsewhere", store.AttemptRow{State: rivertype.JobStateRunning}, lost},
		{"running elsewhere and cancelled", store.AttemptRow{State: rivertype.JobStateRunning, Cancelled: true}, lost},
		{"completed", store.AttemptRow{State: rivertype.JobStateCompleted, Own: true}, committed},
		{"completed after a cancellation", store.AttemptRow{State: rivertype.JobStateCompleted, Own: true, Cancelled: true}, committed},
		{"completed elsewhere", store.AttemptRow{State: rivertype.JobStateCompleted}, lost},
		{"rescued", store.AttemptRow{State: rivertype.JobStateAvailable, Own: true}, lost},
		{"rescued on its last attempt", store.AttemptRow{State: rivertype.JobStateDiscarded, Own: true}, lost},
		{"rescued after a cancellation", store.AttemptRow{State: rivertype.JobStateCancelled, Own: true, Cancelled: true}, lost},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, endingOf(test.row))
		})
	}
}

func TestAttempt_ConnectGivesTheAttemptBackWithoutAConnection(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "host=/nowhere user=x dbname=x")
	require.NoError(t, err)
	pool.Close() // every Acquire fails
	w := newWorker(t, pool, func(context.Context, *jobs.Job) error { return nil }, jobs.Transactional())
	stopping := make(chan struct{})
	w.env.Stopping = stopping
	connect := func(ctx context.Context) error {
		a := &attempt{worker: w, run: &jobs.Job{}, row: &rivertype.JobRow{}, began: time.Now()}
		err := a.connect(ctx)
		require.Nil(t, a.conn)
		return err
	}
	var snooze *riverqueue.JobSnoozeError
	require.ErrorAs(t, connect(t.Context()), &snooze)
	require.Equal(t, transientSnooze, snooze.Duration)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	close(stopping)
	require.ErrorIs(t, connect(ended), context.Canceled, "a shutdown")
}

func TestAttempt_SettleAsksUntilTheDatabaseAnswersOrAHardStop(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	id := insertRow(t, pool, "running", `{}`, 2)
	w := newWorker(t, pool, func(context.Context, *jobs.Job) error { return nil }, jobs.Transactional())
	stopping := make(chan struct{})
	w.env.Stopping = stopping
	settle := func() ending {
		a := &attempt{worker: w, run: &jobs.Job{}, row: &rivertype.JobRow{ID: id, Attempt: 2}}
		return a.settle(t.Context(), context.DeadlineExceeded)
	}
	require.Equal(t, notYet, settle())

	// While another transaction holds the row, its outcome is open.
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE river.river_job SET state = 'completed', finalized_at = now()`)
	require.NoError(t, err)
	settled := make(chan ending, 1)
	go func() { settled <- settle() }()
	select {
	case <-settled:
		require.Fail(t, "did not wait")
	case <-time.After(200 * time.Millisecond):
	}
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, committed, <-settled)

	closed, err := pgxpool.New(t.Context(), "host=/nowhere user=x dbname=x")
	require.NoError(t, err)
	closed.Close()
	w.env.App = closed
	go func() { settled <- settle() }()
	select {
	case <-settled:
		require.Fail(t, "the database has not answered")
	case <-time.After(200 * time.Millisecond):
	}
	close(stopping)
	require.Equal(t, unknown, <-settled)
}
