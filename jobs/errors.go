package jobs

import (
	"errors"
	"time"

	"github.com/everytick/everytick/jobs/internal/verdict"
)

// Errors returned by a [Scheduler] wrap one of these and say what was wrong and what is allowed. Test for them with
// [errors.Is].
var (
	// ErrDuplicate is returned when a name is already registered.
	ErrDuplicate = errors.New("jobs: name is already registered")
	// ErrInvalidName is returned for a name that does not follow the naming rule of [Registrar].
	ErrInvalidName = errors.New("jobs: invalid name")
	// ErrInvalidSchedule is returned for an invalid cron pattern, interval, delay or time.
	ErrInvalidSchedule = errors.New("jobs: invalid schedule")
	// ErrInvalidOption is returned for an option that is out of range or does not apply to the job.
	ErrInvalidOption = errors.New("jobs: invalid option")
	// ErrInvalidData is returned for data that is not a JSON object or cannot be stored unchanged. Nothing was
	// inserted.
	ErrInvalidData = errors.New("jobs: invalid data")
	// ErrUnknownJob is returned for a name that is not registered.
	ErrUnknownJob = errors.New("jobs: unknown job")
	// ErrUnknownID is returned for an ID that belongs to no stored run of the named job.
	ErrUnknownID = errors.New("jobs: unknown job ID")
	// ErrNotRetryable is returned by [Retrier] for a run that has not failed, and was not cancelled or skipped.
	ErrNotRetryable = errors.New("jobs: job cannot be retried")
	// ErrStarted is returned by Start and by registrations while the scheduler is started.
	ErrStarted = errors.New("jobs: scheduler is started")
	// ErrNotStarted is returned by Shutdown when the scheduler is not started.
	ErrNotStarted = errors.New("jobs: scheduler is not started")
)

// Permanent marks err as one that a retry cannot fix: the job fails for good with this attempt. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &verdict.Permanent{Err: err}
}

// RetryAfter marks err so that the next attempt starts after d instead of the usual retry delay. The attempt still
// counts. A negative d means 0. RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &verdict.RetryAfter{After: max(0, d), Err: err}
}
