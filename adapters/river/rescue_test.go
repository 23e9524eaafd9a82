package river_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// abandoned makes the row of a job that of a process that died long ago amid an attempt.
func abandoned(t testing.TB, s *river.Scheduler, name string, attempt int, set string) (id string) {
	t.Helper()
	id, err := s.Trigger(t.Context(), name, nil, jobs.Delay(time.Hour)) // so that nobody takes it before
	require.NoError(t, err)
	execSQL(t, s.Pool(), `UPDATE river.river_job SET state = 'running', attempt = $2, attempted_at = now() - interval '7 minutes'`+set+`
		WHERE id = $1::text::bigint`, id, attempt)
	return id
}

func TestWhatBecomesOfAJobWhoseProcessDied(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	other := newScheduler(t, pool, river.Config{}) // of another service, which never starts
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(time.Minute), jobs.RetryDelay(0)))
	require.NoError(t, s.RegisterDelayed("a.tough", 0, noop, jobs.Timeout(time.Minute), jobs.MaxRetries(30_000)))
	require.NoError(t, s.RegisterDelayed("a.patient", 0, noop, jobs.Timeout(3*time.Minute)))
	require.NoError(t, other.RegisterDelayed("b.job", 0, noop, jobs.Timeout(time.Second)))
	again := abandoned(t, s, "a.job", 1, "")
	last := abandoned(t, s, "a.job", 3, "")
	cancelled := abandoned(t, s, "a.job", 1, `, metadata = metadata || '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`)
	// Its next wait, doubled so often, is beyond every number.
	tough := abandoned(t, s, "a.tough", 20_000, "")
	patient := abandoned(t, s, "a.patient", 1, "")
	unknown := abandoned(t, other, "b.job", 1, "")
	require.NoError(t, s.Start(t.Context()))

	job := receive(t, ran)
	require.Equal(t, again, job.ID)
	require.Equal(t, 2, job.Attempt)
	eventually(t, "it is completed", func() bool { return stateOf(t, s, "a.job", again) == jobs.StateCompleted })
	row, err := s.Client().JobGet(t.Context(), idOf(t, again))
	require.NoError(t, err)
	require.Len(t, row.Errors, 1)
	require.Equal(t, 1, row.Errors[0].Attempt)
	require.WithinDuration(t, time.Now(), row.Errors[0].At, time.Minute)
	require.Equal(t, "the process that ran the job is gone", row.Errors[0].Error)

	require.Equal(t, jobs.StateFailed, stateOf(t, s, "a.job", last))
	require.Equal(t, jobs.StateCancelled, stateOf(t, s, "a.job", cancelled))
	require.Equal(t, jobs.StateRetrying, stateOf(t, s, "a.tough", tough))
	require.WithinDuration(t, time.Now().Add(24*time.Hour),
		scalar[time.Time](t, pool, `SELECT scheduled_at FROM river.river_job WHERE id = $1::text::bigint`, tough), time.Minute)
	require.Equal(t, jobs.StateRunning, stateOf(t, s, "a.patient", patient), "it may still run")
	require.Equal(t, jobs.StateRunning, stateOf(t, other, "b.job", unknown), "its own service sees to it")
	require.Empty(t, ran)
}

func TestARescueAfterThatMeansNever(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{RescueAfter: math.MaxInt64})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(math.MaxInt64)))
	id := abandoned(t, s, "a.job", 1, "")
	ticks := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.Start(t.Context()))
	for range 5 { // longer than the keeper takes to look
		receive(t, ticks)
	}
	require.Equal(t, jobs.StateRunning, stateOf(t, s, "a.job", id))
	require.Empty(t, ran)
}

// A process died as it put a job aside for a pause that has ended since.
func TestAJobThatWasBeingPutAsideIsRescuedToItsOwnQueue(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(time.Minute), jobs.RetryDelay(0)))
	require.NoError(t, s.Start(t.Context()))
	id := abandoned(t, s, "a.job", 1, `, queue = '`+river.PausedQueue+`'`)
	require.Equal(t, id, receive(t, ran).ID)
}

// An alert on the message finds what failed for good, whoever found out.
func TestRescue_ReportsWhatBecameOfEachJob(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.Timeout(time.Minute)))
	again := abandoned(t, s, "a.job", 1, "")
	first, second := abandoned(t, s, "a.job", 3, ""), abandoned(t, s, "a.job", 3, "")
	cancelled := abandoned(t, s, "a.job", 1, `, metadata = metadata || '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`)
	require.NoError(t, s.Rescue(t.Context()))
	for _, id := range []string{first, second} {
		require.Contains(t, logged.String(), `level=ERROR msg="job failed for good" job=a.job job_id=`+id+
			` attempt=3 error="the process that ran the job is gone" max_attempts=3`)
	}
	require.Contains(t, logged.String(), `level=WARN msg="job was cancelled" job=a.job job_id=`+cancelled+` `)
	require.Contains(t, logged.String(), `level=WARN msg="jobs of a process that is gone are given another attempt" job=a.job jobs=1`)
	require.NotContains(t, logged.String(), "job_id="+again+" ")
}

// Not even its handler can tell.
func TestAJobThatNoAttemptCanRunIsReported(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	execSQL(t, s.Pool(), `UPDATE river.river_job SET metadata = '{"everytick_open": "no boolean"}'`)
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "it fails at its first attempt", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateFailed })
	require.Contains(t, logged.String(), `level=ERROR msg="job failed for good" job=a.job job_id=`+id+` `)
}

// As a table has them that was analysed while a transaction stored its first jobs.
func TestRescueIsQuickWithPoorStatistics(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.Timeout(time.Minute)))
	id := abandoned(t, s, "a.job", 1, "")
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, state, finalized_at)
			SELECT 'filler.job', '{}', 'completed', now() FROM generate_series(1, 20000)`)
		require.NoError(t, err)
		execSQL(t, pool, `ANALYZE river.river_job`)
		return nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, s.Rescue(ctx))
	require.Equal(t, jobs.StateRetrying, stateOf(t, s, "a.job", id))
}

func TestARescuedJobWaitsAsAfterAFailure(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.Timeout(time.Minute), jobs.RetryDelay(time.Hour)))
	ids := []string{abandoned(t, s, "a.job", 1, ""), abandoned(t, s, "a.job", 2, "")}
	const due = `, scheduled_at = now() - interval '10 minutes'`
	failed := abandoned(t, s, "a.job", 3, due)
	require.NoError(t, s.Rescue(t.Context()))
	for i, id := range ids {
		require.WithinDuration(t, time.Now().Add(time.Duration(i+1)*time.Hour), runOf(t, s, "a.job", id).DueAt, 5*time.Minute)
	}
	run := runOf(t, s, "a.job", failed)
	require.Equal(t, jobs.StateFailed, run.State)
	require.WithinDuration(t, time.Now().Add(-10*time.Minute), run.DueAt, 5*time.Minute)
}
