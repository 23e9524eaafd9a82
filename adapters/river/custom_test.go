package river_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// secondly ticks every second. While block is set, it waits.
type secondly struct {
	text  string
	block *atomic.Pointer[chan struct{}]
}

func (s secondly) Next(t time.Time) time.Time {
	if block := s.block.Load(); block != nil {
		<-*block
	}
	return t.Truncate(time.Second).Add(time.Second)
}

func (s secondly) String() string { return s.text }

func TestRegisterSchedule_OneThatBlocksStopsNoOther(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	stuck := secondly{"stuck", new(atomic.Pointer[chan struct{}])}
	ran, others := make(chan jobs.Job, 1000), make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterSchedule("a.stuck", stuck, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.other", time.Second, forward(others)))
	require.NoError(t, s.Start(t.Context()))
	receive(t, ran)
	block := make(chan struct{})
	stuck.block.Store(&block)
	eventually(t, "the schedule stands still", func() bool {
		st := statusOf(t, s, "a.stuck")
		return st.OverdueBy > 2*time.Second && st.OverdueReason != ""
	})
	require.Contains(t, statusOf(t, s, "a.stuck").OverdueReason, "its schedule has a bug: ")
	for len(others) > 0 {
		<-others
	}
	for range 3 {
		job := receive(t, others)
		require.Less(t, job.Late(), 2*time.Second)
	}
	for len(ran) > 0 {
		<-ran
	}
	stuck.block.Store(nil)
	close(block)
	require.Positive(t, receive(t, ran).Missed)
}

// The row of a schedule has its text. A new text makes it another schedule: the newest start wins, and nothing is
// caught up on.
func TestRegisterSchedule_TheTextIdentifiesTheSchedule(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran := make(chan jobs.Job, 10)
	last := lastTick(time.Hour)
	for _, test := range []struct {
		text     string
		catchUp  bool
		accepted int
	}{{"on even hours", false, 0}, {"on even hours", true, 0}, {"on odd hours", false, 1}} {
		s := newScheduler(t, pool, river.Config{})
		hourly, err := jobs.Every(time.Hour)
		require.NoError(t, err)
		require.NoError(t, s.RegisterSchedule("a.tick", jobs.Only(hourly, test.text, func(t time.Time) bool { return t.Hour()%2 == test.accepted }), forward(ran)))
		require.NoError(t, s.Start(t.Context()))
		require.Equal(t, "schedule every 1h0m0s "+test.text, scalar[string](t, pool, `SELECT spec FROM river.everytick_schedule`))
		if test.catchUp {
			require.Zero(t, receive(t, ran).Tick.Hour()%2)
		}
		require.NoError(t, shutdown(s))
		require.Empty(t, ran)
		require.Equal(t, test.accepted, nextOf(t, pool, "a.tick").Hour()%2)
		setNext(t, pool, "a.tick", last.Truncate(2*time.Hour)) // an outage
	}
}
