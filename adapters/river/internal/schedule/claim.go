package schedule

import (
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// A View is how a process looks at the row of one of its schedules.
type View struct {
	Spec     string    // of the process's own registration
	By       string    // hash of all its registrations
	At       time.Time // its start
	Starting bool
	// Live has the registrations of all processes that live.
	Live map[string]bool
}

// Decide returns what the row of a schedule should be, and whether it has to be written. The row is nil if there
// is none; next returns the first tick after now, as a new row has it.
//
// Of processes with different schedules the one that started last has its way. The others leave the row alone as
// long as a process with its registrations lives. A claim is always of the claimer's own start, so that a newer
// process which was only cut off sees an older claim when it returns, and claims the row again.
func (v View) Decide(row *store.Claim, next func() time.Time) (claim store.Claim, write bool) {
	switch {
	case row == nil:
		return store.Claim{Spec: v.Spec, By: v.By, At: v.At, Next: next()}, true
	case row.Spec == v.Spec:
		// It stays as it is: a next tick in the past is an outage to catch up on.
		newer := row.At.Before(v.At) && (v.Starting || row.By != v.By)
		if newer || row.By != v.By && !v.Live[row.By] {
			return store.Claim{Spec: v.Spec, By: v.By, At: v.At, Next: row.Next}, true
		}
		return *row, false
	case v.Starting, row.At.Before(v.At), !v.Live[row.By]:
		// There is no catch-up for the time before.
		return store.Claim{Spec: v.Spec, By: v.By, At: v.At, Next: next()}, true
	default:
		return *row, false
	}
}
