package river

import (
	"context"
	"fmt"
	"time"

	"github.com/everytick/everytick/jobs"
)

const (
	// abandonedAfter is how long runs wait before they count as abandoned, unless their process has died. A rolling
	// deployment may need some seconds until a process runs that has registered a new job.
	abandonedAfter = time.Minute
	// abandonedJobs is how many jobs Health lists at most as abandoned.
	abandonedJobs = 20
)

// abandoned returns a reason for each job with waiting runs, or runs of a dead process, that no live process has
// registered: one that was removed or renamed, or whose processes are all down. Processes pass over such runs without a
// word. Jobs that this scheduler has
// registered are left out: if they wait, Health has another reason.
func (s *Scheduler) abandoned(ctx context.Context) (reasons []jobs.Reason, err error) {
	known := namesOf(s.reg.Jobs())
	found, err := s.store.Abandoned(ctx, s.pool, abandonedAfter, s.cfg.DeadAfter, countedRows, abandonedJobs, known)
	for _, a := range found {
		n := jobs.Count{N: a.N, AtLeast: a.N >= countedRows}
		due := time.Duration(a.Due * float64(time.Second)).Round(time.Second)
		reasons = append(reasons, jobs.Reason{Job: a.Name, Text: fmt.Sprintf(
			"is registered by no live process, and runs of it wait (%s, due for %s)", n, due)})
	}
	return reasons, err
}
