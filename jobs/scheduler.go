package jobs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Registrar takes the jobs of a module. Its methods do not block and touch
// nothing outside the process.
//
// name is two or more parts joined by dots, such as "audit.retention": lower-case
// letters, digits, '_' and '-', beginning with a letter, 100 bytes at most;
// anything else is [ErrInvalidName]. A name that is taken is [ErrDuplicate], and
// the error names both places. While the scheduler runs the answer is
// [ErrStarted]. An option that is out of range, or could do nothing for the job, is
// [ErrInvalidOption].
type Registrar interface {
	// RegisterCron runs h at the instants a cron pattern of five fields names:
	// minute, hour, day of month, month, day of week; or one of @hourly, @daily or
	// @midnight, @weekly, @monthly, and @yearly or @annually; see [ParseCron]. The time
	// zone is UTC unless [TimeZone] sets it. A pattern that is malformed or never fires
	// is [ErrInvalidSchedule].
	RegisterCron(name, pattern string, h Handler, opts ...Option) error
	// RegisterInterval runs h every so often, at multiples of every counted from
	// the zero time, so that all processes agree on the instants and a restart does
	// not move them. every below one second, or not whole milliseconds, is
	// [ErrInvalidSchedule].
	RegisterInterval(name string, every time.Duration, h Handler, opts ...Option) error
	// RegisterDelayed runs h only when it is triggered, delay after that. A delay of
	// 0 means at once; one that is negative or not whole milliseconds is
	// [ErrInvalidSchedule].
	RegisterDelayed(name string, delay time.Duration, h Handler, opts ...Option) error
}

// A Triggerer enqueues jobs. Every registered job can be triggered, those with a
// schedule too: a triggered run is beside the schedule, not instead of a tick.
//
// data is encoded as JSON and must be an object (a struct, a map, a
// [json.RawMessage] holding one), valid UTF-8 without \u0000, less than 1 MiB
// encoded, and less than 2 MiB as PostgreSQL writes it, which has no exponents: 1e1000
// takes 1,001 bytes there. nil stands for {}. Anything else is [ErrInvalidData], and nothing is
// enqueued. A Go string that is not valid UTF-8 is refused too, where encoding/json would
// replace parts of it. A name that nobody registered is [ErrUnknownJob].
type Triggerer interface {
	// Trigger enqueues one job and returns its ID once the job is stored. After an
	// error the caller may try again; the job may nevertheless have been stored when
	// the error came from a connection that broke, so use [Unique] where a second
	// one would hurt.
	Trigger(ctx context.Context, name string, data any, opts ...TriggerOption) (id string, err error)
	// TriggerMany enqueues a job for each element of data, all or none, and returns
	// their IDs in order. [Unique] does not apply to it and is [ErrInvalidOption].
	TriggerMany(ctx context.Context, name string, data []any, opts ...TriggerOption) (ids []string, err error)
}

// A TxTriggerer enqueues in the caller's transaction: the job exists if and only
// if tx commits; a nil tx is an error, and one that has ended is [pgx.ErrTxClosed].
// Providers on a database have this role, and adapters/memory has it for tests; find it
// with [TriggerTx].
type TxTriggerer interface {
	TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...TriggerOption) (id string, err error)
}

// TriggerTx enqueues a job in tx if t has the role [TxTriggerer], see [As], and returns an
// error that wraps [errors.ErrUnsupported] if it has not.
func TriggerTx(ctx context.Context, t Triggerer, tx pgx.Tx, name string, data any, opts ...TriggerOption) (id string, err error) {
	tt, ok := As[TxTriggerer](t)
	if !ok {
		return "", fmt.Errorf("jobs: %T cannot trigger in a transaction: %w", t, errors.ErrUnsupported)
	}
	return tt.TriggerTx(ctx, tx, name, data, opts...)
}

// A Monitor tells how the jobs are doing. It works while the scheduler is stopped
// too.
type Monitor interface {
	// Health tells whether jobs can run, and if not, why. What is wrong is in the
	// answer; the error is for a question that could not be asked, as when ctx ended.
	Health(ctx context.Context) (Health, error)
	// Jobs tells the status of every registered job, ordered by name.
	Jobs(ctx context.Context) ([]Status, error)
	// QueueSize counts the jobs of that name that wait: due, delayed or to be
	// retried, in all processes together. What runs or is done does not count, nor
	// does a schedule's next tick before it is due. A schedule that is due and whose
	// tick is not inserted yet, because nothing is running or because with [CatchUpAll] it
	// waits for the tick before, counts as one job, however many ticks have passed. An
	// unregistered name is [ErrUnknownJob].
	QueueSize(ctx context.Context, name string) (int, error)
}

// A Scheduler is a provider of background jobs. See the package documentation for
// the rules that all of them keep.
type Scheduler interface {
	Registrar
	Triggerer
	Monitor
	// Start begins to run jobs and returns once it does. ctx bounds the start
	// alone: jobs go on when it ends. A second Start is [ErrStarted]; a Start after
	// Shutdown works, and one during a Shutdown waits for its end.
	Start(ctx context.Context) error
	// Shutdown stops taking jobs and waits for those that run. When ctx ends first
	// they are cancelled and go back to the queue, their attempt not used up, and the
	// error wraps ctx's. When nothing is started the error is [ErrNotStarted]; a second
	// Shutdown waits for the end of the first before it says so.
	Shutdown(ctx context.Context) error
}

// A State is where a job stands.
type State string

// The states of a job.
const (
	StateScheduled State = "scheduled" // waits for a time to come
	StateWaiting   State = "waiting"   // due, waits for a worker
	StateRunning   State = "running"
	StateRetrying  State = "retrying"  // failed, waits for its next attempt
	StateCompleted State = "completed" // done
	StateFailed    State = "failed"    // failed for good
	StateCancelled State = "cancelled" // cancelled by somebody
	StateSkipped   State = "skipped"   // not run, for a reason that its history tells
)

// Health is the answer of [Monitor.Health].
type Health struct {
	// Healthy is true when there is no reason for it not to be.
	Healthy bool
	// Reasons says what is wrong, the gravest first.
	Reasons []Reason
	// Started is true between Start and Shutdown of this scheduler.
	Started bool
	// OldestWaiting is how long the job that waits longest has been due, a due tick that
	// is not inserted yet among them, see [Monitor].QueueSize. The ticks of jobs that are
	// not registered on this scheduler are left out: nobody may register them any more.
	OldestWaiting time.Duration
	// Totals counts the jobs of all names by state, as far as they are kept. A due tick
	// that is not inserted yet counts as waiting, one that is not due not at all.
	Totals map[State]Count
}

// A Reason is one thing that is wrong, see [Health].
type Reason struct {
	// Job is the name of the job that it is about, "" for none in particular. Who may not
	// see that job is not shown the reason.
	Job string
	// Text says what is wrong. It reads on from the name, as in "is overdue by 2m0s", and
	// names no other job.
	Text string
}

// String returns the name and the text.
func (r Reason) String() string {
	if r.Job == "" {
		return r.Text
	}
	return r.Job + " " + r.Text
}

// A Count is a number of jobs, see [Health].
type Count struct {
	N int
	// AtLeast is true if there may be more: a provider stops counting where it would take
	// long.
	AtLeast bool
}

// String returns the number, followed by "or more" if there may be.
func (c Count) String() string {
	if c.AtLeast {
		return strconv.Itoa(c.N) + " or more"
	}
	return strconv.Itoa(c.N)
}

// Status is what [Monitor.Jobs] tells of one registered job.
type Status struct {
	// Name is the job's name.
	Name string
	// Schedule is the cron pattern, "every 5m0s", "after 2s" or "on demand".
	Schedule string
	// Zone is the time zone of a cron pattern, such as "Europe/Berlin"; else "".
	Zone string
	// PrevTick is the latest tick that has started, or was skipped or cancelled before it
	// could; a tick that waits is NextTick. PrevState is what became of it: it is skipped
	// for a tick that came due while the job was paused. Both outlive the tick's run, and
	// are zero when there was none.
	PrevTick  time.Time
	PrevState State
	// Missed is how many earlier ticks PrevTick's run stands for, see [Job].Missed, or
	// how many were skipped together with it.
	Missed int
	// LastSuccess is the tick of the latest run that succeeded, zero when there was none.
	// It outlives the run.
	LastSuccess time.Time
	// NextTick is the tick that runs next; zero for a job without a schedule, and when no
	// tick is left. It lies in the past when that tick is late. While the job is paused it
	// is the next one to be skipped.
	NextTick time.Time
	// Upcoming is the next three ticks, NextTick first.
	Upcoming []time.Time
	// OverdueBy is for how long a tick has been due and none has started. A run that has
	// waited for a worker since an earlier tick than NextTick, see [CatchUp], is overdue
	// since then. It is 0 when all is well and while the job is paused. OverdueReason says
	// in words what keeps it, or what keeps the ticks to come, "" when all is well.
	OverdueBy     time.Duration
	OverdueReason string
	// PausedSince is when the job was paused, see [Pauser]; zero when it is not.
	PausedSince time.Time
	// Waiting counts as [Monitor.QueueSize] does; Retrying is the part of it that has
	// failed before. Running counts what runs in all processes.
	Waiting, Running, Retrying int
}
