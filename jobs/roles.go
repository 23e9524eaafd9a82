package jobs

import (
	"context"
	"encoding/json"
	"time"
)

// What follows are optional roles. A [Scheduler] that has one implements its
// interface; find it by [As]. Names that are not registered are
// [ErrUnknownJob], IDs that no kept job of that name has are [ErrUnknownID].

// As returns s in the role R, such as [Pauser], and reports whether it has it. s is a
// [Scheduler] or a part of it, such as a [Triggerer]. A wrapper that has a method
// Unwrap() Scheduler lends the roles that it lacks from the scheduler it returns, so a
// wrapper has to implement those that it means to change.
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

// A BulkTriggerer inserts very many jobs at once.
type BulkTriggerer interface {
	// TriggerBulk inserts a job for each element of data, all or none, and returns how many. It is like
	// [Triggerer].TriggerMany without the IDs, which lets a provider insert a million jobs in seconds.
	TriggerBulk(ctx context.Context, name string, data []any, opts ...TriggerOption) (n int, err error)
}

// A RunLister tells what became of single jobs.
type RunLister interface {
	// Runs returns the latest jobs of that name, triggered ones and ticks, the newest
	// first, at most limit of them (1 to 1,000, else [ErrInvalidOption]). A tick is among
	// them once it was inserted, which is when it is due and the scheduler is started.
	// Ticks that a pause skips are not: see [Status].PrevTick.
	Runs(ctx context.Context, name string, limit int) ([]Run, error)
}

// An ActivityReporter counts how jobs ended over time.
type ActivityReporter interface {
	// Activity counts the jobs that ended in the last n steps of time, of all names;
	// step is a second at least, n from 1 to 1,440, else [ErrInvalidOption]. The last
	// step is the one that now lies in, and begins at a multiple of step since the zero
	// time.
	Activity(ctx context.Context, step time.Duration, n int) (Activity, error)
}

// A Canceller ends jobs that are not wanted any more.
type Canceller interface {
	// Cancel keeps a job that waits from running, and ends the context of one that
	// runs, in whatever process, so that it is not retried. A job that has ended stays
	// as it is, and that is no error. A cancelled tick does not end its schedule. A tick
	// that is not inserted yet, see [RunLister], has no ID to cancel.
	Cancel(ctx context.Context, name, id string) error
}

// A Retrier runs jobs again that have ended without success.
type Retrier interface {
	// Retry runs a job at once that failed for good, was cancelled or was skipped, or
	// that waits for its next attempt, with one attempt left at least. One that waits
	// for its first attempt, runs or is completed is [ErrNotRetryable].
	Retry(ctx context.Context, name, id string) error
}

// A Pauser holds the runs of a job back.
type Pauser interface {
	// Pause keeps jobs of that name from starting, in all processes, within a few
	// seconds, and across restarts: what is triggered waits, and so does a tick that was
	// due before. Ticks that come due are skipped: the latest is in [Status].PrevTick and
	// each in the log, but they are no runs. What runs goes on. Pausing again changes
	// nothing.
	Pause(ctx context.Context, name string) error
	// Resume ends a pause: what waited can start. It does nothing if there is none.
	Resume(ctx context.Context, name string) error
}

// A Run is one job as [RunLister] tells it.
type Run struct {
	// ID and Name identify the job.
	ID, Name string
	// State is where it stands.
	State State
	// Tick is the instant it stands for; zero for a job that was triggered.
	Tick time.Time
	// Attempt is the number of the latest attempt, 0 before the first, of MaxAttempts.
	Attempt, MaxAttempts int
	// CreatedAt is when it was stored, and DueAt when it is or was to run.
	CreatedAt, DueAt time.Time
	// StartedAt is when the latest attempt began; zero before the first.
	StartedAt time.Time
	// EndedAt is when the job completed, failed for good, was cancelled or skipped;
	// else zero.
	EndedAt time.Time
	// Error is the text of the latest error, below that of a panic its stack; or why the job
	// was skipped.
	Error string
	// Data is what the job was triggered with.
	Data json.RawMessage
}

// Activity is the answer of [ActivityReporter].
type Activity struct {
	// Start is the beginning of the first step, and Step how long each is.
	Start time.Time
	Step  time.Duration
	// CompleteSince is the time from which every job is counted; of those that ended
	// before, there are more than are counted. It is Start unless there are very many.
	CompleteSince time.Time
	// Jobs has the steps of each name that had any, the oldest first.
	Jobs map[string][]Outcomes
}

// Outcomes counts how jobs ended.
type Outcomes struct {
	Completed int // done
	Failed    int // failed for good
	Other     int // cancelled or skipped
}
