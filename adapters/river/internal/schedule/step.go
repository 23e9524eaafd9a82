package schedule

import (
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// planned returns what becomes of a row at now.
func planned(s jobs.Schedule, catchUp jobs.CatchUpPolicy, row store.Schedule, now time.Time) provider.Advance {
	return provider.Plan(s, provider.Policy{CatchUp: catchUp, Paused: row.Paused}, provider.Row{
		Next: row.Next, Last: row.Last.At, LastMissed: row.Last.Missed, LastJob: row.Progress,
	}, now)
}

// Step returns the row after an advance.
func Step(row store.Schedule, a provider.Advance) store.Schedule {
	for _, tick := range []store.Tick{row.Last, row.Prev} {
		if tick.State == jobs.StateCompleted && tick.At.After(row.LastSuccess) {
			row.LastSuccess = tick.At
		}
	}
	row.Next = a.Next
	switch a.Action {
	case provider.Insert:
		row.Prev, row.Last = row.Last, store.Tick{At: a.Tick, Missed: a.Missed}
	case provider.Fold:
		row.Last.At, row.Last.Missed = a.Tick, a.Missed
	case provider.Skip:
		row.Skipped = store.Tick{At: a.Tick, Missed: a.Missed, State: jobs.StateSkipped}
	default:
	}
	return row
}
