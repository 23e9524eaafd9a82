package provider

import (
	"fmt"
	"math"
	"time"

	"github.com/everytick/everytick/jobs"
)

// SkippedPaused is the reason for skipping a tick that came due while its job was paused.
const SkippedPaused = "skipped: the job is paused"

// NewActivity returns an empty result for [jobs.ActivityReporter] at now, or [jobs.ErrInvalidOption] if step or n is
// out of range. Providers fill it with [AddEnded].
func NewActivity(now time.Time, step time.Duration, n int) (jobs.Activity, error) {
	if step < time.Second || n < 1 || n > 1440 || step > math.MaxInt64/time.Duration(n) {
		return jobs.Activity{}, invalidOption("Activity: %d steps of %s: must be 1 to 1,440 steps of at least 1s", n, step)
	}
	start := now.UTC().Truncate(step).Add(-time.Duration(n-1) * step)
	return jobs.Activity{Start: start, Step: step, CompleteSince: start, Jobs: map[string][]jobs.Outcomes{}}, nil
}

// AddEnded adds n runs of the named job that ended in the given state to step i of a, which starts at 0. steps is how
// many steps there are. It does nothing if i is outside of them.
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

// CheckRunLimit returns [jobs.ErrInvalidOption] if limit is not allowed by [jobs.RunLister].
func CheckRunLimit(limit int) error {
	if limit < 1 || limit > 1000 {
		return invalidOption("Runs: limit %d: must be 1 to 1,000", limit)
	}
	return nil
}

// overdueGrace is how long a schedule may be overdue before it counts as unhealthy.
const overdueGrace = time.Minute

// OverdueReasons returns a reason for [jobs.Health] for each schedule that is overdue by more than a minute.
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

// Options returns the options of the job for its status.
func (d *Definition) Options() jobs.JobOptions {
	return jobs.JobOptions{
		MaxAttempts: d.MaxAttempts, RetryDelay: d.RetryDelay, Timeout: d.Timeout, Priority: d.Priority,
		Concurrency: d.Concurrency, CatchUp: d.CatchUp, Overlap: d.Overlap, StartWithin: d.StartWithin,
		Transactional: d.Transactional,
	}
}
