package providertest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// A rule is a sentence of the contract and a function that tries to break it.
type rule struct {
	// name is the sentence. Failures and skips start with it.
	name string
	// check is a named function, so that the trace of a failure shows its name.
	check func(e *env)
	// defaults are the scheduler's defaults.
	defaults []jobs.Option
	// needs returns what the rule needs and h lacks, or "".
	needs func(h Harness) string
}

// rules lists all rules. Those that wait longest in real time come first.
var rules = slices.Concat(
	verdictRules,
	findRules,
	tickRules,
	windowRules,
	dataRules,
	scheduleRules,
	pauseRules,
	retryRules,
	timeRules,
	handlerRules,
	concurrencyRules,
	middlewareRules,
	triggerRules,
	keyRules,
	idempotencyRules,
	txRules,
	effectRules,
	lifecycleRules,
	monitorRules,
	runRules,
	operatorRules,
	skippedRules,
	pageRules,
	failedRules,
	outputRules,
	awaitRules,
	inputRules,
)

// The time limits of a rule. Only what must not happen too early is checked closely, so a slow machine breaks no rule.
const (
	patience  = 2 * time.Minute       // for one thing to happen, on a machine however busy
	tolerance = 30 * time.Second      // of a time that is set when something happens
	slack     = 20 * time.Millisecond // how far clocks may differ, including rounding
)

// env gives a check its own scheduler and ways to wait. As a testing.TB it names the rule in every failure.
type env struct {
	testing.TB
	rule string
	h    Harness
	ctx  context.Context // for calls and waiting handlers; ends with the rule
	end  context.CancelFunc
	logs *logbook
	s    jobs.Scheduler
}

// run tests a new scheduler of h against the rule.
func (r rule) run(t testing.TB, h Harness) {
	e := &env{TB: t, rule: r.name, h: h, logs: new(logbook)}
	limit := 3 * time.Minute
	if h.Bubble {
		limit = 1000 * time.Hour // waiting takes no time
	}
	e.ctx, e.end = context.WithTimeout(context.Background(), limit)
	t.Cleanup(e.end)
	e.new(r.defaults...)
	r.check(e)
}

// Errorf implements [testing.TB]; testify reports through it.
func (e *env) Errorf(format string, args ...any) {
	e.TB.Helper()
	e.TB.Errorf("rule broken: %s\n%s", e.rule, fmt.Sprintf(format, args...))
}

// Fatalf implements [testing.TB].
func (e *env) Fatalf(format string, args ...any) {
	e.TB.Helper()
	e.Errorf(format, args...)
	e.FailNow()
}

// new replaces the rule's scheduler with a new one.
func (e *env) new(defaults ...jobs.Option) {
	s := e.h.New(e.TB, Config{Logger: slog.New(e.logs), Defaults: defaults})
	e.s = s
	e.Cleanup(func() {
		e.end() // releases waiting handlers, so that a soft stop is enough
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = s.Shutdown(ctx) // often ErrNotStarted; other failures are the rule's own to report
	})
}

// noError requires a call that is not the subject of the rule to succeed.
func (e *env) noError(err error) {
	e.Helper()
	require.NoError(e, err)
}

// start starts the scheduler. Like the helpers below, it ends the rule on failure.
func (e *env) start() {
	e.Helper()
	require.NoError(e, e.s.Start(e.ctx), "Start")
}

// stop shuts down softly, within patience.
func (e *env) stop() {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	require.NoError(e, e.s.Shutdown(ctx), "Shutdown")
}

// trigger triggers a job and returns its ID.
func (e *env) trigger(name string, data any, opts ...jobs.TriggerOption) (id string) {
	e.Helper()
	id, err := e.s.Trigger(e.ctx, name, data, opts...)
	require.NoError(e, err, "Trigger")
	require.NotEmpty(e, id, "Trigger returned an empty ID")
	return id
}

// queueSize returns the result of QueueSize.
func (e *env) queueSize(name string) int {
	e.Helper()
	n, err := e.s.QueueSize(e.ctx, name)
	require.NoError(e, err, "QueueSize")
	return n
}

// health returns the result of Health, healthy or not.
func (e *env) health() jobs.Health {
	e.Helper()
	h, err := e.s.Health(e.ctx)
	require.NoError(e, err, "Health")
	return h
}

// status returns the status of the named job.
func (e *env) status(name string) jobs.Status {
	e.Helper()
	all, err := e.s.Jobs(e.ctx)
	require.NoError(e, err, "Jobs")
	i := slices.IndexFunc(all, func(st jobs.Status) bool { return st.Name == name })
	require.GreaterOrEqual(e, i, 0, "Jobs does not list %q", name)
	return all[i]
}

// total waits until n runs are in that state.
func (e *env) total(state jobs.State, n int) {
	e.Helper()
	e.eventually(fmt.Sprintf("Health to count %d as %s", n, state), func() (any, bool) {
		h := e.health()
		return h.Totals, h.Totals[state].N == n
	})
}

// eventually calls ask until ok is true. seen is part of the failure message.
func (e *env) eventually(what string, ask func() (seen any, ok bool)) {
	e.Helper()
	deadline := time.Now().Add(patience)
	for {
		seen, ok := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			e.Fatalf("waited %s for %s; last seen: %+v", patience, what, seen)
		}
		e.until(time.Now().Add(50 * time.Millisecond))
	}
}

// until waits until t, for rules that are about time itself.
func (e *env) until(t time.Time) {
	e.Helper()
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.ctx.Done():
		e.Fatalf("the rule took too long")
	}
}

// receive waits for a value from ch.
func receive[T any](e *env, ch <-chan T, what string) T {
	e.Helper()
	return receiveWithin(e, patience, ch, what)
}

// receiveWithin is receive with another limit.
func receiveWithin[T any](e *env, limit time.Duration, ch <-chan T, what string) (v T) {
	e.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case v = <-ch:
	case <-timer.C:
		e.Fatalf("waited %s for %s", limit, what)
	}
	return v
}

// A run is an attempt recorded by a probe.
type run struct {
	jobs.Job
	at time.Time // when the handler was called, by this process's clock
}

// A probe is a handler that records each attempt.
type probe struct {
	e      *env
	runs   chan run
	called int // how many of the runs were received
	result func(ctx context.Context, job *jobs.Job) error
}

// probe returns a probe whose attempts return the value of result, or succeed if result is nil.
func (e *env) probe(result func(ctx context.Context, job *jobs.Job) error) *probe {
	return &probe{e: e, runs: make(chan run, 10_000), result: result}
}

// handle is a [jobs.Handler].
func (p *probe) handle(ctx context.Context, job *jobs.Job) error {
	r := run{*job, time.Now()}
	r.Data, r.Metadata = bytes.Clone(job.Data), maps.Clone(job.Metadata) // the job is valid only until the handler returns
	p.runs <- r
	if p.result == nil {
		return nil
	}
	return p.result(ctx, job)
}

// next waits for the next attempt.
func (p *probe) next() run {
	p.e.Helper()
	return p.nextWithin(patience)
}

// nextWithin is next with another limit.
func (p *probe) nextWithin(limit time.Duration) run {
	p.e.Helper()
	p.called++
	return receiveWithin(p.e, limit, p.runs, fmt.Sprintf("call %d of the handler", p.called))
}

// none requires that there were no attempts besides those received.
func (p *probe) none(why string) {
	p.e.Helper()
	select {
	case r := <-p.runs:
		p.e.Fatalf("%s, but the handler was called: attempt %d, tick %v, data %.100s", why, r.Attempt, r.Tick, r.Data)
	default:
	}
}

// A gate blocks handlers until it is opened or the rule ends.
type gate struct {
	e    *env
	open chan struct{}
}

// gate returns a closed gate. Closing its channel open opens it.
func (e *env) gate() *gate { return &gate{e, make(chan struct{})} }

// wait is a result function for probes that waits for the gate.
func (g *gate) wait(context.Context, *jobs.Job) error {
	select {
	case <-g.open:
	case <-g.e.ctx.Done():
	}
	return nil
}

// fail returns a result function for probes that returns err.
func fail(err error) func(context.Context, *jobs.Job) error {
	return func(context.Context, *jobs.Job) error { return err }
}

// untilCancelled is a result function for probes that waits for its context to end.
func (e *env) untilCancelled(ctx context.Context, _ *jobs.Job) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return nil
	}
}

// logbook is a [slog.Handler] that records entries.
type logbook struct {
	attrs []slog.Attr
	root  *logbook

	mu      sync.Mutex
	entries []entry
}

// entry is a log entry.
type entry struct {
	message string
	attrs   map[string]slog.Value
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithGroup(string) slog.Handler            { return l }

func (l *logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	root := l.root
	if root == nil {
		root = l
	}
	return &logbook{attrs: slices.Concat(l.attrs, attrs), root: root}
}

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	en := entry{r.Message, make(map[string]slog.Value)}
	for _, a := range l.attrs {
		en.attrs[a.Key] = a.Value.Resolve()
	}
	r.Attrs(func(a slog.Attr) bool {
		en.attrs[a.Key] = a.Value.Resolve()
		return true
	})
	root := l
	if l.root != nil {
		root = l.root
	}
	root.mu.Lock()
	defer root.mu.Unlock()
	root.entries = append(root.entries, en)
	return nil
}

// find returns the entries with that message.
func (l *logbook) find(message string) (found []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, en := range l.entries {
		if en.message == message {
			found = append(found, en)
		}
	}
	return found
}
