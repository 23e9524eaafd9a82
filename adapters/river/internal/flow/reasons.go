package flow

import (
	"fmt"
	"time"
)

// Grace is how long something may fail or wait before it is a reason for bad health. It is longer than a short outage
// of the database, and than the poll intervals.
const Grace = 10 * time.Second

// A Queue is what a process knows about one of its queues.
type Queue struct {
	Name string
	// Own means that one job has the queue for itself.
	Own           bool
	Workers, Free int
	// Failure is of the fetches.
	Failure Failure
	// Due is how long the oldest job has been due that a worker could take; 0 if there is none.
	Due time.Duration
	// Paused means that River has paused the queue.
	Paused bool
}

// Reason returns why jobs of the queue do not start though workers are free, or "". The text of a job's own queue
// continues from the job's name. The caller has made sure that the oldest due job is no longer about to be fetched.
func (q Queue) Reason(now time.Time) string {
	failing := q.Failure.Err != nil && now.Sub(q.Failure.Since) >= Grace && now.Sub(q.Failure.Last) < 3*Grace
	due := q.Due >= Grace
	switch {
	case q.Free == 0:
		return ""
	case failing && q.Own:
		return fmt.Sprintf("could not be fetched for %s: %v", seconds(now.Sub(q.Failure.Since)), q.Failure.Err)
	case failing:
		return fmt.Sprintf("no job of queue %q could be fetched for %s: %v",
			q.Name, seconds(now.Sub(q.Failure.Since)), q.Failure.Err)
	case due && q.Own && q.Paused:
		return fmt.Sprintf("has been due for %s, and its queue %q is paused in River: resume the queue", seconds(q.Due), q.Name)
	case due && q.Paused:
		return fmt.Sprintf("queue %q is paused in River, and a job in it has been due for %s: resume the queue",
			q.Name, seconds(q.Due))
	case due && q.Own:
		return fmt.Sprintf("has been due for %s, and was not fetched, though %d of %d workers are free: %s",
			seconds(q.Due), q.Free, q.Workers, lookFor)
	case due:
		return fmt.Sprintf("a job in queue %q has been due for %s, and none was fetched, though %d of %d workers are free: %s",
			q.Name, seconds(q.Due), q.Free, q.Workers, lookFor)
	}
	return ""
}

const lookFor = "see the log, and look for a transaction that locks the job"

// ResultsReason returns why results are not stored, or "". n jobs have ended since first, and the latest attempt to
// store results failed with err.
func ResultsReason(n int, first time.Time, err error, now time.Time) string {
	if n == 0 || now.Sub(first) < Grace {
		return ""
	}
	cause := "see the log"
	if err != nil {
		cause = err.Error()
	}
	what := "the result of 1 ended job"
	if n > 1 {
		what = fmt.Sprintf("the results of %d ended jobs", n)
	}
	return fmt.Sprintf("%s could not be stored for %s: %s", what, seconds(now.Sub(first)), cause)
}

func seconds(d time.Duration) time.Duration { return d.Round(time.Second) }
