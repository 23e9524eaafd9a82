package provider

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// onFailedTimeout is how long the context of a function of [jobs.OnFailed] lasts.
const onFailedTimeout = 30 * time.Second

// CallsOnFailed reports whether the job has functions of [jobs.OnFailed].
func (d *Definition) CallsOnFailed() bool { return len(d.onFailed) > 0 }

// Failed calls the functions of [jobs.OnFailed] one after the other, each with its own timeout. Providers call it outside
// of their locks, once run has failed for good. It reports whether the calls have been made. They have not if ctx ended
// meanwhile; then a provider that can make them again later does so.
func (d *Definition) Failed(ctx context.Context, log *slog.Logger, run jobs.Run) (made bool) {
	for _, f := range d.onFailed {
		if ctx.Err() != nil {
			return false
		}
		d.callOnFailed(ctx, log, run, f)
	}
	return ctx.Err() == nil
}

// callOnFailed calls f and logs if its context ends before it returns.
func (d *Definition) callOnFailed(ctx context.Context, log *slog.Logger, run jobs.Run, f func(context.Context, jobs.Run)) {
	log = log.With("job", run.Name, "job_id", run.ID)
	bounded, cancel := context.WithTimeout(ctx, onFailedTimeout)
	defer cancel()
	ended := apart(ctx, log, "OnFailed", func() { f(bounded, run) })
	select {
	case <-ended:
		return
	case <-bounded.Done():
	}
	if errors.Is(bounded.Err(), context.DeadlineExceeded) {
		log.WarnContext(ctx, "the OnFailed function of the job takes longer than its context lasts", "timeout", onFailedTimeout)
	}
	<-ended
}

// apart calls f, a function of the application given with the named option, in a goroutine of its own, which f may end.
// It returns a channel that is closed at its end.
func apart(ctx context.Context, log *slog.Logger, option string, f func()) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		returned := false
		defer func() {
			if v := recover(); v != nil {
				log.ErrorContext(ctx, "the "+option+" function of the job panicked", "panic", v, "stack", stack())
			} else if !returned {
				log.ErrorContext(ctx, "the "+option+" function of the job exited its goroutine")
			}
		}()
		f()
		returned = true
	}()
	return ended
}
