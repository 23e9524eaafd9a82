// Package work runs one attempt of a job: it decodes the row, moves or skips the job if it is not to run here and
// now, runs the handler, and reports to River what follows.
package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Env is what the attempts of a process share. Every field has to be set.
type Env struct {
	Store *store.Store
	Log   *slog.Logger
	App   *pgxpool.Pool // that handlers get
	Own   *pgxpool.Pool // for what goes on before and after them
	// Client is the ID of River's client.
	Client string
	// Paused reports whether a job is, as far as this process knows.
	Paused func(name string) bool
	// Suspect reports whether others may have given this process up since then.
	Suspect func(since time.Time) bool
	// Succeeded takes note that the run of a tick has succeeded.
	Succeeded func(name string, tick time.Time)
	// Stopping is closed once running jobs are cancelled by a shutdown.
	Stopping <-chan struct{}
}

// Args are the args of every job to its worker: any JSON object, under the kind that is
// the job's registered name. River makes an interface of them for each run, which costs no
// memory of what is as large as a pointer.
type Args struct{ *rowData }

type rowData struct {
	kind string
	// retryAfter is set by Work and read by NextRetry, on the same attempt.
	retryAfter *time.Duration
}

// Kind implements [riverqueue.JobArgs].
func (a Args) Kind() string {
	if a.rowData == nil { // River asks of a zero value, for hooks that there are none of
		return ""
	}
	return a.kind
}

// UnmarshalJSON does nothing: the handler decodes the data, which the row has as well.
func (a *Args) UnmarshalJSON([]byte) error { return nil }

// Metadata keys of ours in River's rows, besides those of package schedule. The .sql files of package store write
// them out.
const (
	metaSkipped = "everytick_skipped" // why the job was not run
	metaStarted = "everytick_started" // true: an attempt began, of a job with jobs.StartWithin
)

// Meta is what an attempt reads of them.
type Meta struct {
	Tick     any               `json:"everytick_tick,omitempty"` // an instant; true in rows of an older form
	Missed   int               `json:"everytick_missed,omitempty"`
	Open     bool              `json:"everytick_open,omitempty"` // inserted by a process that does not know the job's options
	Started  bool              `json:"everytick_started,omitempty"`
	Retried  bool              `json:"everytick_retried,omitempty"`  // by hand
	Metadata map[string]string `json:"everytick_metadata,omitempty"` // of jobs.TriggerMiddleware
}

// Slots are those of the workers of a queue in this process.
type Slots struct {
	N     int
	taken atomic.Int64
}

// Taken returns how many are.
func (s *Slots) Taken() int { return int(s.taken.Load()) }

// A Worker runs the jobs of one registered name.
type Worker struct {
	riverqueue.WorkerDefaults[Args]
	env   *Env
	job   *provider.Definition
	queue string
	slots *Slots
}

// Add gives River the worker of a job, whose rows belong into queue.
func Add(to *riverqueue.Workers, env *Env, job *provider.Definition, queue string, slots *Slots) {
	riverqueue.AddWorkerArgs(to, Args{&rowData{kind: job.Name}}, &Worker{env: env, job: job, queue: queue, slots: slots})
}

// The waits of a run that asks the database before its handler is called.
const (
	// transientSnooze is the wait when something other than the handler failed. The attempt is not used up.
	transientSnooze = 2 * time.Second
	// prepareTimeout bounds what it asks.
	prepareTimeout = 15 * time.Second
)

// An attempt is one run of a job's handler, as it goes through its steps.
type attempt struct {
	*Worker
	row   *rivertype.JobRow
	meta  Meta
	run   *jobs.Job
	began time.Time // by the monotonic clock
	// retryAfter is when the next one is due; nil: by [provider.Definition.Backoff].
	retryAfter *time.Duration
}

// Work implements [riverqueue.Worker]: it decodes the row, moves or skips the job if it is not to run here and
// now, runs the handler, and reports what follows, each in River's terms.
func (w *Worker) Work(ctx context.Context, job *riverqueue.Job[Args]) error {
	w.slots.taken.Add(1)
	defer w.slots.taken.Add(-1)
	a := &attempt{Worker: w, row: job.JobRow, began: time.Now()}
	err := a.decode(ctx)
	if err == nil {
		err = a.place(ctx)
	}
	if err == nil {
		err = a.skip(ctx)
	}
	if err == nil {
		err = a.call(ctx)
	}
	if a.retryAfter != nil {
		job.Args.rowData = &rowData{retryAfter: a.retryAfter}
	}
	return a.own(ctx, err)
}

// NextRetry implements [riverqueue.Worker].
func (w *Worker) NextRetry(job *riverqueue.Job[Args]) time.Time {
	if args := job.Args.rowData; args != nil && args.retryAfter != nil {
		return time.Now().Add(*args.retryAfter)
	}
	return time.Now().Add(w.job.Backoff(job.Attempt)) // the handler was not called
}

// log is made when it is needed: it costs more than all else of a short run.
func (a *attempt) log() *slog.Logger {
	return a.env.Log.With("job", a.job.Name, "job_id", strconv.FormatInt(a.row.ID, 10))
}

// decode reads the row.
func (a *attempt) decode(ctx context.Context) error {
	if bytes.Contains(a.row.Metadata, []byte(`"everytick_`)) {
		if err := json.Unmarshal(a.row.Metadata, &a.meta); err != nil {
			return a.giveUp(ctx, fmt.Errorf("river: metadata does not decode: %w", err))
		}
	}
	a.run = &jobs.Job{
		ID: strconv.FormatInt(a.row.ID, 10), Name: a.job.Name, Data: a.row.EncodedArgs,
		Attempt: a.row.Attempt, MaxAttempts: a.row.MaxAttempts,
		Missed: a.meta.Missed, Metadata: a.meta.Metadata,
		StartedAt: a.row.AttemptedAt.UTC(), DB: a.env.App,
	}
	switch tick := a.meta.Tick.(type) {
	case nil:
	case string:
		at, err := time.Parse(time.RFC3339Nano, tick)
		if err != nil {
			return a.giveUp(ctx, fmt.Errorf("river: tick does not decode: %w", err))
		}
		a.run.Tick = at.UTC()
	default:
		return a.end(ctx, slog.LevelWarn, "skipped: the tick was stored by an older version, whose schedule is a row now")
	}
	return nil
}

// giveUp reports a job that no attempt can run, and ends it.
func (a *attempt) giveUp(ctx context.Context, err error) error {
	a.log().ErrorContext(ctx, "job failed for good", "error", err)
	return riverqueue.JobCancel(err)
}

// end skips the job, for a reason that its history tells.
func (a *attempt) end(ctx context.Context, level slog.Level, reason string) error {
	a.log().Log(ctx, level, "job "+reason, "tick", a.run.Tick)
	if err := riverqueue.MetadataSet(ctx, metaSkipped, reason); err != nil {
		return err
	}
	return riverqueue.JobCancel(errors.New(reason))
}

// place moves a job to the queue where it belongs, and gives it the attempts that it is registered with.
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
			return a.putOff(ctx, "it could not be moved to its queue", err)
		}
		return putBack(a.row)
	}
	if err := a.env.Store.SetMaxAttempts(ctx, a.env.Own, a.row.ID, a.job.MaxAttempts); err != nil {
		return a.putOff(ctx, "its number of attempts could not be stored", err)
	}
	a.row.MaxAttempts = a.job.MaxAttempts // River compares it
	a.run.MaxAttempts = a.row.MaxAttempts
	return nil
}

// putOff makes a job wait since the database did not answer.
func (a *attempt) putOff(ctx context.Context, why string, err error) error {
	a.log().WarnContext(ctx, "job is put off: "+why, "tick", a.run.Tick, "error", err)
	return riverqueue.JobSnooze(transientSnooze)
}

// putBack makes a job available again as of when it was due, with its attempt unused. One
// that is due anew, as after JobSnooze(0), would stand behind all that came after it, and
// would not be known to be late.
func putBack(row *rivertype.JobRow) error {
	// It is due, whatever our clock says.
	return &riverqueue.JobSnoozeError{Duration: min(0, time.Until(row.ScheduledAt))}
}

// skip ends a run that is not to start.
func (a *attempt) skip(ctx context.Context) (err error) {
	overlaps := false
	if !a.run.Tick.IsZero() && a.job.Overlap == jobs.OverlapSkip {
		bounded, cancel := context.WithTimeout(ctx, prepareTimeout)
		defer cancel()
		err := pgx.BeginTxFunc(bounded, a.env.Own, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
			limits := store.Limits{Statement: prepareTimeout, Idle: prepareTimeout}
			if err := a.env.Store.SetLimits(bounded, tx, limits); err != nil {
				return err
			}
			overlaps, err = a.env.Store.LetThrough(bounded, tx, a.run.Name, a.row.ID)
			return err
		})
		if err != nil {
			return a.putOff(ctx, "could not check for another run", err)
		}
	}
	due := a.row.ScheduledAt
	if !a.run.Tick.IsZero() {
		due = a.run.Tick
	}
	if a.meta.Started || a.meta.Retried {
		due = a.run.StartedAt // it did start in time, and was interrupted, or somebody wants it now
	}
	if reason := a.job.Skip(a.run, due, overlaps); reason != "" {
		return a.end(ctx, slog.LevelWarn, reason)
	}
	if a.job.StartWithin > 0 {
		return riverqueue.MetadataSet(ctx, metaStarted, true)
	}
	return nil
}

// call calls the handler.
func (a *attempt) call(ctx context.Context) error {
	if a.run.Missed > 0 && a.run.Attempt == 1 {
		a.log().WarnContext(ctx, "late run: earlier ticks have passed too and get no run of their own",
			"tick", a.run.Tick, "ticks_missed", a.run.Missed, "late_by", a.run.Late())
	}
	err := a.job.Run(ctx, a.run, a.env.Log)
	if err != nil {
		return a.failed(ctx, err)
	}
	if !a.run.Tick.IsZero() {
		a.env.Succeeded(a.run.Name, a.run.Tick)
	}
	return nil
}

// failed says in River's terms what follows from the handler's error.
func (a *attempt) failed(ctx context.Context, err error) error {
	log := a.run.Logger.With("error", err)
	var panicked *jobs.PanicError
	if errors.As(err, &panicked) {
		log = log.With("stack", panicked.Stack)
		err = fmt.Errorf("%w\n\n%s", err, panicked.Stack) // into the job's history
	}
	cancelled := errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely)
	if ctx.Err() != nil && a.stopping() && !cancelled {
		log.WarnContext(ctx, "job was interrupted by the shutdown and goes back to the queue")
		// River gives the attempt back when it sees context.Canceled.
		return fmt.Errorf("%w: %w", context.Canceled, err)
	}
	if cancelled {
		log.WarnContext(ctx, "job was cancelled")
		return err // River sees to it
	}
	if strings.ContainsRune(err.Error(), 0) {
		err = storableError{err}
	}
	delay, again := a.job.Retry(a.run, err)
	if again {
		log.WarnContext(ctx, "job failed and is retried", "retry_in", delay, "max_attempts", a.run.MaxAttempts)
		a.retryAfter = &delay
		return err
	}
	log.ErrorContext(ctx, "job failed for good", "max_attempts", a.run.MaxAttempts)
	if a.run.Attempt < a.run.MaxAttempts { // Permanent
		return riverqueue.JobCancel(err)
	}
	return err
}

func (a *attempt) stopping() bool {
	select {
	case <-a.env.Stopping:
		return true
	default:
		return false
	}
}

// storableError is an error whose text PostgreSQL can store: it refuses U+0000, and with
// it every completion of the batch.
type storableError struct{ error }

func (e storableError) Error() string { return strings.ReplaceAll(e.error.Error(), "\x00", `\x00`) }
func (e storableError) Unwrap() error { return e.error }

// own returns err, or what makes River report nothing if the attempt is not this process's any more: its
// heartbeats had a gap so long that others may have given the job to another process. River's completer asks only
// whether the job runs, so a late report would end the other's run.
func (a *attempt) own(ctx context.Context, err error) error {
	for a.env.Suspect(a.began) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), prepareTimeout)
		owns, askErr := a.env.Store.OwnsAttempt(bounded, a.env.Own, a.row.ID, a.row.Attempt, a.env.Client)
		cancel()
		if askErr == nil && owns {
			return err
		}
		if askErr == nil {
			a.log().WarnContext(ctx, "run ended after its job was given to another process: its result is not stored", "attempt", a.row.Attempt, "result", err)
			return notOurs{}
		}
		select {
		case <-time.After(transientSnooze):
		case <-a.env.Stopping:
			return notOurs{} // others find the job when this process is dead
		}
	}
	return err
}

// notOurs is the result of an attempt of which River is to report nothing: it reports the jobs of an error that
// has several, and this one has none.
type notOurs struct{}

func (notOurs) Error() string               { return "the attempt is not this process's any more" }
func (notOurs) Jobs() []*rivertype.JobRow   { return nil }
func (notOurs) ErrorsByID() map[int64]error { return nil }
