package jobshttp

import "time"

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
