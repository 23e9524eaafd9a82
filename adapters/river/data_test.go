package river_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// The version that started last decides about the data of ticks, whichever process inserts them.
func TestData_IsThatOfTheVersionThatStartedLast(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran := make(chan jobs.Job, 1000)
	start := func(version int) *river.Scheduler {
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran), jobs.Data(map[string]int{"version": version})))
		require.NoError(t, s.Start(t.Context()))
		return s
	}
	// follows requires that three ticks in a row have that data, once processes have looked at the row, every 2 s.
	follows := func(version int) {
		t.Helper()
		since := time.Now()
		for right := 0; right < 3; {
			job := receive(t, ran)
			var data map[string]int
			require.NoError(t, job.Decode(&data))
			if data["version"] == version {
				right++
				continue
			}
			require.Less(t, job.Tick.Sub(since), 10*time.Second, "tick %v has the data of version %d", job.Tick, data["version"])
			require.Zero(t, right, "tick %v has the data of version %d after others had that of %d", job.Tick, data["version"], version)
		}
	}
	_ = start(1)
	follows(1)
	second := start(2)
	follows(2)
	require.NoError(t, shutdown(second)) // a rollback
	follows(1)
}
