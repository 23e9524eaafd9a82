package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/verdict"
)

// attempt is one call of a handler.
type attempt struct {
	ctx      context.Context // with the timeout
	job      jobs.Job
	handler  jobs.Handler
	timedOut timeoutError
	ended    chan error // receives the handler's error
}

func (a *attempt) run() {
	err := errGoexit
	defer func() { a.ended <- err }()
	err = seal(a.handler(a.ctx, &a.job))
}

// A sealedError wraps a handler's error for providers. The methods of an error are foreign code and may panic, which in
// a provider's goroutine would end the process. So Error is called only once, and a panic in Is or As counts as false.
// It has no Unwrap method, which would expose the original error.
type sealedError struct {
	err  error
	text string
}

// seal wraps err. It is called in the handler's goroutine.
func seal(err error) (sealed error) {
	if err == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			sealed = &sealedError{err, storable(fmt.Sprintf("the error's Error method panicked: %v", v))}
		}
	}()
	return &sealedError{err, storable(err.Error())}
}

// maxErrorBytes is how much of an error's text is kept.
const maxErrorBytes = 8 << 10

// storable returns text in a form that every provider can store: valid UTF-8, without U+0000, and not too long.
func storable(text string) string {
	if n := len(text); n > maxErrorBytes {
		text = fmt.Sprintf("%s… (%d bytes)", text[:maxErrorBytes], n)
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\x00", `\x00`)
}

func (e *sealedError) Error() string { return e.text }

func (e *sealedError) Is(target error) bool {
	return verdict.Sound(func() bool { return errors.Is(e.err, target) })
}

func (e *sealedError) As(target any) bool {
	return verdict.Sound(func() bool { return errors.As(e.err, target) })
}

// ignoringTime is how long a handler may keep running after its context has ended before that is logged.
const ignoringTime = 10 * time.Second

// wait waits for the handler to return, and returns its error.
func (a *attempt) wait(log *slog.Logger) error {
	select {
	case err := <-a.ended:
		return err
	case <-a.ctx.Done():
	}
	patience := time.NewTimer(ignoringTime)
	defer patience.Stop()
	select {
	case err := <-a.ended:
		return err
	case <-patience.C:
	}
	log.WarnContext(a.ctx, "handler still running after its context ended; it occupies a worker", "error", context.Cause(a.ctx))
	return <-a.ended
}
