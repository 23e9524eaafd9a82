package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/verdict"
)

// Enqueue calls store wrapped in the job's [jobs.TriggerMiddleware]. Providers store triggered jobs through it. It
// returns the error of the middleware or of store, and an error if the middleware returns nil without calling store.
// Metadata that is not UTF-8 or contains U+0000 is [jobs.ErrInvalidData].
func (d *Definition) Enqueue(ctx context.Context, reqs []*jobs.Request, store jobs.Enqueue) error {
	if len(d.triggerMiddleware) == 0 || len(reqs) == 0 {
		return store(ctx, reqs)
	}
	next := func(ctx context.Context, passed []*jobs.Request) error {
		if !slices.Equal(passed, reqs) {
			return fmt.Errorf("jobs: trigger middleware of %q has changed the requests: it must pass on all, and only those", d.Name)
		}
		for _, req := range reqs {
			if err := checkMetadata(req); err != nil {
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
			return fmt.Errorf("jobs: trigger middleware %d of %d of %q returned nil", i+1, len(d.triggerMiddleware), d.Name)
		}
	}
	if err := next(ctx, reqs); err != nil {
		return err
	}
	for _, req := range reqs {
		if req.ID == "" {
			return fmt.Errorf("jobs: trigger middleware of %q has neither inserted nor refused the job", d.Name)
		}
	}
	return nil
}

func checkMetadata(r *jobs.Request) error {
	size := 0
	for key, value := range r.Metadata {
		if size += len(key) + len(value); size >= jobs.MaxDataBytes {
			return fmt.Errorf("%w for %q: metadata of %d bytes or more, must be fewer than %d", jobs.ErrInvalidData, r.Name, size, jobs.MaxDataBytes)
		}
		if !utf8.ValidString(key) || !utf8.ValidString(value) || strings.ContainsRune(key+value, 0) {
			return fmt.Errorf("%w for %q: metadata %q is not valid UTF-8 or contains U+0000", jobs.ErrInvalidData, r.Name, key)
		}
	}
	return nil
}

// wrap wraps the handler in its transaction, if it has one, and then in its middleware. Each layer is guarded, so that outer middleware never sees a panic or an
// error that is not redacted.
func (d *Definition) wrap() error {
	d.run = d.guard(d.Handler)
	if d.Transactional {
		d.run = d.guard(d.inTx(d.run))
	}
	for i := len(d.middleware) - 1; i >= 0; i-- {
		outer, err := around(d.middleware[i], d.run)
		if err != nil {
			return invalidOption("Use: middleware %d of %d %s", i+1, len(d.middleware), err)
		}
		d.run = d.guard(outer)
	}
	return nil
}

func around(m jobs.Middleware, h jobs.Handler) (outer jobs.Handler, err error) {
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

// guard turns a panic of h into an error, and redacts error texts.
func (d *Definition) guard(h jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = d.redactPanic(&jobs.PanicError{Value: v, Stack: stack()})
			}
		}()
		return d.redactError(h(ctx, job))
	}
}

func (d *Definition) redactError(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error() // if it panics, guard recovers
	if d.redact == nil {
		return err
	}
	clean := &redactedError{err: err, text: d.redactText(text)}
	changed := clean.text != text
	if after, reason, ok := jobs.Snoozed(err); ok {
		clean.snooze = &verdict.Snooze{After: after, Reason: d.redactText(reason)}
		changed = changed || clean.snooze.Reason != reason
	}
	if changed {
		return clean
	}
	return err
}

func (d *Definition) redactPanic(p *jobs.PanicError) *jobs.PanicError {
	if d.redact != nil {
		p.Value = d.redactText(fmt.Sprint(p.Value))
	}
	return p
}

func (d *Definition) redactText(text string) (clean string) {
	defer func() {
		if recover() != nil {
			clean = "(omitted: the Redact function panicked)"
		}
	}()
	return d.redact(text)
}

// redactedError replaces the text of an error and, if it has one, the reason of a snooze.
type redactedError struct {
	err    error
	text   string
	snooze *verdict.Snooze // nil if there is none
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }

// As finds the snooze with the redacted reason.
func (e *redactedError) As(target any) bool {
	if t, ok := target.(**verdict.Snooze); ok && e.snooze != nil {
		*t = e.snooze
		return true
	}
	return false
}
