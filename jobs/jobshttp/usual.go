package jobshttp

import (
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
)

// usual says how long the latest runs of a job took and how long they waited.
type usual struct {
	N          int // runs that completed
	Half, Most string
	Waits      int // attempts that started
	WaitHalf   string
	WaitMost   string
}

// usualRuns is the number of latest runs whose durations are shown.
const usualRuns = 200

// newUsual returns the durations of the completed runs and the waits of all that have started.
func newUsual(runs []jobs.Run) *usual {
	var durations, waits []time.Duration
	for _, x := range runs {
		if x.State == jobs.StateCompleted && !x.StartedAt.IsZero() && !x.EndedAt.Before(x.StartedAt) {
			durations = append(durations, x.EndedAt.Sub(x.StartedAt))
		}
		if wait := waited(x); wait >= 0 && x.State != jobs.StateSkipped {
			waits = append(waits, wait)
		}
	}
	u := &usual{N: len(durations), Waits: len(waits)}
	if u.N > 0 {
		u.Half, u.Most = took(percentile(durations, 50)), took(percentile(durations, 95))
	}
	if u.Waits > 0 {
		u.WaitHalf, u.WaitMost = took(percentile(waits, 50)), took(percentile(waits, 95))
	}
	return u
}

// percentile returns the least of all that at least p percent of them do not exceed. It sorts them.
func percentile(all []time.Duration, p int) time.Duration {
	slices.Sort(all)
	return all[max(0, (len(all)*p+99)/100-1)]
}
