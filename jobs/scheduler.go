package jobs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Registrar registers jobs. Its methods do not block and have no effect outside the process.
//
// A name has two or more parts separated by dots, such as "audit.retention". It consists of lower-case letters, digits,
// '_' and '-', starts with a letter, and is at most 100 bytes long; anything else is [ErrInvalidName]. A name that is
// already registered is [ErrDuplicate], and the error names both call sites. While the scheduler is started,
// registering is [ErrStarted]. A nil handler, and an option that is out of range or does not apply to the job, is
// [ErrInvalidOption].
type Registrar interface {
	// RegisterCron runs h on a cron pattern of five fields (minute, hour, day of month, month, day of week) or an
	// alias such as @daily; see [ParseCron]. The time zone is UTC unless [TimeZone] sets it. A pattern that is
	// malformed or never fires is [ErrInvalidSchedule].
	RegisterCron(name, pattern string, h Handler, opts ...Option) error
	// RegisterInterval runs h at multiples of every since the zero time, so that all processes agree on the ticks
	// and a restart does not shift them; see [Every]. An interval shorter than one second or not in whole
	// milliseconds is [ErrInvalidSchedule].
	RegisterInterval(name string, every time.Duration, h Handler, opts ...Option) error
	// RegisterSchedule runs h at the ticks of s, which the caller has written or made of other schedules; see
	// [Schedule], [Only], [Spread] and [AnyOf]. s is checked with its next ticks: one that breaks the rules of Schedule
	// is [ErrInvalidSchedule], and the error names the rule.
	RegisterSchedule(name string, s Schedule, h Handler, opts ...Option) error
	// RegisterDelayed runs h only when triggered, delay after the trigger. 0 means at once. A delay that is negative
	// or not in whole milliseconds is [ErrInvalidSchedule].
	RegisterDelayed(name string, delay time.Duration, h Handler, opts ...Option) error
}

// A Triggerer triggers jobs. Every registered job can be triggered, including those with a schedule, whose ticks are
// not affected.
//
// data is encoded as JSON and must be an object, such as a struct, a map or a [json.RawMessage] that holds one; nil
// means {}. It must be valid UTF-8 without \u0000, smaller than 1 MiB when encoded, and smaller than 2 MiB as
// PostgreSQL writes it, which is without exponents: 1e1000 takes 1,001 bytes there. Strings that are not valid UTF-8,
// which encoding/json would silently change, are rejected too. Data that breaks these rules is [ErrInvalidData], and
// nothing is inserted. A name that is not registered is [ErrUnknownJob].
type Triggerer interface {
	// Trigger inserts a run of the job and returns its ID once it is stored. The caller may try again after an
	// error. If the connection broke, the run may have been stored nevertheless, so use [IdempotencyKey] if a second
	// one would do harm.
	Trigger(ctx context.Context, name string, data any, opts ...TriggerOption) (id string, err error)
	// TriggerMany inserts a run of the job for each element of data, all or none, and returns the IDs in order. The
	// options [Unique], [UniqueWaiting], [Latest] and [IdempotencyKey] are not allowed and are [ErrInvalidOption].
	TriggerMany(ctx context.Context, name string, data []any, opts ...TriggerOption) (ids []string, err error)
}

// A TxTriggerer triggers jobs in the caller's transaction: the runs exist if and only if tx commits. A nil tx is an
// error, and a tx that has ended is [pgx.ErrTxClosed]. Providers on PostgreSQL have this role, and adapters/memory has
// it for tests. Call it through [TriggerTx] and [TriggerManyTx].
type TxTriggerer interface {
	// TriggerTx is like Trigger of [Triggerer], in tx.
	TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...TriggerOption) (id string, err error)
	// TriggerManyTx is like TriggerMany of [Triggerer], in tx. If inserting fails, none of the runs is in tx, even if
	// tx commits.
	TriggerManyTx(ctx context.Context, tx pgx.Tx, name string, data []any, opts ...TriggerOption) (ids []string, err error)
}

// TriggerTx triggers a job in tx if t has the role [TxTriggerer] (see [As]). Otherwise the error wraps
// [errors.ErrUnsupported].
func TriggerTx(ctx context.Context, t Triggerer, tx pgx.Tx, name string, data any, opts ...TriggerOption) (id string, err error) {
	tt, ok := As[TxTriggerer](t)
	if !ok {
		return "", fmt.Errorf("jobs: %T cannot trigger in a transaction: %w", t, errors.ErrUnsupported)
	}
	return tt.TriggerTx(ctx, tx, name, data, opts...)
}

// TriggerManyTx triggers a job once for each element of data, in tx, if t has the role [TxTriggerer] (see [As]).
// Otherwise the error wraps [errors.ErrUnsupported].
func TriggerManyTx(ctx context.Context, t Triggerer, tx pgx.Tx, name string, data []any, opts ...TriggerOption) (ids []string, err error) {
	tt, ok := As[TxTriggerer](t)
	if !ok {
		return nil, fmt.Errorf("jobs: %T cannot trigger in a transaction: %w", t, errors.ErrUnsupported)
	}
	return tt.TriggerManyTx(ctx, tx, name, data, opts...)
}

// A Monitor reports the state of jobs. It also works while the scheduler is stopped.
type Monitor interface {
	// Health reports whether jobs can run, and if not, why. Problems are in [Health].Reasons. The error is non-nil
	// only if the check itself could not be made, for example because ctx ended.
	Health(ctx context.Context) (Health, error)
	// Jobs returns the status of every registered job, ordered by name.
	Jobs(ctx context.Context) ([]Status, error)
	// QueueSize returns how many runs of the job wait, whether due, delayed or to be retried, in all processes. It
	// does not count runs that are in progress or have ended, nor a schedule's next tick before it is due. If a
	// tick is due but not inserted yet, because no process is running or because it waits for the previous one (see
	// [CatchUpAll]), the schedule counts as one waiting run, however many ticks have passed. A name that is not
	// registered is [ErrUnknownJob].
	QueueSize(ctx context.Context, name string) (int, error)
}

// A Scheduler registers, triggers and runs background jobs. Providers implement it. The package documentation has the
// rules that all of them keep.
type Scheduler interface {
	Registrar
	Triggerer
	Monitor
	// Start starts running jobs and returns when it has. ctx limits only the start itself; jobs keep running when it
	// ends. A second Start returns [ErrStarted]. The scheduler can be started again after Shutdown, and a Start
	// during a Shutdown waits for it to finish.
	Start(ctx context.Context) error
	// Shutdown stops fetching jobs and waits for running ones. If ctx ends first, they are cancelled and return to
	// the queue, the attempt does not count, and the error wraps that of ctx. If the scheduler is not started, the
	// error is [ErrNotStarted]. A Shutdown during another one waits for it to finish, then returns ErrNotStarted.
	Shutdown(ctx context.Context) error
}

// A State is the state of a run.
type State string

// The states of a run.
const (
	StateScheduled State = "scheduled" // not due yet, or snoozed; see Snooze
	StateWaiting   State = "waiting"   // due, waiting for a worker
	StateRunning   State = "running"
	StateRetrying  State = "retrying"  // failed, waiting for the next attempt
	StateCompleted State = "completed" // succeeded
	StateFailed    State = "failed"    // failed for good
	StateCancelled State = "cancelled" // by an operator; see Canceller
	StateSkipped   State = "skipped"   // not run; Run.Error has the reason
)

// Health is the result of [Monitor.Health].
type Health struct {
	// Healthy is true if Reasons is empty.
	Healthy bool
	// Reasons lists what is wrong, the most serious first.
	Reasons []Reason
	// Started is true between Start and Shutdown of this scheduler.
	Started bool
	// OldestWaiting is how long the oldest waiting run has been due. It includes due ticks that are not inserted yet
	// (see [Monitor].QueueSize), except those of jobs that are not registered on this scheduler, which may no
	// longer be registered anywhere.
	OldestWaiting time.Duration
	// Totals counts the stored runs of all jobs by state. A due tick that is not inserted yet counts as waiting. Ticks
	// that are not due are not counted.
	Totals map[State]Count
}

// A Reason is a problem reported in [Health].
type Reason struct {
	// Job is the name of the affected job, or "". Users who may not see that job must not see the reason either.
	Job string
	// Text says what is wrong. If Job is set, Text continues from it, as in "is overdue by 2m0s". It names no other
	// job.
	Text string
}

// String returns the name and the text.
func (r Reason) String() string {
	if r.Job == "" {
		return r.Text
	}
	return r.Job + " " + r.Text
}

// A Count is a number of runs in [Health].
type Count struct {
	N int
	// AtLeast is true if there may be more than N. Providers stop counting when it would take too long.
	AtLeast bool
}

// String returns the number, followed by "or more" if there may be.
func (c Count) String() string {
	if c.AtLeast {
		return strconv.Itoa(c.N) + " or more"
	}
	return strconv.Itoa(c.N)
}

// Status describes one registered job; see [Monitor].
type Status struct {
	// Name is the job's name.
	Name string
	// Schedule is the cron pattern, "every 5m0s", "after 2s" or "on demand".
	Schedule string
	// Zone is the time zone of a cron pattern, such as "Europe/Berlin", or "" for other jobs.
	Zone string
	// Options are the job's options, with defaults filled in.
	Options JobOptions
	// PrevTick is the latest tick whose run has started, or that was skipped or cancelled before; a tick that still
	// waits is NextTick. PrevState is its state, which is [StateSkipped] for a tick that came due while the job was
	// paused. Both are kept after the run is deleted. They are zero if there was none.
	PrevTick  time.Time
	PrevState State
	// Missed is how many earlier ticks the run of PrevTick also covers (see [Job].Missed), or how many were skipped
	// together with it.
	Missed int
	// LastSuccess is the tick of the latest run that succeeded, or zero. It is kept after the run is deleted.
	LastSuccess time.Time
	// NextTick is the tick that runs next. It is in the past if that tick is late, and zero for a job without a
	// schedule or if no tick is left. While the job is paused, it is the next tick to be skipped.
	NextTick time.Time
	// Upcoming has the next three ticks, or fewer if the schedule ends, starting with NextTick.
	Upcoming []time.Time
	// OverdueBy is how long a tick has been due without a run starting. If the waiting run covers several ticks (see
	// [CatchUp]), it counts from the first of them. It is 0 if no tick is late and while the job is paused.
	// OverdueReason says what delays the tick, or will delay those to come. It is "" if nothing does.
	OverdueBy     time.Duration
	OverdueReason string
	// PausedSince is when the job was paused (see [Pauser]), or zero.
	PausedSince time.Time
	// Waiting is what QueueSize of [Monitor] returns, and Retrying is how many of those have failed before. Running
	// counts the runs in progress in all processes.
	Waiting, Running, Retrying int
}

// JobOptions are the options of a registered job; see the functions of the same names.
type JobOptions struct {
	// MaxAttempts is [MaxRetries] + 1.
	MaxAttempts int
	RetryDelay  time.Duration
	Timeout     time.Duration
	Priority    int
	// Concurrency is 0 for a job that shares the scheduler's workers.
	Concurrency int
	CatchUp     CatchUpPolicy
	Overlap     OverlapPolicy
	// StartWithin is 0 for no limit.
	StartWithin   time.Duration
	Transactional bool
}
