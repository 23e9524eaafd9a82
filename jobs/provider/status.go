package provider

import (
	"fmt"
	"math"
	"time"

	"github.com/everytick/everytick/jobs"
)

// SkippedPaused is the reason of a tick that came due while its job was paused.
const SkippedPaused = "skipped: the job is paused"

// NewActivity returns an answer without counts for [jobs.ActivityReporter] at now, or
// [jobs.ErrInvalidOption]. Providers fill it by [AddEnded].
func NewActivity(now time.Time, step time.Duration, n int) (jobs.Activity, error) {
	if step < time.Second || n < 1 || n > 1440 || step > math.MaxInt64/time.Duration(n) {
		return jobs.Activity{}, invalidOption("Activity: %d steps of %s: must be 1 to 1,440 steps of at least 1s", n, step)
	}
	start := now.UTC().Truncate(step).Add(-time.Duration(n-1) * step)
	return jobs.Activity{Start: start, Step: step, CompleteSince: start, Jobs: map[string][]jobs.Outcomes{}}, nil
}

// AddEnded counts n jobs of that name that ended at a time in the i-th of the steps of a, from 0, in
// the given state. What lies outside of the steps is not counted.
func AddEnded(a jobs.Activity, name string, i, steps int, state jobs.State, n int) {
	if i < 0 || i >= steps {
		return
	}
	if a.Jobs[name] == nil {
		a.Jobs[name] = make([]jobs.Outcomes, steps)
	}
	switch o := &a.Jobs[name][i]; state {
	case jobs.StateCompleted:
		o.Completed += n
	case jobs.StateFailed:
		o.Failed += n
	default:
		o.Other += n
	}
}

// CheckRunLimit returns [jobs.ErrInvalidOption] for a limit that [jobs.RunLister] refuses.
func CheckRunLimit(limit int) error {
	if limit < 1 || limit > 1000 {
		return invalidOption("Runs: limit %d: must be 1 to 1,000", limit)
	}
	return nil
}

// overdueGrace is how long a schedule may be overdue before that is unhealthy.
const overdueGrace = time.Minute

// OverdueReasons names the schedules whose next tick is more than a minute late, for
// [jobs.Health].Reasons.
func OverdueReasons(all []jobs.Status) (reasons []jobs.Reason) {
	for _, st := range all {
		if st.OverdueBy > overdueGrace {
			text := fmt.Sprintf("is overdue by %s", st.OverdueBy.Round(time.Second))
			if st.OverdueReason != "" {
				text += ": " + st.OverdueReason
			}
			reasons = append(reasons, jobs.Reason{Job: st.Name, Text: text})
		}
	}
	return reasons
}
