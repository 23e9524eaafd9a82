// Package verdict has the errors with which a handler decides whether and when its job is retried. Package jobs makes
// them, and jobs/provider obeys them.
package verdict

import (
	"fmt"
	"time"
)

// Permanent is the error of an attempt after which there is no other.
type Permanent struct{ Err error }

func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap returns what the handler returned.
func (e *Permanent) Unwrap() error { return e.Err }

// RetryAfter is the error of an attempt after which the next one starts in the time After.
type RetryAfter struct {
	After time.Duration
	Err   error
}

func (e *RetryAfter) Error() string {
	return fmt.Sprintf("%s (retry after %s)", e.Err, e.After)
}

// Unwrap returns what the handler returned.
func (e *RetryAfter) Unwrap() error { return e.Err }

// Sound returns what ask returns, or false if it panics. ask calls methods of an error that a handler returned.
func Sound(ask func() bool) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return ask()
}
