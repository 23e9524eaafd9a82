package schedule

import (
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// A Standing is the state of a schedule as [jobs.Status] reports it.
type Standing struct {
	Prev      store.Tick // the latest tick that has started or was skipped
	Next      time.Time  // the tick that runs next
	OverdueBy time.Duration
	// Inserted reports whether the overdue tick has been inserted, and its job waits.
	Inserted bool
	// Ahead reports whether the next tick is later than the schedule's: the database's clock was set back.
	Ahead bool
	// Stalled is what the code of the schedule does wrong, or nil. Its ticks wait.
	Stalled error
}

// Stands returns the state of a schedule with that row at now.
func Stands(s jobs.Schedule, spec string, row store.Standing, paused bool, now time.Time) Standing {
	st := Standing{Prev: row.Last, Next: row.Next, Inserted: row.Progress == provider.Waiting && !paused}
	if row.Progress == provider.Waiting {
		st.Prev = row.Prev
	}
	if row.Skipped.At.After(st.Prev.At) {
		st.Prev = row.Skipped
		st.Prev.State = jobs.StateSkipped
	}
	switch {
	case st.Inserted:
		// It is overdue since the first tick that it stands for.
		st.Next, st.OverdueBy = row.Last.At, max(0, now.Sub(row.LastDue))
	case !row.Next.IsZero() && !paused:
		st.OverdueBy = max(0, now.Sub(row.Next))
	}
	expected, err := provider.CheckedNext(s, now)
	if err == nil && st.OverdueBy > 0 && !st.Inserted {
		_, err = provider.CheckedNext(s, row.Next)
	}
	st.Stalled = err
	st.Ahead = row.Spec == spec && !expected.IsZero() && row.Next.After(expected)
	return st
}
