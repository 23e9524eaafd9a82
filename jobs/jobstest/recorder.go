// Package jobstest helps to test code that uses background jobs. [Record] wraps a scheduler of any provider. A test can
// then run a job and wait for its outcome, or check which jobs were triggered. It works in a [testing/synctest] bubble,
// where hours of retry delays take no time.
package jobstest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/equal"
)

// A Recorder is a [jobs.Scheduler] that wraps another one. It records the jobs that are triggered through it, and the
// outcomes of the jobs that are registered on it. [Record] returns one.
//
// Of the optional roles it implements only [jobs.TxTriggerer]. [jobs.As] finds the others, such as [jobs.Pauser], on
// the wrapped scheduler. Jobs triggered through those are not recorded.
type Recorder struct {
	jobs.Scheduler

	// Wait is how long [Recorder.Await] and [Recorder.TriggerAndWait] wait for an outcome, including delays and
	// retries. Defaults to one minute. In a [testing/synctest] bubble it can be a day.
	Wait time.Duration

	// Repeat runs each handler that succeeds once more, as if the process had died before the success was stored. The
	// test then shows what a handler does twice. The second call has the same ID, data, metadata, tick and PrevSuccess,
	// and the next Attempt. Its error is that of the attempt, which may be retried. A handler is not repeated on its
	// last attempt, after which a job whose process has died fails for good; with [jobs.MaxRetries] of 0 it never is.
	// Nor is one with the option [jobs.Transactional], whose effects are stored together with the success.
	// Both calls share the attempt's timeout, and middleware of the registration runs twice, too. Set it before Start.
	Repeat bool

	mu       sync.Mutex
	enqueued []Enqueued
	outcomes []Outcome
	snoozes  []Snooze
	attempts map[string]string // by ID, how the last attempt without an outcome ended
	changed  chan struct{}     // closed when there is a new outcome; nil if no call waits
}

var (
	_ jobs.Scheduler   = (*Recorder)(nil)
	_ jobs.TxTriggerer = (*Recorder)(nil)
)

// Record returns a recorder that wraps s. Register the jobs on the recorder, and pass the recorder to the code that
// triggers them:
//
//	s, err := memory.New(nil)
//	…
//	rec := jobstest.Record(s)
//	err = audit.RegisterAuditJobs(rec)
//	…
//	err = rec.Start(ctx)
//	…
//	outcome := rec.TriggerAndWait(t, "audit.retention", nil)
//	require.NoError(t, outcome.Err)
func Record(s jobs.Scheduler) *Recorder {
	return &Recorder{Scheduler: s, attempts: make(map[string]string)}
}

// Enqueued is a job that was triggered. Delay, At, Priority, Unique, UniqueMode and IdempotencyKey are the values of the
// trigger's options, or zero. A trigger with [jobs.Latest] that found a waiting run replaces the values of the first
// one.
type Enqueued struct {
	ID, Name string
	Data     json.RawMessage
	Delay    time.Duration
	At       time.Time
	Priority int
	// Unique is the key of [jobs.Unique], [jobs.UniqueWaiting] or [jobs.Latest], and UniqueMode says of which.
	Unique     string
	UniqueMode jobs.UniqueMode
	// IdempotencyKey is that of [jobs.IdempotencyKey]; a repeated trigger is recorded once.
	IdempotencyKey string
	// Tx is true if the job was triggered in a transaction. It is recorded even if the transaction does not commit.
	Tx bool
}

// An Outcome is how a run ended: it succeeded, or it failed for good.
type Outcome struct {
	// Job is the last attempt, as given to its handler.
	Job jobs.Job
	// Attempts is the number of attempts.
	Attempts int
	// Err is the error of the last attempt, as returned by the job's middleware (see [jobs.Use]), or nil if it
	// succeeded.
	Err error
}

// A Snooze is an attempt whose handler snoozed its run with [jobs.Snooze].
type Snooze struct {
	// Job is the attempt, as given to its handler.
	Job jobs.Job
	// After is how long after it the run starts again, and Reason why.
	After  time.Duration
	Reason string
}

// RegisterCron implements [jobs.Registrar].
func (r *Recorder) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterCron(name, pattern, h, r.watching(opts)...)
}

// RegisterInterval implements [jobs.Registrar].
func (r *Recorder) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterInterval(name, every, h, r.watching(opts)...)
}

// RegisterSchedule implements [jobs.Registrar].
func (r *Recorder) RegisterSchedule(name string, s jobs.Schedule, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterSchedule(name, s, h, r.watching(opts)...)
}

// RegisterDelayed implements [jobs.Registrar].
func (r *Recorder) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterDelayed(name, delay, h, r.watching(opts)...)
}

// Unwrap returns the wrapped scheduler, so that [jobs.As] finds its roles.
func (r *Recorder) Unwrap() jobs.Scheduler { return r.Scheduler }

// Trigger implements [jobs.Triggerer].
func (r *Recorder) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	id, err := r.Scheduler.Trigger(ctx, name, data, opts...)
	if err == nil {
		r.record(id, name, data, opts, false)
	}
	return id, err
}

// TriggerMany implements [jobs.Triggerer].
func (r *Recorder) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	ids, err := r.Scheduler.TriggerMany(ctx, name, data, opts...)
	if err == nil {
		for i, id := range ids {
			r.record(id, name, data[i], opts, false)
		}
	}
	return ids, err
}

// TriggerTx implements [jobs.TxTriggerer]. If the wrapped scheduler lacks this role, the error wraps
// [errors.ErrUnsupported].
func (r *Recorder) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	id, err := jobs.TriggerTx(ctx, r.Scheduler, tx, name, data, opts...)
	if err == nil {
		r.record(id, name, data, opts, true)
	}
	return id, err
}

// TriggerManyTx implements [jobs.TxTriggerer]. If the wrapped scheduler lacks this role, the error wraps
// [errors.ErrUnsupported].
func (r *Recorder) TriggerManyTx(ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	ids, err := jobs.TriggerManyTx(ctx, r.Scheduler, tx, name, data, opts...)
	if err == nil {
		for i, id := range ids {
			r.record(id, name, data[i], opts, true)
		}
	}
	return ids, err
}

// TriggerBulk implements [jobs.BulkTriggerer]. The entries of [Recorder.Enqueued] have no ID. If the wrapped scheduler
// lacks this role, the error wraps [errors.ErrUnsupported].
func (r *Recorder) TriggerBulk(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error) {
	bulk, ok := jobs.As[jobs.BulkTriggerer](r.Scheduler)
	if !ok {
		return 0, fmt.Errorf("jobstest: %T has no TriggerBulk: %w", r.Scheduler, errors.ErrUnsupported)
	}
	n, err := bulk.TriggerBulk(ctx, name, data, opts...)
	if err == nil {
		for _, v := range data {
			r.record("", name, v, opts, false)
		}
	}
	return n, err
}

func (r *Recorder) record(id, name string, data any, opts []jobs.TriggerOption, tx bool) {
	// The trigger's options, without those of the registration.
	req, err := jobs.NewRequest(name, data, opts...)
	if err != nil {
		return // not reached, as the scheduler has accepted it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := Enqueued{id, name, req.Data, req.Delay, req.At, req.Priority, req.Unique, req.UniqueMode, req.IdempotencyKey, tx}
	i := slices.IndexFunc(r.enqueued, func(e Enqueued) bool { return e.ID == id })
	switch {
	case i < 0 || id == "":
		r.enqueued = append(r.enqueued, entry)
	case req.UniqueMode == jobs.UniqueModeLatest:
		r.enqueued[i] = entry
	default: // a key found the run, and none was inserted
	}
}

// errLeft is the error of a handler that did not return.
var errLeft = errors.New("jobstest: handler exited its goroutine (runtime.Goexit, t.FailNow)")

// watching prepends middleware that observes attempts to the options.
func (r *Recorder) watching(opts []jobs.Option) []jobs.Option {
	transactional := false
	for _, opt := range opts {
		var set jobSettings
		if opt != nil && opt.ApplyTo(&set) == nil { // the scheduler reports errors
			transactional = transactional || set.Transactional
		}
	}
	watch := func(h jobs.Handler) jobs.Handler { return r.watch(h, transactional) }
	return slices.Concat([]jobs.Option{jobs.Use(watch)}, opts)
}

func (r *Recorder) watch(h jobs.Handler, transactional bool) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		given := *job
		given.Data, given.Metadata = bytes.Clone(job.Data), maps.Clone(job.Metadata)
		err := errLeft
		defer func() { r.ended(ctx, given, err) }()
		err = h(ctx, job)
		if err == nil && r.Repeat && !transactional && job.Attempt < job.MaxAttempts && ctx.Err() == nil {
			again := given
			again.Data, again.Metadata = bytes.Clone(given.Data), maps.Clone(given.Metadata)
			again.Attempt++
			err = errLeft
			err = h(ctx, &again)
		}
		return err
	}
}

func (r *Recorder) ended(ctx context.Context, job jobs.Job, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.Canceled): // by a shutdown, after which it returns to the queue, or by an operator
		r.attempts[job.ID] = fmt.Sprintf("attempt %d was interrupted or cancelled", job.Attempt)
		return
	case r.snoozed(job, err):
		return
	case job.Retries(err):
		r.attempts[job.ID] = fmt.Sprintf("attempt %d of %d failed: %s", job.Attempt, job.MaxAttempts, err)
		return
	}
	r.outcomes = append(r.outcomes, Outcome{job, job.Attempt, err})
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// snoozed records the attempt if it ended with a snooze, and reports whether it did. r.mu is locked.
func (r *Recorder) snoozed(job jobs.Job, err error) bool {
	after, reason, ok := jobs.Snoozed(err)
	if ok {
		r.snoozes = append(r.snoozes, Snooze{job, after, reason})
		r.attempts[job.ID] = fmt.Sprintf("attempt %d was snoozed for %s: %s", job.Attempt, after, reason)
	}
	return ok
}

// TriggerAndWait triggers a job and returns its outcome, which may come after retries. It fails t if the scheduler is
// not started, if the trigger fails, or if there is no outcome within [Recorder].Wait.
func (r *Recorder) TriggerAndWait(t testing.TB, name string, data any, opts ...jobs.TriggerOption) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.wait())
	defer cancel()
	if h, err := r.Health(ctx); err == nil && !h.Started {
		t.Fatalf("jobstest: the scheduler is not started, so %q would not run", name)
	}
	id, err := r.Trigger(ctx, name, data, opts...)
	if err != nil {
		t.Fatalf("jobstest: Trigger of %q: %s", name, err)
	}
	return r.Await(t, id)
}

// Await waits for the outcome of the run with that ID and returns it. It fails t if there is none within
// [Recorder].Wait. A run that is skipped or cancelled has no outcome, nor has one of a job that was not registered on
// this recorder. If [jobs.Retrier] retried the run, Await returns its first outcome; [Recorder.Outcomes] has them all.
// Await returns when the handler has; the provider may store the outcome a moment later, River within about 250 ms.
func (r *Recorder) Await(t testing.TB, id string) Outcome {
	t.Helper()
	timer := time.NewTimer(r.wait())
	defer timer.Stop()
	for {
		outcome, changed := r.outcome(id)
		if changed == nil {
			return outcome
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("jobstest: no outcome of job %s within %s: %s", id, r.wait(), r.last(id))
		}
	}
}

func (r *Recorder) wait() time.Duration {
	if r.Wait > 0 {
		return r.Wait
	}
	return time.Minute
}

// outcome returns the outcome of the run, or a channel that is closed when any run has a new outcome.
func (r *Recorder) outcome(id string) (Outcome, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.outcomes {
		if o.Job.ID == id {
			return o, nil
		}
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return Outcome{}, r.changed
}

// last describes what is known about a run without an outcome.
func (r *Recorder) last(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.attempts[id], "no attempt has ended")
}

// Outcomes returns the outcomes of all runs of the named job, both triggered and of ticks, in the order in which they
// ended.
func (r *Recorder) Outcomes(name string) (all []Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.outcomes {
		if o.Job.Name == name {
			all = append(all, o)
		}
	}
	return all
}

// Snoozes returns the snoozes of the named job in the order in which they happened. After the last one of a run comes
// its outcome.
func (r *Recorder) Snoozes(name string) (all []Snooze) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.snoozes {
		if s.Job.Name == name {
			all = append(all, s)
		}
	}
	return all
}

// A Matcher reports whether a triggered job is one that a test looks for. [Data] and [DataWith] return matchers.
type Matcher func(Enqueued) bool

// Data matches jobs whose data equals v when encoded as JSON.
func Data(v any) Matcher {
	want, err := json.Marshal(v)
	return func(e Enqueued) bool { return err == nil && equal.JSON(want, e.Data) }
}

// DataWith matches jobs whose data has the key at the top level, with a value that equals value when encoded as JSON.
func DataWith(key string, value any) Matcher {
	want, err := json.Marshal(value)
	return func(e Enqueued) bool {
		var members map[string]json.RawMessage
		if err != nil || json.Unmarshal(e.Data, &members) != nil {
			return false
		}
		got, ok := members[key]
		return ok && equal.JSON(want, got)
	}
}

// Enqueued returns the triggers of the named job that all matchers accept, in order, whether or not they have run.
func (r *Recorder) Enqueued(name string, match ...Matcher) (found []Enqueued) {
	r.mu.Lock()
	defer r.mu.Unlock()
next:
	for _, e := range r.enqueued {
		if e.Name != name {
			continue
		}
		for _, accepts := range match {
			if !accepts(e) {
				continue next
			}
		}
		found = append(found, e)
	}
	return found
}

// RequireEnqueued returns the first trigger of the named job that all matchers accept. It fails t if there is none.
func (r *Recorder) RequireEnqueued(t testing.TB, name string, match ...Matcher) Enqueued {
	t.Helper()
	found := r.Enqueued(name, match...)
	if len(found) == 0 {
		t.Fatalf("jobstest: no matching %q was triggered; triggers of this job:%s", name, list(r.Enqueued(name)))
	}
	return found[0]
}

// RequireNotEnqueued fails t if there is a trigger of the named job that all matchers accept.
func (r *Recorder) RequireNotEnqueued(t testing.TB, name string, match ...Matcher) {
	t.Helper()
	if found := r.Enqueued(name, match...); len(found) > 0 {
		t.Fatalf("jobstest: %q was triggered:%s", name, list(found))
	}
}

func list(all []Enqueued) string {
	if len(all) == 0 {
		return " none"
	}
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "\n\t%s %.500s", e.ID, e.Data)
	}
	return b.String()
}
