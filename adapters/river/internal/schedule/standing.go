package schedule

import (
	"fmt"
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Here is what this process knows about running a job.
type Here struct {
	// Stopped is why the process runs no jobs, or "".
	Stopped string
	// Workers is how many workers the job's queue has, of which Taken run a job.
	Workers, Taken int
}

// startsWithin is how late a tick starts at most if a worker is free: at the next poll.
const startsWithin = 2 * time.Second

// Describe fills in the fields of a job's status at now that come from the row of its schedule. row is nil if there is
// none. PausedSince is set already.
func Describe(st *jobs.Status, d *provider.Definition, row *store.Standing, here Here, now time.Time) {
	expected, bug := provider.CheckedNext(d.Schedule, now)
	if row == nil {
		if st.NextTick = expected; bug != nil {
			st.OverdueReason = buggy(bug)
		} else if here.Stopped == "" {
			st.OverdueReason = "its row is missing and will be written again within seconds"
		}
		return
	}
	prev, paused := row.Last, !st.PausedSince.IsZero()
	if row.Progress == provider.Waiting {
		prev = row.Prev
	}
	if row.Skipped.At.After(prev.At) {
		prev = row.Skipped
		prev.State = jobs.StateSkipped
	}
	st.PrevTick, st.PrevState, st.Missed = prev.At, prev.State, prev.Missed
	st.LastSuccess, st.NextTick = row.LastSuccess, row.Next
	inserted := row.Progress == provider.Waiting && !paused
	switch {
	case inserted:
		// It is overdue since the first tick that it stands for.
		st.NextTick, st.OverdueBy = row.Last.At, max(0, now.Sub(row.LastDue))
	case !row.Next.IsZero() && !paused:
		if st.OverdueBy = max(0, now.Sub(row.Next)); st.OverdueBy > 0 && bug == nil {
			_, bug = provider.CheckedNext(d.Schedule, row.Next)
		}
	}
	switch {
	case bug != nil:
		st.OverdueReason = buggy(bug)
	case st.OverdueBy > 0:
		st.OverdueReason = overdue(d, row, here, inserted, st.OverdueBy)
	case row.Spec == d.Spec() && !expected.IsZero() && row.Next.After(expected):
		st.OverdueReason = "its next tick is later than its schedule says: the database's clock was set back, and the ticks until then have been inserted"
	}
}

// buggy returns why the ticks of a schedule whose code fails wait.
func buggy(err error) string { return "its schedule has a bug: " + err.Error() }

// overdue returns why a tick that has been due for that long has not started, as far as this process knows.
func overdue(d *provider.Definition, row *store.Standing, here Here, inserted bool, by time.Duration) string {
	const taken = " are taken, %d in this process, and no other process has one free"
	busy := here.Taken >= here.Workers
	switch {
	case here.Stopped != "":
		return "this scheduler is " + here.Stopped + ", and no other process has taken it: none that registers it is running, or all are busy"
	case !inserted && d.CatchUp == jobs.CatchUpAll && row.Progress != provider.Over:
		return "the run of the previous tick has not ended"
	case busy && d.Concurrency > 0:
		return fmt.Sprintf("all worker slots of the job"+taken, here.Workers)
	case busy && d.Transactional:
		return fmt.Sprintf("all worker slots of transactional jobs"+taken, here.Workers)
	case busy:
		return fmt.Sprintf("all workers"+taken, here.Workers)
	case by < startsWithin:
		return "it is about to start"
	case !inserted && row.Spec != d.Spec():
		return "a process that was started later has registered another schedule for it: " + row.Spec
	case !inserted:
		return "it has not been inserted; see the log"
	default:
		return "no worker has taken it, though some are free; see the log"
	}
}
