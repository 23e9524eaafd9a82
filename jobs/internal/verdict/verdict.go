// Package verdict defines the errors with which a handler decides whether and when it is retried. Package jobs creates
// them, and jobs/provider acts on them.
package verdict

import (
	"fmt"
	"time"
)

// Permanent is an error that is not retried.
type Permanent struct{ Err error }

func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap returns the handler's error.
func (e *Permanent) Unwrap() error { return e.Err }

// RetryAfter is an error after which the next attempt starts after the delay After.
type RetryAfter struct {
	After time.Duration
	Err   error
}

func (e *RetryAfter) Error() string {
	return fmt.Sprintf("%s (retry after %s)", e.Err, e.After)
}

// Unwrap returns the handler's error.
func (e *RetryAfter) Unwrap() error { return e.Err }

// Snooze is an error that is no failure: the run starts again after the delay After, and no attempt is used up.
type Snooze struct {
	After  time.Duration
	Reason string
}

func (e *Snooze) Error() string {
	return fmt.Sprintf("snoozed for %s: %s", e.After, e.Reason)
}

// Sound returns the result of ask, or false if ask panics. ask calls methods of a handler's error, which may do so.
func Sound(ask func() bool) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return ask()
}
