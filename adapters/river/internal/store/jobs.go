package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/jobs"
)

// QueueSize counts the waiting runs of a job. catchUpAll has the names of the jobs with [jobs.CatchUpAll], whose due
// ticks count one by one.
func (s *Store) QueueSize(ctx context.Context, db DB, name string, catchUpAll []string) (int, error) {
	return one[int](ctx, s, db, "QueueSize", name, catchUpAll)
}

// Live counts the runs of one job that wait or are in progress. Waiting includes Retrying.
type Live struct {
	Name                       string
	Waiting, Retrying, Running int
}

// CountLive counts runs by job. A job may occur several times in the result; the counts add up. catchUpAll is as
// for [Store.QueueSize].
func (s *Store) CountLive(ctx context.Context, db DB, names, catchUpAll []string) ([]Live, error) {
	return collect(ctx, s, db, "CountLive", pgx.RowToStructByPos[Live], names, catchUpAll)
}

// Ended counts the runs of one job that ended in one interval with one state.
type Ended struct {
	Name   string
	Step   int
	State  jobs.State
	Count  int
	Oldest *time.Time // the end of the oldest run counted, if the limit was reached
}

// Activity counts the runs that ended since start, by intervals of length step. It counts at most limit runs of
// each of River's states, the latest ones.
func (s *Store) Activity(ctx context.Context, db DB, start time.Time, step time.Duration, limit int) ([]Ended, error) {
	return collect(ctx, s, db, "Activity", pgx.RowToStructByPos[Ended], start, step.Seconds(), limit)
}

// Total counts the rows with one of River's states that have one of our states. River is "due" for due schedules.
type Total struct {
	River string
	State jobs.State
	Count int
}

// CountTotals counts at most limit rows of each of River's states. catchUpAll is as for [Store.QueueSize].
func (s *Store) CountTotals(ctx context.Context, db DB, limit int, catchUpAll []string) ([]Total, error) {
	return collect(ctx, s, db, "CountTotals", pgx.RowToStructByPos[Total], limit, catchUpAll)
}

// OldestWaiting returns how long the oldest waiting run has been due.
func (s *Store) OldestWaiting(ctx context.Context, db DB) (time.Duration, error) {
	seconds, err := one[float64](ctx, s, db, "OldestWaiting", []string{"available"}, PausedQueue)
	return time.Duration(seconds * float64(time.Second)), err
}

// BecomingDue returns the database's time, the queues with available runs that have become due since the given
// time, and when the next run becomes due. Without since it returns no queues. The number of waiting runs does not
// matter for its speed.
func (s *Store) BecomingDue(
	ctx context.Context, db DB, since *time.Time,
) (now time.Time, queues []string, next *time.Time, err error) {
	states := []string{"available", "scheduled", "retryable"}
	err = db.QueryRow(ctx, s.sql("BecomingDue"), states, since, PausedQueue).Scan(&now, &queues, &next)
	return now, queues, next, err
}

// QueueNotify adds to batch what NotifyInsert does.
func (s *Store) QueueNotify(batch *pgx.Batch, queues []string) {
	batch.Queue(s.sql("NotifyInsert"), s.schema, queues)
}

// NotifyInsert notifies the workers of these queues, as River does after an insert.
func (s *Store) NotifyInsert(ctx context.Context, db DB, queues []string) error {
	return s.exec(ctx, db, "NotifyInsert", s.schema, queues)
}

// LockJob locks a run until the transaction ends. It returns its state, and whether it was ever snoozed by its handler.
// It returns [pgx.ErrNoRows] if the job has no run with this ID.
func (s *Store) LockJob(ctx context.Context, tx DB, id int64, name string) (state jobs.State, snoozed bool, err error) {
	err = tx.QueryRow(ctx, s.sql("LockJob"), id, name).Scan(&state, &snoozed)
	return state, snoozed, err
}

// SetMaxAttempts sets the number of attempts of a run.
func (s *Store) SetMaxAttempts(ctx context.Context, db DB, id int64, n int) error {
	return s.exec(ctx, db, "SetMaxAttempts", id, n)
}

// SetQueue moves a run to a queue.
func (s *Store) SetQueue(ctx context.Context, db DB, id int64, queue string) error {
	return s.exec(ctx, db, "SetQueue", id, queue)
}

// CountRunningBy counts the runs that are stored as running in the client with the given ID.
func (s *Store) CountRunningBy(ctx context.Context, db DB, client string) (int, error) {
	return one[int](ctx, s, db, "CountRunningBy", client)
}

// LetThrough reports whether another run of the job is in progress. If not, it marks the run with the given ID as
// the one in progress. A retry is marked in any case. ended has runs that have ended, whatever is stored.
func (s *Store) LetThrough(
	ctx context.Context, tx DB, name string, id int64, retry bool, ended []int64,
) (overlaps bool, err error) {
	if err := s.exec(ctx, tx, "LockOverlap", s.schema, name); err != nil {
		return false, err
	}
	if !retry {
		if overlaps, err = one[bool](ctx, s, tx, "Overlaps", name, id, ended); err != nil || overlaps {
			return overlaps, err
		}
	}
	return false, s.exec(ctx, tx, "LetThrough", id)
}

// Found is a run that has a unique key.
type Found struct {
	ID          int64
	State       rivertype.JobState
	Queue       string
	Fingerprint string // of its trigger, if the key is of jobs.IdempotencyKey
}

// FindUnique returns the run that has a unique key. Its ID is 0 if there is none.
func (s *Store) FindUnique(ctx context.Context, db DB, key []byte) (f Found, err error) {
	f, _, err = atMostOne(ctx, s, db, "FindUnique", pgx.RowToStructByPos[Found], key)
	return f, err
}

// LockAvailable prevents workers from fetching an available run until the transaction ends. It reports whether the
// run was still available.
func (s *Store) LockAvailable(ctx context.Context, tx DB, id int64) (bool, error) {
	_, ok, err := atMostOne(ctx, s, tx, "LockAvailable", pgx.RowTo[int64], id)
	return ok, err
}
