package schedule

import (
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// A view is how a process looks at the row of one of its schedules.
type view struct {
	spec     string    // of the process's own registration
	by       string    // hash of all its registrations
	at       time.Time // its start
	starting bool
	// live has the registrations of all processes that live.
	live map[string]bool
}

// decide returns what the row of a schedule should be, and whether it has to be written. The row is nil if there
// is none; next returns the first tick after now, as a new row has it.
//
// Of processes with different schedules the one that started last has its way. The others leave the row alone as
// long as a process with its registrations lives. A claim is always of the claimer's own start, so that a newer
// process which was only cut off sees an older claim when it returns, and claims the row again.
func (v view) decide(row *store.Claim, next func() time.Time) (claim store.Claim, write bool) {
	switch {
	case row == nil:
		return store.Claim{Spec: v.spec, By: v.by, At: v.at, Next: next()}, true
	case row.Spec == v.spec:
		// It stays as it is: a next tick in the past is an outage to catch up on.
		newer := row.At.Before(v.at) && (v.starting || row.By != v.by)
		if newer || row.By != v.by && !v.live[row.By] {
			return store.Claim{Spec: v.spec, By: v.by, At: v.at, Next: row.Next}, true
		}
		return *row, false
	case v.starting, row.At.Before(v.at), !v.live[row.By]:
		// There is no catch-up for the time before.
		return store.Claim{Spec: v.spec, By: v.by, At: v.at, Next: next()}, true
	default:
		return *row, false
	}
}
