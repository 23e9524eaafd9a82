package river_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// A success is kept in the schedule's row, and one that is not there yet is found in the rows of the latest jobs.
func TestPrevSuccess_SurvivesRestartsAndDeletedJobs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran := make(chan jobs.Job, 100)
	var covered time.Time
	follow := func() {
		job := receive(t, ran)
		require.Equal(t, covered, job.PrevSuccess)
		covered = job.Tick
	}
	for range 3 {
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran), jobs.Concurrency(1)))
		require.NoError(t, s.Start(t.Context()))
		follow()
		follow()
		require.NoError(t, shutdown(s))
		for len(ran) > 0 {
			follow()
		}
		execSQL(t, pool, `DELETE FROM river.river_job`)
	}
}

// Another process has run the previous tick, and has not stored its success in the schedule's row.
func TestPrevSuccess_SeesSuccessesOfOtherProcesses(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran := make(chan jobs.Job, 100)
	for range 3 {
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran), jobs.Concurrency(1)))
		require.NoError(t, s.Start(t.Context()))
	}
	var covered time.Time
	for range 8 {
		job := receive(t, ran)
		require.Equal(t, covered, job.PrevSuccess)
		covered = job.Tick
	}
}
