package jobs

import (
	"context"
	"log/slog"
	"runtime/pprof"
	"sync/atomic"
	"time"
)

// attempt is one call of a handler.
type attempt struct {
	ctx      context.Context // with the timeout
	job      Job
	handler  Handler
	timedOut timeoutError
	ended    chan error
}

func (a *attempt) run() {
	err := errGoexit
	defer func() { a.ended <- err }()
	// What an attempt before it may have set is not this one's.
	pprof.SetGoroutineLabels(a.ctx)
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

// maxIdleRunners is how many goroutines wait for another attempt. Handlers that are done
// at once need few; to those that take long, a new one costs nothing.
const maxIdleRunners = 100

// runners are the goroutines of attempts. One that is done waits for another attempt,
// since growing a stack costs more than all else around a short handler.
type runners struct {
	next  chan *attempt // to one that waits
	idle  atomic.Int32
	ended chan struct{}
}

// start runs a on another goroutine and does not wait for it.
func (d *Definition) start(a *attempt) {
	var r *runners
	if d.runners != nil {
		r = d.runners.Load()
	}
	if r == nil {
		go a.run()
		return
	}
	select {
	case r.next <- a:
	default:
		go r.run(a)
	}
}

func (r *runners) run(a *attempt) {
	for a != nil {
		a.run()
		a = r.await()
	}
}

// await returns nil when the goroutine is not needed any more.
func (r *runners) await() *attempt {
	defer r.idle.Add(-1)
	if r.idle.Add(1) > maxIdleRunners {
		return nil
	}
	select {
	case a := <-r.next:
		return a
	case <-r.ended:
		return nil
	}
}
