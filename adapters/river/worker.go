package river

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

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

// Metadata keys of ours in River's rows. The queries write metaTick out, since an
// index has it in its condition.
const (
	metaTick    = "everytick_tick"    // true: the row is a tick, its args are tickArgs
	metaOpen    = "everytick_open"    // true: enqueued by a process that does not know the job's options
	metaSkipped = "everytick_skipped" // why the job was not run
	metaStarted = "everytick_started" // true: an attempt began, of a job with jobs.StartWithin
	metaMissed  = "everytick_missed"  // how many later ticks a late one stands for
	metaNext    = "everytick_next"    // the one after these
	metaHeld    = "everytick_held"    // true: the tick waits for an earlier one; River runs it now and then, to look again
)

// rowMeta is what a run reads of them.
type rowMeta struct {
	Tick     bool              `json:"everytick_tick,omitempty"`
	Open     bool              `json:"everytick_open,omitempty"`
	Started  bool              `json:"everytick_started,omitempty"`
	Next     string            `json:"everytick_next,omitempty"`
	Held     bool              `json:"everytick_held,omitempty"`
	Metadata map[string]string `json:"everytick_metadata,omitempty"` // of jobs.TriggerMiddleware
}

// worker runs the jobs of one registered name.
type worker struct {
	riverqueue.WorkerDefaults[rowArgs]
	s     *Scheduler
	job   *jobs.Definition
	queue string
	spec  string // of the schedule, "" if there is none
	slots *slots
}

// slots are those of the workers of a queue in this process.
type slots struct {
	n     int
	taken atomic.Int64
}

func (s *slots) allTaken() bool { return s.taken.Load() >= int64(s.n) }

// NextRetry implements [riverqueue.Worker].
func (w *worker) NextRetry(job *riverqueue.Job[rowArgs]) time.Time {
	if args := job.Args.rowData; args != nil && args.retryAfter != nil {
		return time.Now().Add(*args.retryAfter)
	}
	return time.Now().Add(w.job.Backoff(job.Attempt)) // the handler was not called
}

// holdInterval is how long a tick is put off that waits for an earlier one.
const holdInterval = 200 * time.Millisecond

// transientSnooze is the wait when something other than the handler failed. The
// attempt is not used up.
const transientSnooze = 2 * time.Second

// failure is what follows from a run that failed.
type failure struct {
	err        error
	retryAfter *time.Duration // nil: [jobs.Definition.Backoff], if there is a retry
}

// failureKey is that of a failure in the context.
type failureKey struct{}

// Work implements [riverqueue.Worker].
func (w *worker) Work(ctx context.Context, job *riverqueue.Job[rowArgs]) error {
	failed, ok := ctx.Value(failureKey{}).(*failure)
	if !ok { // the shortcut was not taken
		failed = w.run(ctx, job.JobRow)
	}
	if failed == nil {
		return nil
	}
	job.Args.rowData = &rowData{retryAfter: failed.retryAfter}
	return failed.err
}

// shortcut runs jobs in place of their workers. River would decode the args first, which
// takes as long as all else of a short run, since it needs more stack than a new goroutine
// has; and the handler does so again. A run that failed goes on River's way: its worker
// tells River of the retry.
type shortcut struct {
	riverqueue.MiddlewareDefaults
	workers map[string]*worker
}

// Work implements [rivertype.WorkerMiddleware].
func (m *shortcut) Work(ctx context.Context, row *rivertype.JobRow, doInner func(context.Context) error) error {
	w := m.workers[row.Kind]
	if w == nil { // of somebody who uses the client itself
		return doInner(ctx)
	}
	if failed := w.run(ctx, row); failed != nil {
		return doInner(context.WithValue(ctx, failureKey{}, failed))
	}
	return nil
}

// run makes one attempt. It returns nil when the job is done.
func (w *worker) run(ctx context.Context, row *rivertype.JobRow) *failure {
	w.slots.taken.Add(1)
	defer w.slots.taken.Add(-1)
	var meta rowMeta
	if bytes.Contains(row.Metadata, []byte(`"everytick_`)) {
		if err := json.Unmarshal(row.Metadata, &meta); err != nil {
			err = fmt.Errorf("river: metadata does not decode: %w", err)
			return &failure{err: w.giveUp(ctx, &jobs.Job{ID: formatID(row.ID)}, err)}
		}
	}
	job := &jobs.Job{
		ID:          formatID(row.ID),
		Name:        w.job.Name,
		Data:        row.EncodedArgs,
		Attempt:     row.Attempt,
		MaxAttempts: row.MaxAttempts,
		Metadata:    meta.Metadata,
		StartedAt:   row.AttemptedAt.UTC(),
		DB:          w.s.pool,
	}
	paused := w.s.paused.is(w.job.Name)
	if paused && meta.Tick { // a skip is final, and what this process knows may be seconds old
		var err error
		if paused, err = w.stillPaused(ctx); err != nil {
			w.log(job).WarnContext(ctx, "tick is put off: cannot tell whether its job is still paused", "error", err)
			return &failure{err: riverqueue.JobSnooze(transientSnooze)}
		}
	}
	overlapping := false
	if meta.Tick || meta.Open || paused || row.Queue != w.queue {
		var err error
		bounded, cancel := context.WithTimeout(ctx, prepareTimeout)
		overlapping, err = w.prepare(bounded, row, meta, job, paused)
		cancel()
		if err != nil {
			return &failure{err: err}
		}
	}
	due := row.ScheduledAt
	if meta.Tick {
		due = job.Tick
	}
	if meta.Started {
		due = job.StartedAt // it did start in time, and was interrupted
	}
	reason, level := w.job.Skip(job, due, overlapping), slog.LevelWarn
	if paused {
		reason, level = jobs.SkippedPaused, slog.LevelInfo // somebody asked for it
	}
	if reason != "" {
		w.log(job).Log(ctx, level, "job "+reason, "tick", job.Tick)
		if err := riverqueue.MetadataSet(ctx, metaSkipped, reason); err != nil {
			return &failure{err: err}
		}
		return &failure{err: riverqueue.JobCancel(errors.New(reason))}
	}
	if w.job.StartWithin > 0 {
		if err := riverqueue.MetadataSet(ctx, metaStarted, true); err != nil {
			return &failure{err: err}
		}
	}
	if err := w.job.Run(ctx, job, w.s.log); err != nil {
		return w.failed(ctx, job, err)
	}
	return nil
}

// log is made when it is needed: it costs more than all else of a short run.
func (w *worker) log(job *jobs.Job) *slog.Logger {
	return w.s.log.With("job", w.job.Name, "job_id", job.ID)
}

// giveUp reports a job that no attempt can run, and ends it.
func (w *worker) giveUp(ctx context.Context, job *jobs.Job, err error) error {
	w.log(job).ErrorContext(ctx, "job failed for good", "error", err)
	return riverqueue.JobCancel(err)
}

// stillPaused asks the database.
func (w *worker) stillPaused(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	paused, err := w.s.readPauses(ctx)
	_, still := paused[w.job.Name]
	return still, err
}

// prepareTimeout bounds what a run asks the database before its handler is called.
const prepareTimeout = 15 * time.Second

// prepare does what only some runs need before their handler is called, and needs the
// database. Where it fails the run is put off.
func (w *worker) prepare(ctx context.Context, row *rivertype.JobRow, meta rowMeta, job *jobs.Job, paused bool) (overlapping bool, err error) {
	log := w.log(job)
	switch {
	case paused && (!meta.Tick || row.Attempt > 1): // the ticks of a paused job are skipped
		return false, w.adopt(ctx, row, pausedQueue, log)
	case row.Queue != w.queue:
		return false, w.adopt(ctx, row, w.queue, log)
	case meta.Open && row.Attempt == 1 && row.MaxAttempts != w.job.MaxAttempts:
		// Whoever enqueued it did not know how many it has.
		if err := w.setMaxAttempts(ctx, row); err != nil {
			log.WarnContext(ctx, "job is put off: its number of attempts could not be stored", "error", err)
			return false, riverqueue.JobSnooze(transientSnooze)
		}
		job.MaxAttempts = row.MaxAttempts
	}
	if !meta.Tick {
		return false, nil
	}
	if wait, err := w.prepareTick(ctx, row, meta, job, log); wait > 0 || err != nil {
		return false, cmp.Or(err, riverqueue.JobSnooze(wait))
	}
	if overlapping, err = w.overlapping(ctx, row); err != nil {
		log.WarnContext(ctx, "tick is put off: cannot tell whether another run goes on", "error", err)
		return false, riverqueue.JobSnooze(transientSnooze)
	}
	return overlapping, nil
}

// prepareTick makes job the run of the tick that its data names and stores the
// successor. A wait means that the tick cannot run yet.
func (w *worker) prepareTick(ctx context.Context, row *rivertype.JobRow, meta rowMeta, job *jobs.Job, log *slog.Logger) (wait time.Duration, err error) {
	var args tickArgs
	if err = job.Decode(&args); err == nil {
		job.Tick, err = args.time()
	}
	if err != nil {
		return 0, w.giveUp(ctx, job, err)
	}
	job.Data = json.RawMessage(`{}`)
	hold, err := w.mustWait(ctx, job)
	if err != nil {
		log.WarnContext(ctx, "tick is put off: cannot tell whether an earlier one still runs", "tick", job.Tick, "error", err)
		return transientSnooze, nil
	}
	if hold {
		if !meta.Held {
			if err := w.setHeld(ctx, row); err != nil {
				log.WarnContext(ctx, "it could not be stored that a tick waits for an earlier one", "tick", job.Tick, "error", err)
			}
		}
		return holdInterval, nil
	}
	if meta.Held {
		if err := w.unhold(ctx, row, job.Tick); err != nil {
			log.WarnContext(ctx, "tick is put off: it could not be stored that it waits no more", "tick", job.Tick, "error", err)
			return transientSnooze, nil
		}
	}
	// A tick of another version's schedule has its successor stored by the processes of that
	// version, if there are any.
	if args.Spec == w.spec || isTickOf(w.job, job.Tick) {
		if err := w.relay(ctx, row, meta, job, log); err != nil {
			log.WarnContext(ctx, "tick is put off: its successor could not be stored", "tick", job.Tick, "error", err)
			return transientSnooze, nil
		}
	}
	return 0, nil
}

// failed says in River's terms what follows from the handler's error.
func (w *worker) failed(ctx context.Context, job *jobs.Job, err error) *failure {
	log := job.Logger.With("error", err)
	var panicked *jobs.PanicError
	if errors.As(err, &panicked) {
		log = log.With("stack", panicked.Stack)
		err = fmt.Errorf("%w\n\n%s", err, panicked.Stack) // into the job's history
	}
	cancelled := errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely)
	if ctx.Err() != nil && w.s.stopping.Load() && !cancelled {
		log.WarnContext(ctx, "job was interrupted by the shutdown and goes back to the queue")
		// River gives the attempt back when it sees context.Canceled.
		return &failure{err: fmt.Errorf("%w: %w", context.Canceled, err)}
	}
	if cancelled {
		log.WarnContext(ctx, "job was cancelled")
		return &failure{err: err} // River sees to it
	}
	if strings.ContainsRune(err.Error(), 0) {
		err = storableError{err}
	}
	delay, again := w.job.Retry(job, err)
	if again {
		log.WarnContext(ctx, "job failed and is retried", "retry_in", delay, "max_attempts", job.MaxAttempts)
		return &failure{err: err, retryAfter: &delay}
	}
	log.ErrorContext(ctx, "job failed for good", "max_attempts", job.MaxAttempts)
	if job.Attempt < job.MaxAttempts { // Permanent
		return &failure{err: riverqueue.JobCancel(err)}
	}
	return &failure{err: err}
}

// storableError is an error whose text PostgreSQL can store: it refuses U+0000, and with
// it every completion of the batch.
type storableError struct{ error }

func (e storableError) Error() string { return strings.ReplaceAll(e.error.Error(), "\x00", `\x00`) }
func (e storableError) Unwrap() error { return e.error }

// overlapping tells whether another run of the tick's job goes on, begun before this one,
// so that of two that begin together one runs.
func (w *worker) overlapping(ctx context.Context, row *rivertype.JobRow) (overlapping bool, err error) {
	if w.job.Overlap != jobs.Skip {
		return false, nil
	}
	err = w.s.ownPool().QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+w.s.table+`
		WHERE state = 'running' AND kind = $1 AND (attempted_at, id) < ($2, $3)
			AND attempted_at > now() - $4::float8 * interval '1 second')`,
		row.Kind, *row.AttemptedAt, row.ID, w.longestRun().Seconds()).Scan(&overlapping)
	return overlapping, err
}

// mustWait tells whether, with jobs.All, an earlier tick is still to run, or runs for
// the first time.
func (w *worker) mustWait(ctx context.Context, job *jobs.Job) (wait bool, err error) {
	if w.job.CatchUp != jobs.All {
		return false, nil
	}
	err = w.s.ownPool().QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+w.s.table+`
		WHERE `+isTick+` AND kind = $1 AND state IN ('available', 'scheduled', 'running')
			AND `+tickTime+` < $2 AND errors IS NULL
			AND (state <> 'running' OR attempted_at > now() - $3::float8 * interval '1 second'))`,
		job.Name, job.Tick, w.longestRun().Seconds()).Scan(&wait)
	return wait, err
}

// setHeld says of a tick that it waits for an earlier one, and does so at once: until then it
// passes for a run.
func (w *worker) setHeld(ctx context.Context, row *rivertype.JobRow) error {
	_, err := w.s.ownPool().Exec(ctx, `UPDATE `+w.s.table+` SET metadata = metadata || jsonb_build_object($2::text, true) WHERE id = $1`,
		row.ID, metaHeld)
	return err
}

// unhold says of a tick that it does not wait for an earlier one any more.
func (w *worker) unhold(ctx context.Context, row *rivertype.JobRow, tick time.Time) error {
	_, err := w.s.ownPool().Exec(ctx, `UPDATE `+w.s.table+` SET metadata = metadata - $2::text, scheduled_at = $3 WHERE id = $1`,
		row.ID, metaHeld, tick)
	return err
}

// longestRun is how long a run can take: one that is older has lost its process.
func (w *worker) longestRun() time.Duration { return w.job.Timeout + hardStopGrace }

// setMaxAttempts gives the row, in the database and in River's hands, the attempts that
// the job is registered with.
func (w *worker) setMaxAttempts(ctx context.Context, row *rivertype.JobRow) error {
	_, err := w.s.ownPool().Exec(ctx, `UPDATE `+w.s.table+` SET max_attempts = $2 WHERE id = $1`, row.ID, w.job.MaxAttempts)
	if err == nil {
		row.MaxAttempts = w.job.MaxAttempts
	}
	return err
}

// adopt moves a row to another queue of this job: the one it should have had, when it
// was enqueued by a process that is TriggerOnly or of another version, or pausedQueue.
func (w *worker) adopt(ctx context.Context, row *rivertype.JobRow, queue string, log *slog.Logger) error {
	if _, err := w.s.ownPool().Exec(ctx, `UPDATE `+w.s.table+` SET queue = $2 WHERE id = $1`, row.ID, queue); err != nil {
		log.WarnContext(ctx, "job is put off: it could not be moved to its queue", "queue", queue, "error", err)
		return riverqueue.JobSnooze(transientSnooze)
	}
	return putBack(row)
}

// putBack makes a job available again as of when it was due, with its attempt unused. One
// that is due anew, as after JobSnooze(0), would stand behind all that came after it, and
// would not be known to be late.
func putBack(row *rivertype.JobRow) error {
	// It is due, whatever our clock says.
	return &riverqueue.JobSnoozeError{Duration: min(0, time.Until(row.ScheduledAt))}
}

// unworkedAfter is how late a job is that seems to lie in a queue which nobody works.
const unworkedAfter = 10 * time.Second

// rehome moves waiting rows of registered jobs out of queues that this process does not
// work to those they belong to now: when Concurrency was added to or taken from a job,
// nobody else might work the old queue, into which a process of an older version may still
// put some. Where its own queue is taken from a job, the workers of that one give it back.
// Unless all is set it leaves alone what is not late: another version may work that queue.
func (s *Scheduler) rehome(ctx context.Context, all bool) error {
	worked := []string{riverqueue.QueueDefault, pausedQueue}
	var names, queues []string
	for _, d := range s.reg.Jobs() {
		names, queues = append(names, d.Name), append(queues, queueOf(d))
	}
	worked = append(worked, queues...)
	err := s.move(ctx, s.queuesSQL("available")+`, `, `SELECT id, home FROM `+s.table+` AS row
		JOIN used USING (queue) JOIN unnest($1::text[], $2::text[]) AS own (name, home) ON kind = name
		WHERE queue <> ALL ($3) AND row.state IN ('available', 'scheduled', 'retryable')
			AND ($4 OR scheduled_at < now() - $5::float8 * interval '1 second')`,
		names, queues, worked, all, unworkedAfter.Seconds())
	if err != nil {
		return fmt.Errorf("moving jobs to their queues: %w", err)
	}
	return nil
}
