package jobs

import (
	"errors"
	"time"

	"github.com/everytick/everytick/jobs/internal/verdict"
)

// The errors of this package. Those that a [Scheduler] returns wrap one of these
// and say what was wrong and what is allowed; test for them with [errors.Is].
var (
	// ErrDuplicate is returned when a name is registered a second time.
	ErrDuplicate = errors.New("jobs: name is already registered")
	// ErrInvalidName is returned for a name that breaks the rule for names.
	ErrInvalidName = errors.New("jobs: invalid name")
	// ErrInvalidSchedule is returned for a cron pattern, interval or delay that
	// cannot be run as written.
	ErrInvalidSchedule = errors.New("jobs: invalid schedule")
	// ErrInvalidOption is returned for an option whose value is out of range, or
	// that does not apply to the kind of job it is given to.
	ErrInvalidOption = errors.New("jobs: invalid option")
	// ErrInvalidData is returned for data that is no JSON object or that could not
	// be stored unchanged. Nothing was enqueued.
	ErrInvalidData = errors.New("jobs: invalid data")
	// ErrUnknownJob is returned for a name that nobody registered.
	ErrUnknownJob = errors.New("jobs: unknown job")
	// ErrUnknownID is returned for an ID that no kept job of the name has.
	ErrUnknownID = errors.New("jobs: unknown job ID")
	// ErrNotRetryable is returned by [Retrier] for a job that has not ended without success.
	ErrNotRetryable = errors.New("jobs: job cannot be retried")
	// ErrStarted is returned by Start and by registrations while the scheduler runs.
	ErrStarted = errors.New("jobs: scheduler is started")
	// ErrNotStarted is returned by Shutdown when the scheduler does not run.
	ErrNotStarted = errors.New("jobs: scheduler is not started")
)

// Permanent marks err as one that no retry can help: the job has failed for good
// with this attempt. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &verdict.Permanent{Err: err}
}

// RetryAfter marks err as one after which the job is to be retried in d, instead
// of after its back-off. It still uses up an attempt. A d below 0 counts as 0.
// RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &verdict.RetryAfter{After: max(0, d), Err: err}
}
