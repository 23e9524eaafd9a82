package river_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestSnooze_IsLoggedAsWhatItIs(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return jobs.Snooze(time.Hour, "not yet") }))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "the run is snoozed", func() bool { return runOf(t, s, "a.job", id).Snoozes == 1 })
	require.Contains(t, logged.String(), `level=INFO msg="job snoozed" job=a.job job_id=`+id+` attempt=1 starts_in=1h0m0s reason="not yet"`)
	require.NotContains(t, logged.String(), "level=WARN")
	require.NotContains(t, logged.String(), "level=ERROR")
}

// What the package itself postpones is no snooze of the handler, although River counts both.
func TestSnooze_CountsOnlyThoseOfTheHandler(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	execSQL(t, pool, `UPDATE river.river_job SET metadata = '{"snoozes": 4}'`) // as after four moves
	require.NoError(t, s.Start(t.Context()))
	require.Zero(t, receive(t, ran).Snoozes)
	require.Zero(t, runOf(t, s, "a.job", id).Snoozes)
}
