package providertest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// What handlers decide about their runs, and what follows from it.
var verdictRules = []rule{
	{name: "a handler that ignores its timeout is not called again beside itself, and completes its run", check: deafHandlerKeepsItsRun},
	{name: "with OverlapSkip, no tick runs beside a handler that ignores its timeout", check: noTickBesideADeafHandler},
}

// deaf is how long handlers ignore the end of their context in these rules. Providers that free the worker of such a
// handler do so about ten seconds after the timeout.
const deaf = 12 * time.Second

// ignoring returns a result function for probes that ignores its context for the time deaf.
func (e *env) ignoring() func(context.Context, *jobs.Job) error {
	return func(context.Context, *jobs.Job) error {
		timer := time.NewTimer(deaf)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-e.ctx.Done():
		}
		return nil
	}
}

func deafHandlerKeepsItsRun(e *env) {
	p := e.probe(e.ignoring())
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Timeout(500*time.Millisecond), jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	first := p.next()
	e.until(first.at.Add(deaf - time.Second))
	p.none("the first attempt is still running")
	require.Equal(e, 1, e.status("test.job").Running, "Running")
	e.total(jobs.StateCompleted, 1)
	p.none("the first attempt returned nil")
}

func noTickBesideADeafHandler(e *env) {
	p := e.probe(e.ignoring())
	e.noError(e.s.RegisterInterval("test.tick", 2*time.Second, p.handle,
		jobs.Timeout(500*time.Millisecond), jobs.Overlap(jobs.OverlapSkip)))
	e.start()
	first := p.next()
	e.until(first.at.Add(deaf - time.Second))
	p.none("the run of the first tick has not ended")
	require.GreaterOrEqual(e, e.health().Totals[jobs.StateSkipped].N, 3, "skipped ticks")
}
