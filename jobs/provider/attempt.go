package provider

import (
	"context"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// attempt is one call of a handler.
type attempt struct {
	ctx      context.Context // with the timeout
	job      jobs.Job
	handler  jobs.Handler
	timedOut timeoutError
	ended    chan error
}

func (a *attempt) run() {
	err := errGoexit
	defer func() { a.ended <- err }()
	err = a.handler(a.ctx, &a.job)
}

// ignoringTime is how long a handler may run on after its context has ended until that is
// logged.
const ignoringTime = 10 * time.Second

// wait returns the handler's error.
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
