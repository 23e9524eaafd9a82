package jobs

import (
	"context"
	"fmt"
)

// A Middleware wraps the handler of a job, to trace, measure or guard its runs. It
// is called once for each registration, the handler it returns once for each
// attempt. What the inner handler returns is what the attempt comes to: a panic is a
// [*PanicError] already, and error texts have been through [Redact]. Whether a retry
// follows tells [Job.Retries].
type Middleware func(Handler) Handler

// Use wraps a job's handler in middleware, the first outermost. Those of several
// Use add up; in a provider's Config.Defaults they wrap every job, and stand outside
// those of the job itself. Defaults to none.
func Use(middleware ...Middleware) Option {
	return option(func(s *settings) error {
		for i, m := range middleware {
			if m == nil {
				return invalidOption("Use: middleware %d of %d is nil", i+1, len(middleware))
			}
		}
		s.Use = append(s.Use, middleware...)
		return nil
	})
}

// Enqueue stores requests, all of one job, and sets their IDs.
type Enqueue func(ctx context.Context, reqs []*Request) error

// A TriggerMiddleware wraps the enqueueing of triggered jobs: Trigger and TriggerTx
// with one request, TriggerMany with several. It may set [Request.Metadata], which
// the run finds in [Job.Metadata] in whatever process that is, and refuse by an
// error; it changes nothing else. Ticks do not pass through it.
type TriggerMiddleware func(next Enqueue) Enqueue

// UseTrigger wraps the triggers of a job in middleware, the first outermost, in the
// way [Use] does for its runs. Defaults to none.
func UseTrigger(middleware ...TriggerMiddleware) Option {
	return option(func(s *settings) error {
		for i, m := range middleware {
			if m == nil {
				return invalidOption("UseTrigger: middleware %d of %d is nil", i+1, len(middleware))
			}
		}
		s.UseTrigger = append(s.UseTrigger, middleware...)
		return nil
	})
}

// PanicError is the error of an attempt whose handler panicked.
type PanicError struct {
	Value any    // what was given to panic
	Stack string // the goroutine's stack, beginning with the panicking function
}

// Error tells the value. The stack is not part of it.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Redact passes the text of errors and of panic values through redact before they
// are stored, logged or seen by middleware, to keep secrets and personal data out of
// them. It must be quick, and safe for several goroutines; should it panic, the whole
// text is left out. What handlers log themselves does not pass through it. Defaults
// to none.
func Redact(redact func(text string) string) Option {
	return option(func(s *settings) error {
		if redact == nil {
			return invalidOption("Redact: the function is nil")
		}
		s.Redact = redact
		return nil
	})
}
