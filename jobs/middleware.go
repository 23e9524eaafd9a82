package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
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
	return option(func(d *Definition) error {
		for i, m := range middleware {
			if m == nil {
				return invalidOption("Use: middleware %d of %d is nil", i+1, len(middleware))
			}
		}
		d.middleware = append(d.middleware, middleware...)
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
	return option(func(d *Definition) error {
		for i, m := range middleware {
			if m == nil {
				return invalidOption("UseTrigger: middleware %d of %d is nil", i+1, len(middleware))
			}
		}
		d.triggerMiddleware = append(d.triggerMiddleware, middleware...)
		return nil
	})
}

// Redact passes the text of errors and of panic values through redact before they
// are stored, logged or seen by middleware, to keep secrets and personal data out of
// them. It must be quick, and safe for several goroutines; should it panic, the whole
// text is left out. What handlers log themselves does not pass through it. Defaults
// to none.
func Redact(redact func(text string) string) Option {
	return option(func(d *Definition) error {
		if redact == nil {
			return invalidOption("Redact: the function is nil")
		}
		d.redact = redact
		return nil
	})
}

// Enqueue runs store inside the job's [TriggerMiddleware]. Providers store triggered
// jobs through it. It is an error when middleware neither stores nor refuses.
func (d *Definition) Enqueue(ctx context.Context, reqs []*Request, store Enqueue) error {
	if len(d.triggerMiddleware) == 0 || len(reqs) == 0 {
		return store(ctx, reqs)
	}
	next := func(ctx context.Context, reqs []*Request) error {
		for _, req := range reqs {
			if err := req.checkMetadata(); err != nil {
				return err
			}
			if len(req.Metadata) == 0 {
				req.Metadata = nil
			}
		}
		return store(ctx, reqs)
	}
	for i := len(d.triggerMiddleware) - 1; i >= 0; i-- {
		if next = d.triggerMiddleware[i](next); next == nil {
			return fmt.Errorf("jobs: trigger middleware %d of %d of %q returns nil", i+1, len(d.triggerMiddleware), d.Name)
		}
	}
	if err := next(ctx, reqs); err != nil {
		return err
	}
	for _, req := range reqs {
		if req.ID == "" {
			return fmt.Errorf("jobs: the trigger middleware of %q has neither enqueued the job nor refused it", d.Name)
		}
	}
	return nil
}

func (r *Request) checkMetadata() error {
	for key, value := range r.Metadata {
		if !utf8.ValidString(key) || !utf8.ValidString(value) || strings.ContainsRune(key+value, 0) {
			return fmt.Errorf("%w for %q: metadata %q is not UTF-8 without U+0000", ErrInvalidData, r.Job.Name, key)
		}
	}
	return nil
}

// wrap puts the handler inside its middleware, each guarded, so that those outside of it
// may rely on that.
func (d *Definition) wrap() error {
	d.run = d.guard(d.Handler)
	for i := len(d.middleware) - 1; i >= 0; i-- {
		outer, err := d.middleware[i].around(d.run)
		if err != nil {
			return invalidOption("Use: middleware %d of %d %s", i+1, len(d.middleware), err)
		}
		d.run = d.guard(outer)
	}
	return nil
}

func (m Middleware) around(h Handler) (outer Handler, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panics: %v", v)
		}
	}()
	if outer = m(h); outer == nil {
		err = errors.New("returns a nil handler")
	}
	return outer, err
}

// guard makes an error of a panic, and redacts.
func (d *Definition) guard(h Handler) Handler {
	return func(ctx context.Context, job *Job) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = d.redactPanic(&PanicError{Value: v, Stack: stack()})
			}
		}()
		return d.redactError(h(ctx, job))
	}
}

func (d *Definition) redactError(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error() // may panic, and had better do so here
	if d.redact == nil {
		return err
	}
	if clean := d.redactText(text); clean != text {
		return &redactedError{err, clean}
	}
	return err
}

func (d *Definition) redactPanic(p *PanicError) *PanicError {
	if d.redact != nil {
		p.Value = d.redactText(fmt.Sprint(p.Value))
	}
	return p
}

func (d *Definition) redactText(text string) (clean string) {
	defer func() {
		if recover() != nil {
			clean = "(left out: the Redact function panicked)"
		}
	}()
	return d.redact(text)
}

// redactedError shows another text than the error it stands for.
type redactedError struct {
	err  error
	text string
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }
