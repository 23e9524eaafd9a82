package jobs

import (
	"context"
	"fmt"
)

// A Middleware wraps the handler of a job, for example to trace, measure or guard it. It is called once per
// registration, and the handler it returns once per attempt. What that handler returns is the result of the attempt.
// The inner handler never panics: it returns a [*PanicError] instead, and its error texts have passed through
// [Redact]. [Job.Retries] reports whether the run starts again, and [Snoozed] whether it was snoozed.
type Middleware func(Handler) Handler

// Use wraps a job's handler in middleware, the first outermost. Several Use options add up. In a provider's
// Config.Defaults they wrap every job, outside the job's own middleware. Defaults to none.
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

// Enqueue inserts requests, all for the same job, and sets their IDs.
type Enqueue func(ctx context.Context, reqs []*Request) error

// A TriggerMiddleware wraps the insertion of triggered jobs. It is called with one request by Trigger and TriggerTx,
// and with all requests at once by TriggerMany and TriggerBulk. It may set [Request.Metadata], which the run gets as
// [Job.Metadata] in whatever process it runs, and it may return an error to refuse the trigger. It must change nothing
// else. Ticks do not pass through it.
type TriggerMiddleware func(next Enqueue) Enqueue

// UseTrigger wraps the triggers of a job in middleware, the first outermost, as [Use] does for its runs. Defaults to
// none.
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
	Value any    // the argument of panic
	Stack string // the goroutine's stack, starting at the function that panicked
}

// Error returns "panic: " and the value, without the stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Redact passes the text of errors and panic values through redact before they are stored, logged or seen by
// middleware, to keep secrets and personal data out. redact must be fast and safe for concurrent use. If it panics,
// the whole text is omitted. Messages that handlers log themselves are not redacted. Defaults to none.
func Redact(redact func(text string) string) Option {
	return option(func(s *settings) error {
		if redact == nil {
			return invalidOption("Redact: the function is nil")
		}
		s.Redact = redact
		return nil
	})
}
