package river_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// A process whose heartbeat was cut off for long enough is taken for dead by others. It may then fetch a run that they
// have rescued while its own handler for that run still executes.
func TestScheduler_NeverCallsAHandlerBesideItself(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	attempts, release := make(chan int, 10), make(chan struct{}, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(_ context.Context, job *jobs.Job) error {
		attempts <- job.Attempt
		<-release
		return nil
	}))
	t.Cleanup(func() { close(release) })
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, 1, receive(t, attempts))

	execSQL(t, pool, `UPDATE river.river_job SET state = 'available', scheduled_at = now(),
		errors = array_append(errors, '{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "rescued", "trace": ""}')`)
	eventually(t, "the rescued run is postponed", func() bool {
		return scalar[int](t, pool, `SELECT coalesce((metadata->>'snoozes')::int, 0) FROM river.river_job`) > 0
	})
	require.Empty(t, attempts, "calls beside the first")
	require.Equal(t, 1, runOf(t, s, "a.job", id).Attempt, "attempts used")
	require.True(t, logsContain(logged, "the handler is still running in this process for an earlier attempt"))

	release <- struct{}{}
	require.Equal(t, 2, receive(t, attempts), "the second attempt, once the first has returned")
	release <- struct{}{}
	eventually(t, "the run is completed", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateCompleted })
}

func TestOverlapSkip_SeesAHandlerWhoseRunHasNoRow(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran, release := make(chan jobs.Job, 100), make(chan struct{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, func(_ context.Context, job *jobs.Job) error {
		ran <- *job
		<-release
		return nil
	}, jobs.Overlap(jobs.OverlapSkip)))
	t.Cleanup(func() { close(release) })
	require.NoError(t, s.Start(t.Context()))
	first := receive(t, ran)
	execSQL(t, pool, `DELETE FROM river.river_job WHERE id = $1::text::bigint`, first.ID)
	eventually(t, "two later ticks are skipped", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE metadata ? 'everytick_skipped'`) >= 2
	})
	require.Empty(t, ran, "runs beside the first")
}
