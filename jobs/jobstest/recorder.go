// Package jobstest helps to test what is built on background jobs. [Record] wraps a
// scheduler of any provider, so that a test can run a job and wait for what becomes of
// it, or check what was triggered. It works in a [testing/synctest] bubble, where hours of
// back-off take no time.
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

// A Recorder is a [jobs.Scheduler] that passes everything on to another one, and
// remembers what was triggered through it and what became of the jobs registered
// on it. Make one with [Record].
//
// Of the optional roles it has [jobs.TxTriggerer] alone; [jobs.As] finds the others, such as
// [jobs.Pauser], at the scheduler behind it. What is triggered through those is not
// remembered.
type Recorder struct {
	jobs.Scheduler

	// Wait is how long [Recorder.Await] and [Recorder.TriggerAndWait] wait, delays and
	// retries included. Defaults to one minute. In a [testing/synctest] bubble a day
	// costs nothing.
	Wait time.Duration

	mu       sync.Mutex
	enqueued []Enqueued
	outcomes []Outcome
	attempts map[string]string // what the last attempt of a job came to, by its ID
	changed  chan struct{}     // closed when there is a new outcome; nil when nobody waits
}

var (
	_ jobs.Scheduler   = (*Recorder)(nil)
	_ jobs.TxTriggerer = (*Recorder)(nil)
)

// Record returns a recorder in front of s. The jobs are registered on the
// recorder, and what triggers them is given the recorder too:
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

// Enqueued is a job that was triggered. Delay, At, Priority and Unique are as given
// with the trigger, and zero when they were not.
type Enqueued struct {
	ID, Name string
	Data     json.RawMessage
	Delay    time.Duration
	At       time.Time
	Priority int
	Unique   string
	// Tx says that it was triggered in a transaction. It is recorded whether or not
	// that commits.
	Tx bool
}

// An Outcome is what became of a job: it is done, or has failed for good.
type Outcome struct {
	// Job is the last attempt, as its handler was given it.
	Job jobs.Job
	// Attempts is how many attempts were used.
	Attempts int
	// Err is what the last attempt failed with, nil when the job is done; as the
	// job's middleware leaves it, see [jobs.Use].
	Err error
}

// RegisterCron implements [jobs.Registrar].
func (r *Recorder) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterCron(name, pattern, h, r.watching(opts)...)
}

// RegisterInterval implements [jobs.Registrar].
func (r *Recorder) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterInterval(name, every, h, r.watching(opts)...)
}

// RegisterDelayed implements [jobs.Registrar].
func (r *Recorder) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return r.Scheduler.RegisterDelayed(name, delay, h, r.watching(opts)...)
}

// Unwrap returns the scheduler behind, whose other roles [jobs.As] finds.
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

// TriggerTx implements [jobs.TxTriggerer] if the scheduler behind does; if not, the
// error wraps [errors.ErrUnsupported], as that of [jobs.TriggerTx] does.
func (r *Recorder) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	id, err := jobs.TriggerTx(ctx, r.Scheduler, tx, name, data, opts...)
	if err == nil {
		r.record(id, name, data, opts, true)
	}
	return id, err
}

func (r *Recorder) record(id, name string, data any, opts []jobs.TriggerOption, tx bool) {
	// The options as given, without those of the registration.
	req, err := jobs.NewRequest(name, data, opts...)
	if err != nil {
		return // not reached: the scheduler has accepted it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.enqueued {
		if e.ID == id {
			return // Unique found this live job, and enqueued none
		}
	}
	r.enqueued = append(r.enqueued, Enqueued{id, name, req.Data, req.Delay, req.At, req.Priority, req.Unique, tx})
}

// errLeft is the outcome of a handler that did not return.
var errLeft = errors.New("jobstest: handler exited its goroutine (runtime.Goexit, t.FailNow)")

// watching returns the options with middleware before them that observes attempts.
func (r *Recorder) watching(opts []jobs.Option) []jobs.Option {
	return slices.Concat([]jobs.Option{jobs.Use(r.watch)}, opts)
}

func (r *Recorder) watch(h jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		given := *job
		given.Data, given.Metadata = bytes.Clone(job.Data), maps.Clone(job.Metadata)
		err := errLeft
		defer func() { r.ended(ctx, given, err) }()
		err = h(ctx, job)
		return err
	}
}

func (r *Recorder) ended(ctx context.Context, job jobs.Job, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.Canceled): // by a hard stop: the job goes back to the queue; or by somebody
		r.attempts[job.ID] = fmt.Sprintf("attempt %d was interrupted or cancelled", job.Attempt)
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

// TriggerAndWait triggers a job and returns what became of it, retries included. It
// fails t when the trigger is refused, when the scheduler is not started, and when
// there is no outcome within [Recorder].Wait.
func (r *Recorder) TriggerAndWait(t testing.TB, name string, data any, opts ...jobs.TriggerOption) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.wait())
	defer cancel()
	if h, err := r.Health(ctx); err == nil && !h.Started {
		t.Fatalf("jobstest: the scheduler is not started, so %q would wait", name)
	}
	id, err := r.Trigger(ctx, name, data, opts...)
	if err != nil {
		t.Fatalf("jobstest: Trigger of %q: %s", name, err)
	}
	return r.Await(t, id)
}

// Await returns what became of the job with that ID, when it has come to an end. It
// fails t when there is no outcome within [Recorder].Wait, as of a job that was
// skipped or cancelled, or that was not registered on this recorder. Of a job that
// was retried by [jobs.Retrier] it returns the first outcome; Outcomes has them all.
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

// outcome returns the outcome of a job, or a channel to wait for the next one of
// any job.
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

// last tells what is known of a job without an outcome.
func (r *Recorder) last(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.attempts[id], "no attempt of it has ended")
}

// Outcomes returns what became of the jobs of that name, ticks and triggered ones,
// in the order in which they ended.
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

// A Matcher tells whether a job is one that a test looks for. [Data] and [DataWith]
// make the usual ones.
type Matcher func(Enqueued) bool

// Data matches a job whose data is equal to v as JSON.
func Data(v any) Matcher {
	want, err := json.Marshal(v)
	return func(e Enqueued) bool { return err == nil && equal.JSON(want, e.Data) }
}

// DataWith matches a job whose data has that value, equal as JSON, at that key of
// the top level.
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

// Enqueued returns the jobs of that name that were triggered and that all matchers
// accept, the first one first. It does not matter whether they have run.
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

// RequireEnqueued fails t unless a job of that name was triggered that all matchers
// accept. It returns the first one.
func (r *Recorder) RequireEnqueued(t testing.TB, name string, match ...Matcher) Enqueued {
	t.Helper()
	found := r.Enqueued(name, match...)
	if len(found) == 0 {
		t.Fatalf("jobstest: no such job %q was enqueued; of that name were:%s", name, list(r.Enqueued(name)))
	}
	return found[0]
}

// RequireNotEnqueued fails t if a job of that name was triggered that all matchers
// accept.
func (r *Recorder) RequireNotEnqueued(t testing.TB, name string, match ...Matcher) {
	t.Helper()
	if found := r.Enqueued(name, match...); len(found) > 0 {
		t.Fatalf("jobstest: jobs %q were enqueued:%s", name, list(found))
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
