package river

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
)

// rowArgs are the args of every job to its worker: any JSON object, under the kind that is
// the job's registered name. River makes an interface of them for each run, which costs no
// memory of what is as large as a pointer.
type rowArgs struct{ *rowData }

type rowData struct {
	kind string
	// retryAfter is set by Work and read by NextRetry, on the same attempt.
	retryAfter *time.Duration
}

// Kind implements [riverqueue.JobArgs].
func (a rowArgs) Kind() string {
	if a.rowData == nil { // River asks of a zero value, for hooks that there are none of
		return ""
	}
	return a.kind
}

// UnmarshalJSON does nothing: the handler decodes the data, which the row has as well.
func (a *rowArgs) UnmarshalJSON([]byte) error { return nil }

// Metadata keys of ours in River's rows, besides those of package schedule. The .sql files of package store write
// them out.
const (
	metaSkipped = "everytick_skipped" // why the job was not run
	metaStarted = "everytick_started" // true: an attempt began, of a job with jobs.StartWithin
)

// rowMeta is what a run reads of them.
type rowMeta struct {
	Tick     any               `json:"everytick_tick,omitempty"` // an instant; true in rows of an older form
	Missed   int               `json:"everytick_missed,omitempty"`
	Open     bool              `json:"everytick_open,omitempty"` // inserted by a process that does not know the job's options
	Started  bool              `json:"everytick_started,omitempty"`
	Retried  bool              `json:"everytick_retried,omitempty"`  // by hand
	Metadata map[string]string `json:"everytick_metadata,omitempty"` // of jobs.TriggerMiddleware
}

// worker runs the jobs of one registered name.
type worker struct {
	riverqueue.WorkerDefaults[rowArgs]
	s       *Scheduler
	session *session
	job     *jobs.Definition
	queue   string
	slots   *slots
}

// slots are those of the workers of a queue in this process.
type slots struct {
	n     int
	taken atomic.Int64
}

func (s *slots) allTaken() bool { return s.taken.Load() >= int64(s.n) }

// The waits of a run that asks the database before its handler is called.
const (
	// transientSnooze is the wait when something other than the handler failed. The attempt is not used up.
	transientSnooze = 2 * time.Second
	// prepareTimeout bounds what it asks.
	prepareTimeout = 15 * time.Second
)

// An attempt is one run of a job's handler, as it goes through its steps.
type attempt struct {
	*worker
	row   *rivertype.JobRow
	meta  rowMeta
	job   *jobs.Job
	began time.Time // by the monotonic clock
	// retryAfter is when the next one is due; nil: by [jobs.Definition.Backoff].
	retryAfter *time.Duration
}

// Work implements [riverqueue.Worker]: it decodes the row, moves or skips the job if it is not to run here and
// now, runs the handler, and reports what follows, each in River's terms.
func (w *worker) Work(ctx context.Context, job *riverqueue.Job[rowArgs]) error {
	w.slots.taken.Add(1)
	defer w.slots.taken.Add(-1)
	a := &attempt{worker: w, row: job.JobRow, began: time.Now()}
	err := a.decode(ctx)
	if err == nil {
		err = a.place(ctx)
	}
	if err == nil {
		err = a.skip(ctx)
	}
	if err == nil {
		err = a.run(ctx)
	}
	if a.retryAfter != nil {
		job.Args.rowData = &rowData{retryAfter: a.retryAfter}
	}
	return a.own(ctx, err)
}

// NextRetry implements [riverqueue.Worker].
func (w *worker) NextRetry(job *riverqueue.Job[rowArgs]) time.Time {
	if args := job.Args.rowData; args != nil && args.retryAfter != nil {
		return time.Now().Add(*args.retryAfter)
	}
	return time.Now().Add(w.job.Backoff(job.Attempt)) // the handler was not called
}

// log is made when it is needed: it costs more than all else of a short run.
func (a *attempt) log() *slog.Logger {
	return a.s.log.With("job", a.worker.job.Name, "job_id", formatID(a.row.ID))
}

// decode reads the row.
func (a *attempt) decode(ctx context.Context) error {
	if bytes.Contains(a.row.Metadata, []byte(`"everytick_`)) {
		if err := json.Unmarshal(a.row.Metadata, &a.meta); err != nil {
			return a.giveUp(ctx, fmt.Errorf("river: metadata does not decode: %w", err))
		}
	}
	a.job = &jobs.Job{
		ID: formatID(a.row.ID), Name: a.worker.job.Name, Data: a.row.EncodedArgs,
		Attempt: a.row.Attempt, MaxAttempts: a.row.MaxAttempts,
		Missed: a.meta.Missed, Metadata: a.meta.Metadata,
		StartedAt: a.row.AttemptedAt.UTC(), DB: a.s.pool,
	}
	switch tick := a.meta.Tick.(type) {
	case nil:
	case string:
		at, err := time.Parse(time.RFC3339Nano, tick)
		if err != nil {
			return a.giveUp(ctx, fmt.Errorf("river: tick does not decode: %w", err))
		}
		a.job.Tick = at.UTC()
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
	a.log().Log(ctx, level, "job "+reason, "tick", a.job.Tick)
	if err := riverqueue.MetadataSet(ctx, metaSkipped, reason); err != nil {
		return err
	}
	return riverqueue.JobCancel(errors.New(reason))
}

// place moves a job to the queue where it belongs, and gives it the attempts that it is registered with.
func (a *attempt) place(ctx context.Context) error {
	queue := a.queue
	if a.s.pauses.has(a.worker.job.Name) {
		queue = store.PausedQueue
	}
	open := a.meta.Open && a.row.Attempt == 1 && a.row.MaxAttempts != a.worker.job.MaxAttempts
	if a.row.Queue == queue && !open {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if a.row.Queue != queue {
		if err := a.s.store.SetQueue(ctx, a.session.pool, a.row.ID, queue); err != nil {
			return a.putOff(ctx, "it could not be moved to its queue", err)
		}
		return putBack(a.row)
	}
	if err := a.s.store.SetMaxAttempts(ctx, a.session.pool, a.row.ID, a.worker.job.MaxAttempts); err != nil {
		return a.putOff(ctx, "its number of attempts could not be stored", err)
	}
	a.row.MaxAttempts = a.worker.job.MaxAttempts // River compares it
	a.job.MaxAttempts = a.row.MaxAttempts
	return nil
}

// putOff makes a job wait since the database did not answer.
func (a *attempt) putOff(ctx context.Context, why string, err error) error {
	a.log().WarnContext(ctx, "job is put off: "+why, "tick", a.job.Tick, "error", err)
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
	if !a.job.Tick.IsZero() && a.worker.job.Overlap == jobs.Skip {
		bounded, cancel := context.WithTimeout(ctx, prepareTimeout)
		defer cancel()
		err := pgx.BeginTxFunc(bounded, a.session.pool, readCommitted, func(tx pgx.Tx) (err error) {
			limits := store.Limits{Statement: prepareTimeout, Idle: prepareTimeout}
			if err := a.s.store.SetLimits(bounded, tx, limits); err != nil {
				return err
			}
			overlaps, err = a.s.store.LetThrough(bounded, tx, a.job.Name, a.row.ID)
			return err
		})
		if err != nil {
			return a.putOff(ctx, "cannot tell whether another run goes on", err)
		}
	}
	due := a.row.ScheduledAt
	if !a.job.Tick.IsZero() {
		due = a.job.Tick
	}
	if a.meta.Started || a.meta.Retried {
		due = a.job.StartedAt // it did start in time, and was interrupted, or somebody wants it now
	}
	if reason := a.worker.job.Skip(a.job, due, overlaps); reason != "" {
		return a.end(ctx, slog.LevelWarn, reason)
	}
	if a.worker.job.StartWithin > 0 {
		return riverqueue.MetadataSet(ctx, metaStarted, true)
	}
	return nil
}

// run calls the handler.
func (a *attempt) run(ctx context.Context) error {
	err := a.worker.job.Run(ctx, a.job, a.s.log)
	if err != nil {
		return a.failed(ctx, err)
	}
	if !a.job.Tick.IsZero() {
		a.session.ticker.Succeeded(a.job.Name, a.job.Tick)
	}
	return nil
}

// failed says in River's terms what follows from the handler's error.
func (a *attempt) failed(ctx context.Context, err error) error {
	log := a.job.Logger.With("error", err)
	var panicked *jobs.PanicError
	if errors.As(err, &panicked) {
		log = log.With("stack", panicked.Stack)
		err = fmt.Errorf("%w\n\n%s", err, panicked.Stack) // into the job's history
	}
	cancelled := errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely)
	if ctx.Err() != nil && a.session.stopping.Load() && !cancelled {
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
	delay, again := a.worker.job.Retry(a.job, err)
	if again {
		log.WarnContext(ctx, "job failed and is retried", "retry_in", delay, "max_attempts", a.job.MaxAttempts)
		a.retryAfter = &delay
		return err
	}
	log.ErrorContext(ctx, "job failed for good", "max_attempts", a.job.MaxAttempts)
	if a.job.Attempt < a.job.MaxAttempts { // Permanent
		return riverqueue.JobCancel(err)
	}
	return err
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
	for a.session.process.Suspect(a.began) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), prepareTimeout)
		owns, askErr := a.s.store.OwnsAttempt(bounded, a.session.pool, a.row.ID, a.row.Attempt, a.session.client.ID())
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
		case <-a.session.ending:
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
