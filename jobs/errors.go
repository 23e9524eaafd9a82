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
	// ErrInvalidData is returned for data that is not a JSON object, and for data or output (see [Job.SetOutput])
	// that cannot be stored unchanged. Nothing was stored.
	ErrInvalidData = errors.New("jobs: invalid data")
	// ErrUnknownJob is returned for a name that is not registered.
	ErrUnknownJob = errors.New("jobs: unknown job")
	// ErrUnknownID is returned for an ID that belongs to no stored run of the named job.
	ErrUnknownID = errors.New("jobs: unknown job ID")
	// ErrNotRetryable is returned by [Retrier] for a run that has not failed, and was not cancelled or skipped.
	ErrNotRetryable = errors.New("jobs: job cannot be retried")
	// ErrNotCompleted is returned by [Await] for a run that failed for good, was cancelled or skipped.
	ErrNotCompleted = errors.New("jobs: run has not completed")
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

// minSnooze keeps a handler that snoozes again and again from occupying the workers.
const minSnooze = time.Second

// Snooze returns an error with which a handler says that its run cannot be done yet, and should start again after d. It
// is no failure: no attempt is used up, not even the last one, and reason appears in [Run].SnoozeReason and, at level
// INFO, in the log. [Job.Snoozes] counts the snoozes of a run, so that the handler can give up some day.
//
// A d shorter than a second means one second. The first 8 KiB of reason are kept. Meanwhile the run is scheduled, or
// retrying if an attempt has failed before. It can be cancelled, and [Retrier] starts it at once. It is not skipped for
// being late (see [StartWithin]) or because another run is in progress (see [Overlap]), and delays no later tick.
//
// The error may be wrapped. If it is joined with a [Permanent] error, the job fails for good. If the attempt's context
// has ended because of a shutdown or a cancellation, that decides what happens to the run.
func Snooze(d time.Duration, reason string) error {
	return &verdict.Snooze{After: max(d, minSnooze), Reason: reason}
}

// Snoozed reports whether a handler that returns err snoozes its run with [Snooze], and for how long and why. It is
// meant for middleware and tests.
func Snoozed(err error) (d time.Duration, reason string, ok bool) {
	var snooze *verdict.Snooze
	if err == nil || isPermanent(err) || !verdict.Sound(func() bool { return errors.As(err, &snooze) }) {
		return 0, "", false
	}
	return snooze.After, snooze.Reason, true
}

func isPermanent(err error) bool {
	var permanent *verdict.Permanent
	return verdict.Sound(func() bool { return errors.As(err, &permanent) })
}

// RetryAfter marks err so that the next attempt starts after exactly d instead of the usual retry delay. The attempt
// still counts. A negative d means 0. RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &verdict.RetryAfter{After: max(0, d), Err: err}
}
