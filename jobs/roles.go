package jobs

import (
	"context"
	"encoding/json"
	"time"
)

// The interfaces in this file are optional roles.

// As finds an optional role R, such as [Pauser], in s, which is a [Scheduler] or a part of it, such as a [Triggerer].
// If s does not implement R but has a method Unwrap() Scheduler, As continues with the scheduler that Unwrap returns. A
// wrapper must therefore implement the roles whose behaviour it changes.
//
// Methods of optional roles return [ErrUnknownJob] for a name that is not registered.
func As[R any](s any) (role R, ok bool) {
	for s != nil {
		if role, ok = s.(R); ok {
			return role, true
		}
		wrapper, wraps := s.(interface{ Unwrap() Scheduler })
		if !wraps {
			break
		}
		s = wrapper.Unwrap()
	}
	return role, false
}

// A BulkTriggerer inserts large numbers of runs at once.
type BulkTriggerer interface {
	// TriggerBulk inserts a run of the job for each element of data, all or none, and returns how many. It is like
	// TriggerMany of [Triggerer] without the IDs, which allows a provider to insert a million in seconds.
	TriggerBulk(ctx context.Context, name string, data []any, opts ...TriggerOption) (n int, err error)
}

// A RunLister lists the runs of a job.
type RunLister interface {
	// Runs returns the latest runs of the job, both triggered and of ticks, newest first. limit is the most to
	// return, 1 to 1,000; other limits are [ErrInvalidOption]. A tick is listed once it is inserted, which happens
	// when it is due and the scheduler is started. Ticks skipped by a pause are not listed; see [Status].PrevTick. If
	// the runs have more than 4 MiB of data and error texts, older ones have no [Run].Data. [RunFinder] has pages.
	Runs(ctx context.Context, name string, limit int) ([]Run, error)
}

// A RunFinder finds runs of all jobs.
type RunFinder interface {
	// Run returns the run with that ID, with the errors of its attempts. An ID that no stored run of a registered
	// job has is [ErrUnknownID].
	Run(ctx context.Context, id string) (Run, error)
	// FindRuns returns a page of the runs that match q, latest first: by when they ended or, if they have not, when
	// they are due. Delayed runs therefore come first, then runs that are due or in progress, then ended ones. All
	// pages together have every matching run once, however many begin to match meanwhile. A run whose state changes
	// between two pages may be missing or occur twice. A name that is not registered is [ErrUnknownJob], and a field
	// that is out of range is [ErrInvalidOption].
	FindRuns(ctx context.Context, q RunQuery) (RunPage, error)
}

// A RunQuery says which runs a [RunFinder], a [BulkRetrier] or a [BulkCanceller] means: those for which all fields
// hold. The zero value means all runs of all registered jobs.
type RunQuery struct {
	// Names has the names of their jobs. If empty, runs of all registered jobs match.
	Names []string
	// States has their states. If empty, all states match.
	States []State
	// Since and Until bound when a run ended or, if it has not, when it was due or is due next: Since <= t < Until.
	// So runs in [StateFailed] match if they failed for good in that time, and those in [StateRetrying] if their
	// next attempt is due then. The zero time is no bound.
	Since, Until time.Time
	// After is [RunPage].Next of the page before, or "" for the first page. It is for FindRuns only; other methods
	// return [ErrInvalidOption] if it is set.
	After string
	// Limit is the most runs to return, 1 to 1,000. 0 means 100. It is for FindRuns only; other methods return
	// [ErrInvalidOption] if it is set.
	Limit int
}

// A RunPage is a page of the runs that a [RunFinder] found.
type RunPage struct {
	// Runs has at most RunQuery.Limit runs. There are fewer, but at least one, if the page would have more than
	// 4 MiB of data and error texts.
	Runs []Run
	// Next is RunQuery.After of the next page, or "" if this is the last one.
	Next string
}

// A BulkRetrier retries all runs that match a query.
type BulkRetrier interface {
	// RetryMany does what [Retrier] does with each run that matches q when it is called and can be retried: a run
	// that has failed for good, was cancelled or skipped, or waits for its next attempt, which is not due yet. It
	// returns how many it retried. Each is retried once. One that fails again meanwhile is left alone, and so is one
	// that begins to match, or that somebody else retries first.
	//
	// It works in steps, and runs that were retried start while it continues. If the error is non-nil, n runs have
	// been retried, and the call can be repeated for the others. A name that is not registered is [ErrUnknownJob],
	// and a field that is out of range is [ErrInvalidOption].
	RetryMany(ctx context.Context, q RunQuery) (n int, err error)
	// CountRetryable returns how many runs RetryMany would retry now.
	CountRetryable(ctx context.Context, q RunQuery) (int, error)
}

// A BulkCanceller cancels all runs that match a query.
type BulkCanceller interface {
	// CancelMany does what [Canceller] does with each run that matches q when it is called and has not ended, and
	// returns how many there were. Running ones end later, when their handlers return. It works in steps and returns
	// errors like RetryMany of [BulkRetrier].
	CancelMany(ctx context.Context, q RunQuery) (n int, err error)
	// CountCancellable returns how many runs CancelMany would cancel now.
	CountCancellable(ctx context.Context, q RunQuery) (int, error)
}

// A ProcessLister lists the processes that run jobs.
type ProcessLister interface {
	// Processes returns the processes of all schedulers that share the database, ordered by start. A process is
	// listed from Start to the end of Shutdown, and one that died for a day after its last sign of life.
	Processes(ctx context.Context) ([]Process, error)
}

// A Process is one process that runs jobs, as listed by [ProcessLister]. All times are in UTC.
type Process struct {
	// ID identifies the process since its Start; see [Run].Process.
	ID string
	// Host is the name of its machine, PID its process ID there, and Version the version of its main module.
	Host    string
	PID     int
	Version string
	// StartedAt is when its scheduler was started, and SeenAt when it last gave a sign of life.
	StartedAt, SeenAt time.Time
	// Alive is false if it has been silent for so long that others take over its runs, judging by SeenAt.
	Alive bool
	// Leader is true if it does what one process does for all, such as making delayed runs available. For some seconds
	// after the leader has stopped, no process may lead.
	Leader bool
	// Self is true for the process that was asked.
	Self bool
	// Jobs has the names of the jobs it has registered, ordered.
	Jobs []string
	// Workers is how many runs it executes at once at most, and Busy how many it executed at SeenAt.
	Workers, Busy int
}

// An ActivityReporter counts the runs that have ended over time.
type ActivityReporter interface {
	// Activity counts the runs of all jobs that ended in the last n steps of time. step is at least one second and n
	// is 1 to 1,440; otherwise the error is [ErrInvalidOption]. Steps start at multiples of step since the zero
	// time, and the last one contains the current time.
	Activity(ctx context.Context, step time.Duration, n int) (Activity, error)
}

// A Canceller cancels runs.
type Canceller interface {
	// Cancel cancels the run with that ID. A waiting run never starts. The context of a running one ends, in
	// whatever process it is, and it is not retried. Cancelling a run that has ended does nothing and is not an
	// error. Cancelling a tick does not end its schedule. A tick has no ID before it is inserted; see [RunLister].
	// An ID that no stored run of the job has is [ErrUnknownID].
	Cancel(ctx context.Context, name, id string) error
}

// A Retrier retries runs that did not succeed.
type Retrier interface {
	// Retry starts a run again at once, with at least one more attempt, if it has failed for good, was cancelled or
	// skipped, waits for its next attempt, or was snoozed. A run that waits for its first attempt, is running or has
	// completed is [ErrNotRetryable]. An ID that no stored run of the job has is [ErrUnknownID].
	Retry(ctx context.Context, name, id string) error
}

// A Pauser pauses and resumes jobs.
type Pauser interface {
	// Pause stops new runs of the job from starting, within a few seconds in all processes, until it is resumed,
	// even across restarts. Triggered runs wait, as does a tick that was due before. Ticks that come due are
	// skipped: each is logged and the latest is in [Status].PrevTick, but RunLister does not list them. Running
	// runs continue. Pausing a paused job does nothing.
	Pause(ctx context.Context, name string) error
	// Resume ends the pause, so that waiting runs start. It does nothing if the job is not paused.
	Resume(ctx context.Context, name string) error
}

// A Run is a run of a job as listed by [RunLister]. All times are in UTC.
type Run struct {
	// ID identifies the run, and Name is the name of its job.
	ID, Name string
	// State is its state.
	State State
	// Tick is the tick that it is for, or zero if it was triggered.
	Tick time.Time
	// Attempt is the number of the latest attempt, or 0 before the first. Attempts that were snoozed or interrupted
	// by a shutdown do not count. MaxAttempts is how many there are.
	Attempt, MaxAttempts int
	// CreatedAt is when it was inserted, and DueAt when it is due or was last due.
	CreatedAt, DueAt time.Time
	// StartedAt is when the latest attempt started, or zero before the first.
	StartedAt time.Time
	// EndedAt is when it completed, failed for good, was cancelled or was skipped, or zero before.
	EndedAt time.Time
	// Error is the text of the latest error, followed by the stack if it was a panic, or the reason why the run was
	// skipped.
	Error string
	// Snoozes is how often the run was postponed with [Snooze], and SnoozeReason the reason given last.
	Snoozes      int
	SnoozeReason string
	// Output is the JSON that the handler has set with [Job.SetOutput], or nil. White space and the order of keys may
	// differ from the original.
	Output json.RawMessage
	// Errors has the errors of the attempts that failed, oldest first, of very many only the latest 100. Only Run of
	// [RunFinder], [Await] and [OnFailed] set it.
	Errors []RunError
	// Process is the ID of the process that executes the run or executed its latest attempt, or "" if no attempt
	// counts yet; see [ProcessLister].
	Process string
	// CancelledAt is when Cancel was called for the run, or zero. A run that was cancelled while it was running stays in
	// that state until its handler returns.
	CancelledAt time.Time
	// Data is the JSON object with which it was triggered, {} for a tick. Runs of [RunLister] leaves Data and Output nil
	// where a list would have more than 4 MiB of them and error texts; Run of [RunFinder] always has them.
	Data json.RawMessage
}

// A RunError is the error of one attempt.
type RunError struct {
	// Attempt is the number of the attempt, and At when it failed.
	Attempt int
	At      time.Time
	// Text is the error's text, followed by the stack if it was a panic.
	Text string
}

// Activity is the result of [ActivityReporter].
type Activity struct {
	// Start is when the first step starts, and Step is how long each step is.
	Start time.Time
	Step  time.Duration
	// CompleteSince is the time from which every run is counted. Of the runs that ended before, some may be missing.
	// It equals Start unless there are very many runs.
	CompleteSince time.Time
	// Jobs has the steps of each job that had runs end in them, oldest first.
	Jobs map[string][]Outcomes
}

// Outcomes counts runs by how they ended.
type Outcomes struct {
	Completed int // succeeded
	Failed    int // failed for good
	Other     int // cancelled or skipped
}
