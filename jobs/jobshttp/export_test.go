package jobshttp

import (
	"time"

	"github.com/everytick/everytick/jobs"
)

// Exported for the tests.
var (
	Words    = words
	Relative = relative
	Took     = took
	Count    = count
)

// Routes returns the method and pattern of every route, in the order of the package
// documentation.
func Routes() (all [][2]string) {
	for _, rt := range routes {
		all = append(all, [2]string{rt.method, rt.pattern})
	}
	return all
}

// CallTimeout bounds a call of the scheduler.
const CallTimeout time.Duration = callTimeout

// MaxBody is the largest request body.
const MaxBody = maxBody

// MaxErrors and MaxRunsBytes bound the errors of a run, and a list of runs.
const (
	MaxErrors    = maxErrors
	MaxRunsBytes = maxRunsBytes
)

// JSON returns the JSON form of a value of package jobs.
func JSON(v any) any {
	switch v := v.(type) {
	case jobs.Health:
		return healthOf(v)
	case jobs.Status:
		return statusOf(v)
	case jobs.Run:
		return runOf(v)
	case jobs.Activity:
		return activityOf(v)
	case jobs.Process:
		return processOf(v)
	}
	return nil
}
