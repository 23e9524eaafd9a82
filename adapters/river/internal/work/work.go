// Package work executes one attempt of a run: it decodes the row, moves or skips the run if it must not start here
// and now, calls the handler, and reports the result to River.
package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/flow"
	"github.com/everytick/everytick/adapters/river/internal/queues"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Env is what all attempts in a process share. All fields are required.
type Env struct {
	Store *store.Store
	Log   *slog.Logger
	App   *pgxpool.Pool // for handlers
	Own   *pgxpool.Pool // for queries before and after handlers
	// Client is the ID of River's client.
	Client string
	// Paused reports whether a job is paused, as far as this process knows.
	Paused func(name string) bool
	// Suspect reports whether others may have taken this process for dead after since.
	Suspect func(since time.Time) bool
	// Succeeded is called when the run of a tick has succeeded.
	Succeeded func(name string, tick time.Time)
	// LastSuccess returns the latest tick of the job whose run has succeeded.
	LastSuccess func(ctx context.Context, name string) (time.Time, error)
	// Ended is called when an attempt ends, before River has its result.
	Ended func(id int64, attempt int, report flow.Report)
	// EndedRuns returns the runs of this process that have ended, and whose results are not stored yet. It is not nil.
	EndedRuns func() []int64
	// Refused is called with each error of a statement on App that an attempt needs.
	Refused func(error)
	// Stopping is closed when a shutdown cancels running jobs.
	Stopping <-chan struct{}
	// Going knows the handlers that are running in this process.
	Going *Going
}

// args is the type of every worker's args: any JSON object, with the job's registered name as its kind. River
// converts it to an interface for each run, which allocates nothing for a type of one pointer.
type args struct{ *rowData }

type rowData struct {
	kind string
	// retryAfter is set by Work and read by NextRetry, for the same attempt.
	retryAfter *time.Duration
}

// Kind implements [riverqueue.JobArgs].
func (a args) Kind() string {
	if a.rowData == nil { // River calls it on the zero value
		return ""
	}
	return a.kind
}

// UnmarshalJSON does nothing, because the handler decodes the data, which it gets from the row.
func (a *args) UnmarshalJSON([]byte) error { return nil }

// Metadata keys that an attempt writes. The SQL of package store uses them too.
const (
	metaSkipped = "everytick_skipped" // why the run was skipped
	metaStarted = "everytick_started" // true if an attempt of a job with jobs.StartWithin started in time
	metaSnoozed = "everytick_snoozed" // a Snoozed
)

// Meta is the part of a row's metadata that an attempt reads.
type Meta struct {
	Tick     any               `json:"everytick_tick,omitempty"` // a time; true in rows of older versions
	Missed   int               `json:"everytick_missed,omitempty"`
	Open     bool              `json:"everytick_open,omitempty"` // inserted without knowing the job's options
	Started  bool              `json:"everytick_started,omitempty"`
	Retried  bool              `json:"everytick_retried,omitempty"` // by hand
	Snoozed  Snoozed           `json:"everytick_snoozed,omitzero"`
	Metadata map[string]string `json:"everytick_metadata,omitempty"` // of jobs.TriggerMiddleware
	// With jobs.Latest, earlier runs of the key that must not start after this one, and the later run that has started.
	Overtakes []int64 `json:"everytick_overtakes,omitempty"`
	Overtaken int64   `json:"everytick_overtaken,omitempty"`
	// Fingerprint is that of the trigger with a jobs.IdempotencyKey.
	Fingerprint string `json:"everytick_fingerprint,omitempty"`
}

// Snoozed is how often a handler has snoozed its run with jobs.Snooze, and why the last time.
type Snoozed struct {
	Count  int    `json:"count"`
	Reason string `json:"reason"`
}

// A worker runs one registered job.
type worker struct {
	riverqueue.WorkerDefaults[args]
	env   *Env
	job   *provider.Definition
	queue string
	slots *queues.Slots
}

// Add adds the worker of a job, whose runs belong in queue.
func Add(to *riverqueue.Workers, env *Env, job *provider.Definition, queue string, slots *queues.Slots) {
	riverqueue.AddWorkerArgs(to, args{&rowData{kind: job.Name}}, &worker{env: env, job: job, queue: queue, slots: slots})
}

const (
	// transientSnooze is the wait after something other than the handler failed. The attempt does not count.
	transientSnooze = 2 * time.Second
	// prepareTimeout bounds the queries before the handler.
	prepareTimeout = 15 * time.Second
	// besideSnooze is the wait of a run whose handler is still running here for an earlier attempt.
	besideSnooze = 5 * time.Second
	// storedWithin is how long a tick waits before it is skipped for the run of another process, which may have ended.
	// River stores results every 250 ms.
	storedWithin = 400 * time.Millisecond
)

// An attempt is one execution of a job's handler, with the steps around it.
type attempt struct {
	*worker
	row   *rivertype.JobRow
	meta  Meta
	run   *jobs.Job
	began time.Time
	// conn is the connection of a transactional job, and ending what became of its transaction.
	conn   *pgxpool.Conn
	ending ending
	// retryAfter is the wait before the next attempt; if nil, [provider.Definition.Backoff] decides.
	retryAfter *time.Duration
	// gaveUp is whether the run fails for good with this attempt.
	gaveUp bool
}

// steps are the steps of an attempt, in order. One that returns an error is the last.
var steps = []func(*attempt, context.Context) error{
	(*attempt).decode, (*attempt).place, (*attempt).connect, (*attempt).skip, (*attempt).open, (*attempt).call,
}

// Work implements [riverqueue.Worker].
func (w *worker) Work(ctx context.Context, job *riverqueue.Job[args]) error {
	w.slots.Take()
	defer w.slots.Free()
	a := &attempt{worker: w, row: job.JobRow, began: time.Now()}
	defer a.disconnect()
	var err error
	for i := 0; i < len(steps) && err == nil; i++ {
		err = steps[i](a, ctx)
	}
	if a.retryAfter != nil {
		job.Args.rowData = &rowData{retryAfter: a.retryAfter}
	}
	report, err := a.result(ctx, err)
	w.env.Ended(job.ID, a.row.Attempt, report)
	if report != flow.Stored {
		return unreported{}
	}
	return err
}

// unreported makes River report nothing: for an error with the method Jobs, River reports those jobs, and here there are
// none. If a hook or middleware wraps it, flow drops what River reports.
type unreported struct{}

func (unreported) Error() string               { return "the result of the attempt is not stored" }
func (unreported) Jobs() []*rivertype.JobRow   { return nil }
func (unreported) ErrorsByID() map[int64]error { return nil }

// result returns whether the result of an attempt that ended with err is stored, and what River is told.
func (a *attempt) result(ctx context.Context, err error) (flow.Report, error) {
	switch a.ending {
	case committed: // the row is not the attempt's anymore
		return flow.Stored, nil
	case lost:
		return flow.Foreign, err
	case unknown:
		return flow.Left, err
	}
	report := a.own(ctx, err)
	if report == flow.Stored && a.gaveUp && !a.noteFailed(ctx) {
		report = flow.Left
	}
	return report, err
}

// NextRetry implements [riverqueue.Worker].
func (w *worker) NextRetry(job *riverqueue.Job[args]) time.Time {
	if data := job.Args.rowData; data != nil && data.retryAfter != nil {
		return time.Now().Add(*data.retryAfter)
	}
	return time.Now().Add(w.job.Backoff(strconv.FormatInt(job.ID, 10), job.Attempt)) // the handler was not called
}

// log returns a logger for the run. Creating one costs more than the rest of a short run, so only those who log do.
func (a *attempt) log() *slog.Logger {
	return a.env.Log.With("job", a.job.Name, "job_id", strconv.FormatInt(a.row.ID, 10))
}

// decode sets run and meta from the row.
func (a *attempt) decode(ctx context.Context) error {
	if bytes.Contains(a.row.Metadata, []byte(`"everytick_`)) {
		if err := json.Unmarshal(a.row.Metadata, &a.meta); err != nil {
			return a.reject(ctx, fmt.Errorf("river: metadata does not decode: %w", err))
		}
	}
	a.run = &jobs.Job{
		ID: strconv.FormatInt(a.row.ID, 10), Name: a.job.Name, Data: a.row.EncodedArgs,
		Attempt: a.row.Attempt, MaxAttempts: a.row.MaxAttempts,
		Missed: a.meta.Missed, Snoozes: a.meta.Snoozed.Count, Metadata: a.meta.Metadata,
		StartedAt: a.row.AttemptedAt.UTC(), DB: a.env.App,
	}
	switch tick := a.meta.Tick.(type) {
	case nil:
	case string:
		at, err := time.Parse(time.RFC3339Nano, tick)
		if err != nil {
			return a.reject(ctx, fmt.Errorf("river: tick does not decode: %w", err))
		}
		if a.run.Tick = at.UTC(); a.job.Schedule == nil {
			return a.endSkipped(ctx, "skipped: the job has no schedule in this version")
		}
	default:
		return a.endSkipped(ctx, "skipped: the tick was stored by an older version")
	}
	return nil
}

// reject ends a run that cannot be decoded.
func (a *attempt) reject(ctx context.Context, err error) error {
	a.log().ErrorContext(ctx, "job failed for good", "error", err)
	a.gaveUp = true
	return riverqueue.JobCancel(err)
}

// endSkipped ends the run as skipped and stores the reason.
func (a *attempt) endSkipped(ctx context.Context, reason string) error {
	log := a.log()
	if !a.run.Tick.IsZero() {
		log = log.With("tick", a.run.Tick)
	}
	log.WarnContext(ctx, "job "+reason)
	if err := riverqueue.MetadataSet(ctx, metaSkipped, reason); err != nil {
		return err
	}
	a.job.Skipped(ctx, a.env.Log, jobs.Run{
		ID: a.run.ID, Tick: a.run.Tick, MaxAttempts: a.row.MaxAttempts, CreatedAt: a.row.CreatedAt.UTC(),
		DueAt: a.row.ScheduledAt.UTC(), EndedAt: a.run.StartedAt, Error: reason, Data: bytes.Clone(a.row.EncodedArgs),
	})
	return riverqueue.JobCancel(errors.New(reason))
}

// place moves the run to its queue if it is in another one, and gives it the number of attempts that the job is
// registered with if the process that inserted it did not know the job.
func (a *attempt) place(ctx context.Context) error {
	queue := a.queue
	if a.env.Paused(a.job.Name) {
		queue = store.PausedQueue
	}
	open := a.meta.Open && a.row.Attempt == 1 && a.row.MaxAttempts != a.job.MaxAttempts
	if a.row.Queue == queue && !open {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if a.row.Queue != queue {
		if err := a.env.Store.SetQueue(ctx, a.env.Own, a.row.ID, queue); err != nil {
			return a.postpone(ctx, "could not move it to its queue", err)
		}
		// Keep the time at which it was due. With JobSnooze(0) it would come after the runs inserted since and would
		// not count as late. It is due, whatever this process's clock says, so the duration is not positive.
		return &riverqueue.JobSnoozeError{Duration: min(0, time.Until(a.row.ScheduledAt))}
	}
	if err := a.env.Store.SetMaxAttempts(ctx, a.env.Own, a.row.ID, a.job.MaxAttempts); err != nil {
		return a.postpone(ctx, "could not store its number of attempts", err)
	}
	a.row.MaxAttempts = a.job.MaxAttempts // River reads it after an error
	a.run.MaxAttempts = a.row.MaxAttempts
	return nil
}

// postpone makes the run wait because a query failed.
func (a *attempt) postpone(ctx context.Context, why string, err error) error {
	a.log().WarnContext(ctx, "job postponed: "+why, "tick", a.run.Tick, "error", err)
	return riverqueue.JobSnooze(transientSnooze)
}

// skip ends the run if Overlap or StartWithin say so, or if a run with newer data for its key has started.
func (a *attempt) skip(ctx context.Context) error {
	if a.meta.Overtaken != 0 {
		return a.endSkipped(ctx, provider.Overtaken(strconv.FormatInt(a.meta.Overtaken, 10)))
	}
	overlaps := false
	if !a.run.Tick.IsZero() && a.job.Overlap == jobs.OverlapSkip {
		var err error
		if overlaps, err = a.overlaps(ctx); overlaps && err == nil {
			began := time.Now()
			select {
			case <-time.After(storedWithin):
			case <-ctx.Done():
			}
			overlaps, err = a.overlaps(ctx)
			a.run.StartedAt = a.run.StartedAt.Add(time.Since(began))
		}
		if err != nil {
			return a.postpone(ctx, "could not check for another run", err)
		}
	}
	due := a.row.ScheduledAt
	if !a.run.Tick.IsZero() {
		due = a.run.Tick
	}
	if a.meta.Started || a.meta.Retried {
		due = a.run.StartedAt // an earlier attempt started in time, or somebody retried it by hand
	}
	if reason := a.job.Skip(a.run, due, overlaps); reason != "" {
		return a.endSkipped(ctx, reason)
	}
	if err := a.overtake(ctx); err != nil {
		return a.postpone(ctx, "could not mark earlier runs of its key", err)
	}
	if a.job.StartWithin > 0 {
		return riverqueue.MetadataSet(ctx, metaStarted, true)
	}
	return nil
}

// overlaps reports whether another run of the job is in progress, or has ended in another process and its result is not
// stored yet. If not, it lets this one through.
func (a *attempt) overlaps(ctx context.Context) (overlaps bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	limits := store.Limits{Statement: prepareTimeout, Idle: prepareTimeout}
	err = a.env.Store.InTx(bounded, a.env.Own, limits, func(tx pgx.Tx) (err error) {
		overlaps, err = a.env.Store.LetThrough(
			bounded, tx, a.run.Name, a.row.ID, a.run.Attempt > 1 || a.run.Snoozes > 0, a.env.EndedRuns())
		return err
	})
	return overlaps || a.env.Going.beside(a.run.Name, a.row.ID), err
}

// open sets where the window of a tick's run begins. It asks at each attempt: runs of earlier and later ticks may have
// succeeded since the tick was inserted.
func (a *attempt) open(ctx context.Context) error {
	if a.run.Tick.IsZero() {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	last, err := a.env.LastSuccess(bounded, a.run.Name)
	if err != nil {
		return a.postpone(ctx, "could not read the latest success", err)
	}
	a.run.PrevSuccess = provider.PrevSuccess(last, a.run.Tick)
	return nil
}

// overtake makes earlier runs of the key end if they are started again. It uses a statement for each: one that waits
// for a row while it holds another could deadlock with River's, which store several results in no particular order.
func (a *attempt) overtake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	for _, id := range a.meta.Overtakes {
		if err := a.env.Store.Overtake(ctx, a.env.Own, id, a.row.ID); err != nil {
			return err
		}
	}
	return nil
}

// call calls the handler, unless it is still running here for an earlier attempt of the same run.
func (a *attempt) call(ctx context.Context) error {
	began, first := a.env.Going.begin(a.run.Name, a.row.ID)
	if !began {
		if first {
			a.log().WarnContext(ctx, "job postponed: the handler is still running in this process for an earlier attempt",
				"attempt", a.run.Attempt)
		}
		return riverqueue.JobSnooze(besideSnooze)
	}
	defer a.env.Going.end(a.row.ID)
	if a.run.Missed > 0 && a.run.Attempt == 1 && a.run.Snoozes == 0 {
		a.log().WarnContext(ctx, "late run: earlier ticks were missed and get no run of their own",
			"tick", a.run.Tick, "ticks_missed", a.run.Missed, "late_by", a.run.Late())
	}
	var err error
	if a.job.Transactional {
		err = a.runTx(ctx)
	} else {
		err = a.job.Run(ctx, a.run, a.env.Log)
	}
	if a.ending == lost || a.ending == unknown {
		return err // nothing is reported
	}
	if a.ending == covered {
		a.log().InfoContext(ctx, "another run of the schedule has succeeded meanwhile; running again from its tick on", "tick", a.run.Tick)
		return riverqueue.JobSnooze(0) // the attempt does not count
	}
	if a.ending == notBegun && err != nil && ctx.Err() == nil {
		return a.postpone(ctx, "its transaction did not begin", err)
	}
	if recordErr := a.recordOutput(ctx); recordErr != nil {
		return recordErr
	}
	if err != nil {
		return a.failed(ctx, err)
	}
	if !a.run.Tick.IsZero() {
		a.env.Succeeded(a.run.Name, a.run.Tick)
	}
	return nil
}

// recordOutput passes what the handler has set with SetOutput to River, which stores it with the result.
func (a *attempt) recordOutput(ctx context.Context) error {
	if output := a.run.Output(); output != nil {
		return riverqueue.RecordOutput(ctx, output)
	}
	return nil
}

// failed converts the handler's error to what River needs to retry the run, end it, or give the attempt back.
func (a *attempt) failed(ctx context.Context, err error) error {
	log := a.run.Logger.With("error", err)
	var panicked *jobs.PanicError
	if errors.As(err, &panicked) {
		log = log.With("stack", panicked.Stack)
		err = fmt.Errorf("%w\n\n%s", err, panicked.Stack) // stored with the run
	}
	remotely := errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely)
	if ctx.Err() != nil && a.stopping() && !remotely && a.ending != cancelled {
		log.WarnContext(ctx, "job interrupted by the shutdown; it goes back to the queue")
		return interrupted(ctx, err)
	}
	if remotely {
		log.WarnContext(ctx, "job was cancelled")
		return err // River ends the run
	}
	if a.ending == cancelled { // and River has not told this process yet
		log.WarnContext(ctx, "job was cancelled")
		return riverqueue.JobCancel(err)
	}
	if delay, reason, ok := a.job.Snooze(err); ok { // River does not count the attempt
		a.run.Logger.InfoContext(ctx, "job snoozed", "starts_in", delay, "reason", reason)
		if err := riverqueue.MetadataSet(ctx, metaSnoozed, Snoozed{Count: a.run.Snoozes + 1, Reason: reason}); err != nil {
			return err
		}
		return riverqueue.JobSnooze(delay)
	}
	delay, again := a.job.Retry(a.run, err)
	if again {
		log.WarnContext(ctx, "job failed and will be retried", "retry_in", delay, "max_attempts", a.run.MaxAttempts)
		a.retryAfter = &delay
		return err
	}
	log.ErrorContext(ctx, "job failed for good", "max_attempts", a.run.MaxAttempts)
	a.gaveUp = true
	if a.run.Attempt < a.run.MaxAttempts { // Permanent
		return riverqueue.JobCancel(err)
	}
	return err
}

// ErrStartFailed is the cause with which a session ends the client's context if its Start has failed.
var ErrStartFailed = errors.New("the start failed")

// interrupted returns what makes River give the attempt back, uncounted. Only in a client that is being stopped,
// context.Canceled does that.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrStartFailed) {
		return riverqueue.JobSnooze(0)
	}
	return fmt.Errorf("%w: %w", context.Canceled, err)
}

func (a *attempt) stopping() bool {
	select {
	case <-a.env.Stopping:
		return true
	default:
		return false
	}
}

// own returns whether the attempt still belongs to this process: after a gap in the heartbeats, others may have rescued
// the run, and another process may be running it. River checks only that the row is running, so a late report would end
// the other attempt.
func (a *attempt) own(ctx context.Context, result error) flow.Report {
	for a.env.Suspect(a.began) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), prepareTimeout)
		owned, err := a.env.Store.OwnedAttempts(bounded, a.env.Own, a.env.Client, []int64{a.row.ID}, []int{a.row.Attempt}, false)
		cancel()
		if len(owned) > 0 {
			return flow.Stored
		}
		if err == nil {
			a.log().WarnContext(ctx, "run ended after its job was given to another process: its result is not stored",
				"attempt", a.row.Attempt, "result", result)
			return flow.Foreign
		}
		select {
		case <-time.After(transientSnooze):
		case <-a.env.Stopping:
			return flow.Left // others rescue the run once this process has stopped
		}
	}
	return flow.Stored
}

// noteFailed stores that the functions of jobs.OnFailed are to be called, before River stores the failure. It tries
// until the database answers. If a shutdown ends that, it returns false, and the failure must not be reported: others
// find the run and do both.
func (a *attempt) noteFailed(ctx context.Context) bool {
	if !a.job.CallsOnFailed() {
		return true
	}
	for {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), prepareTimeout)
		err := a.env.Store.NoteFailed(bounded, a.env.Own, a.row.ID, a.job.Name)
		cancel()
		if err == nil {
			return true
		}
		a.log().WarnContext(ctx, "could not store that OnFailed is to be called; retrying until it succeeds", "error", err)
		select {
		case <-time.After(transientSnooze):
		case <-a.env.Stopping:
			return false
		}
	}
}
