package jobshttp

import (
	"time"

	"github.com/everytick/everytick/jobs"
)

// What the tests look at from inside.
var (
	Words    = words
	Relative = relative
	Took     = took
	Count    = count
)

// Routes returns the method and the pattern of every route, as the package
// documentation lists them.
func Routes() (all [][2]string) {
	for _, rt := range routes {
		all = append(all, [2]string{rt.method, rt.pattern})
	}
	return all
}

// CallTimeout is how long a call of the scheduler may take.
const CallTimeout time.Duration = callTimeout

// MaxBody is the largest request body.
const MaxBody = maxBody

// JSON returns what is encoded for a value of package jobs.
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
	}
	return nil
}
