package providertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

var errAgain = errors.New("not this time")

// Retries and failures.
var retryRules = []rule{
	{name: "the first retry comes after five seconds by default, more or less a tenth", check: firstRetryAfterFiveSeconds},
	{name: "the delay before a retry doubles", check: retryDelayDoubles},
	{name: "a job has three attempts by default", check: threeAttemptsByDefault},
	{name: "MaxRetries sets the number of attempts", check: maxRetriesSetsTheAttempts},
	{name: "the scheduler's defaults apply to a job that sets no other", defaults: []jobs.Option{jobs.MaxRetries(1), jobs.RetryDelay(0)}, check: defaultsOfTheScheduler},
	{name: "a job that succeeds is done", check: successIsDone},
	{name: "a Permanent error fails the job with its attempt", check: permanentEndsTheJob},
	{name: "runs that fail together are retried up to a tenth earlier or later", check: retriesAreSpread},
	{name: "RetryAfter sets the delay of one retry, and the attempt counts", check: retryAfterSetsOneWait},
	{name: "the delay of RetryAfter is exact", check: retryAfterIsExact},
	{name: "a panic is a failed attempt, and the process survives", check: panicIsAFailedAttempt},
	{name: "an error whose methods panic is a failed attempt, and the process survives", check: hostileErrorIsAFailedAttempt},
	{name: "a timeout ends the context and is a failed attempt", check: timeoutIsAFailedAttempt},
	{name: "data that does not decode fails its run for good, and no other", check: undecodableDataFailsForGood},
}

func firstRetryAfterFiveSeconds(e *env) {
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	first, second := p.next(), p.next()
	require.Equal(e, 2, second.Attempt, "Attempt")
	require.GreaterOrEqual(e, second.at.Sub(first.at), 4500*time.Millisecond-slack, "wait before the second attempt")
}

func retryDelayDoubles(e *env) {
	const delay = 200 * time.Millisecond
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(3), jobs.RetryDelay(delay)))
	e.start()
	e.trigger("test.job", nil)
	last := p.next()
	for i := range 3 {
		r := p.next()
		require.GreaterOrEqual(e, r.at.Sub(last.at), (delay<<i)*9/10-slack, "wait before attempt %d", r.Attempt)
		last = r
	}
}

func threeAttemptsByDefault(e *env) {
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(50*time.Millisecond)))
	e.start()
	e.trigger("test.job", nil)
	e.attempts(p, 3)
}

func maxRetriesSetsTheAttempts(e *env) {
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.five", 0, p.handle, jobs.MaxRetries(4), jobs.RetryDelay(0)))
	e.noError(e.s.RegisterDelayed("test.one", 0, p.handle, jobs.MaxRetries(0)))
	e.start()
	e.trigger("test.five", nil)
	e.attempts(p, 5)
	e.trigger("test.one", nil)
	r := p.next()
	require.Equal(e, [2]int{1, 1}, [2]int{r.Attempt, r.MaxAttempts}, "Attempt and MaxAttempts")
	e.total(jobs.StateFailed, 2)
	p.none("the job has no retries")
}

func defaultsOfTheScheduler(e *env) {
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.own", 0, p.handle, jobs.MaxRetries(3)))
	e.start()
	e.trigger("test.job", nil)
	e.attempts(p, 2)
	e.trigger("test.own", nil)
	for range 4 {
		require.Equal(e, 4, p.next().MaxAttempts, "MaxAttempts")
	}
}

func successIsDone(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt < 2 {
			return errAgain
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	require.Equal(e, 1, p.next().Attempt)
	require.Equal(e, 2, p.next().Attempt)
	e.total(jobs.StateCompleted, 1)
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
	p.none("the second attempt succeeded")
}

func permanentEndsTheJob(e *env) {
	for i, err := range []error{
		jobs.Permanent(errAgain),
		fmt.Errorf("wrapped: %w", jobs.Permanent(errAgain)),
		jobs.RetryAfter(0, jobs.Permanent(errAgain)),
	} {
		if i > 0 {
			e.new()
		}
		p := e.probe(fail(err))
		e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
		e.start()
		e.trigger("test.job", nil)
		p.next()
		e.eventually("the job to fail for good", func() (any, bool) {
			totals := e.health().Totals
			return totals, totals[jobs.StateFailed].N == 1 || len(p.runs) > 0
		})
		p.none(fmt.Sprintf("error %d was Permanent", i))
		e.stop()
	}
}

func retriesAreSpread(e *env) {
	waits := e.waits(fail(errAgain), jobs.RetryDelay(10*time.Hour))
	for _, wait := range waits {
		require.GreaterOrEqual(e, wait, 9*time.Hour-slack, "wait before the second attempt")
		require.LessOrEqual(e, wait, 11*time.Hour+tolerance, "wait before the second attempt")
	}
	require.Greater(e, slices.Max(waits)-slices.Min(waits), 30*time.Minute, "spread of the waits")
}

func retryAfterIsExact(e *env) {
	for _, wait := range e.waits(fail(jobs.RetryAfter(10*time.Hour, errAgain))) {
		require.GreaterOrEqual(e, wait, 10*time.Hour-slack, "wait before the second attempt")
		require.LessOrEqual(e, wait, 10*time.Hour+tolerance, "wait before the second attempt")
	}
}

// waits returns how long 20 runs wait for their second attempt after the start of the first.
func (e *env) waits(result func(context.Context, *jobs.Job) error, opts ...jobs.Option) (all []time.Duration) {
	e.Helper()
	role[jobs.RunLister](e)
	const n = 20
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(result).handle, opts...))
	e.start()
	_, err := e.s.TriggerMany(e.ctx, "test.job", make([]any, n))
	e.noError(err)
	e.eventually("all runs to fail once", func() (any, bool) {
		retrying := e.status("test.job").Retrying
		return retrying, retrying == n
	})
	for _, r := range e.runs("test.job") {
		all = append(all, r.DueAt.Sub(r.StartedAt))
	}
	return all
}

func retryAfterSetsOneWait(e *env) {
	const delay = 300 * time.Millisecond
	p := e.probe(fail(fmt.Errorf("wrapped: %w", jobs.RetryAfter(delay, errAgain))))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(time.Hour)))
	e.start()
	e.trigger("test.job", nil)
	first, second := p.next(), p.next()
	require.Equal(e, 2, second.Attempt, "Attempt")
	wait := second.at.Sub(first.at)
	require.GreaterOrEqual(e, wait, delay-slack, "wait before the second attempt")
	require.Less(e, wait, time.Hour, "wait before the second attempt")
	e.total(jobs.StateFailed, 1)
	p.none("the job has two attempts")
}

func panicIsAFailedAttempt(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			panic("a panic of the conformance suite")
		}
		panic(errAgain)
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0)))
	other := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.start()
	e.trigger("test.job", nil)
	e.attempts(p, 2)
	e.trigger("test.other", nil)
	other.next()
}

func hostileErrorIsAFailedAttempt(e *env) {
	failures := map[string]error{
		"test.error": hostile{"Error"}, "test.is": hostile{"Is"}, "test.as": hostile{"As"}, "test.unwrap": hostile{"Unwrap"},
		"test.permanent": jobs.Permanent(hostile{"As"}), "test.wrapped": fmt.Errorf("wrapped: %w", hostile{"Is"}),
	}
	p := e.probe(func(_ context.Context, job *jobs.Job) error { return failures[job.Name] })
	for name := range failures {
		e.noError(e.s.RegisterDelayed(name, 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0)))
	}
	other := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.other", 0, other.handle))
	e.start()
	for name := range failures {
		e.trigger(name, nil)
	}
	attempts := map[string]int{}
	for range 2*len(failures) - 1 {
		attempts[p.next().Name]++
	}
	require.Equal(e, 1, attempts["test.permanent"], "attempts of a job with an error that is Permanent")
	e.total(jobs.StateFailed, len(failures))
	p.none("the jobs have two attempts, or one")
	e.trigger("test.other", nil)
	other.next()
	lister, ok := e.s.(jobs.RunLister)
	if !ok {
		return
	}
	for name := range failures {
		runs, err := lister.Runs(e.ctx, name, 1)
		e.noError(err)
		require.Len(e, runs, 1, "runs of %s", name)
		if name != "test.error" { // its Error method panics
			require.Contains(e, runs[0].Error, "a hostile error", "text of the error of %s", name)
		}
	}
}

// hostile is an error with a method that panics, such as an Is that assumes its own type.
type hostile struct{ panics string }

func (e hostile) call(method string) {
	if e.panics == method {
		panic("a panic of the method " + method)
	}
}

func (e hostile) Error() string   { e.call("Error"); return "a hostile error" }
func (e hostile) Is(error) bool   { e.call("Is"); return false }
func (e hostile) As(any) bool     { e.call("As"); return false }
func (e hostile) Unwrap() []error { e.call("Unwrap"); return nil }

func timeoutIsAFailedAttempt(e *env) {
	const timeout = 300 * time.Millisecond
	cause := make(chan error, 10)
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		err := e.untilCancelled(ctx, job)
		cause <- err
		return err
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Timeout(timeout), jobs.MaxRetries(1), jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.job", nil)
	first := p.next()
	require.ErrorIs(e, receive(e, cause, "the context to end"), context.DeadlineExceeded)
	second := p.next()
	require.Equal(e, 2, second.Attempt, "Attempt")
	require.GreaterOrEqual(e, second.at.Sub(first.at), timeout-slack, "time until the second attempt")
	e.total(jobs.StateFailed, 1)
	p.none("both attempts timed out")
}

func undecodableDataFailsForGood(e *env) {
	kind := jobs.Kind[struct{ N int }]("test.kind")
	got := make(chan int, 10)
	e.noError(kind.Register(e.s, func(_ context.Context, _ *jobs.Job, args struct{ N int }) error {
		got <- args.N
		return nil
	}, jobs.RetryDelay(0)))
	e.start()
	e.trigger("test.kind", map[string]string{"N": "seven"})
	e.total(jobs.StateFailed, 1)
	e.trigger("test.kind", map[string]int{"N": 7})
	require.Equal(e, 7, receive(e, got, "the run with valid data"))
	require.Zero(e, e.queueSize("test.kind"), "QueueSize")
	require.Empty(e, got, "calls with data that does not decode")
}

// attempts requires that a job that always fails has n attempts and no more. It must be the only one that fails.
func (e *env) attempts(p *probe, n int) {
	e.Helper()
	for attempt := 1; attempt <= n; attempt++ {
		r := p.next()
		require.Equal(e, attempt, r.Attempt, "Attempt")
		require.Equal(e, n, r.MaxAttempts, "MaxAttempts")
	}
	e.total(jobs.StateFailed, 1)
	p.none(fmt.Sprintf("the job has %d attempts", n))
}
