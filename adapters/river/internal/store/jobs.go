package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/jobs"
)

// PausedQueue is a queue that nobody works, in which the rows of paused jobs lie.
const PausedQueue = "everytick-paused"

// exec runs a statement and returns how many rows it wrote.
func (s *Store) exec(ctx context.Context, db DB, name string, args ...any) (int64, error) {
	tag, err := db.Exec(ctx, s.sql(name), args...)
	return tag.RowsAffected(), err
}

// one reads the single value that a statement returns.
func one[T any](ctx context.Context, s *Store, db DB, name string, args ...any) (v T, err error) {
	err = db.QueryRow(ctx, s.sql(name), args...).Scan(&v)
	return v, err
}

// collect reads all rows of a statement.
func collect[T any](ctx context.Context, s *Store, db DB, name string, read func(pgx.CollectableRow) (T, error), args ...any) ([]T, error) {
	rows, err := db.Query(ctx, s.sql(name), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, read)
}

// instant is a time in UTC, zero for NULL.
type instant time.Time

// ScanTimestamptz implements [pgtype.TimestamptzScanner].
func (i *instant) ScanTimestamptz(v pgtype.Timestamptz) error {
	*i = instant{}
	if v.Valid {
		*i = instant(v.Time.UTC())
	}
	return nil
}

// QueueSize counts the jobs of that name that wait. all has the names whose ticks all run, see [jobs.CatchUp].
func (s *Store) QueueSize(ctx context.Context, db DB, name string, all []string) (int, error) {
	return one[int](ctx, s, db, "QueueSize", name, all)
}

// A Live counts the jobs of one name that have a run before them or in progress.
type Live struct {
	Name                       string
	Waiting, Retrying, Running int
}

// CountLive counts by name; a name may come several times. all is as for QueueSize.
func (s *Store) CountLive(ctx context.Context, db DB, names, all []string) ([]Live, error) {
	return collect(ctx, s, db, "CountLive", pgx.RowToStructByPos[Live], names, all)
}

// Runs returns the latest jobs of that name, the newest first.
func (s *Store) Runs(ctx context.Context, db DB, name string, limit int) ([]jobs.Run, []int64, error) {
	var ids []int64
	runs, err := collect(ctx, s, db, "Runs", func(row pgx.CollectableRow) (jobs.Run, error) {
		run := jobs.Run{Name: name}
		var id int64
		err := row.Scan(&id, &run.State, (*instant)(&run.Tick), &run.Attempt, &run.MaxAttempts, (*instant)(&run.CreatedAt),
			(*instant)(&run.DueAt), (*instant)(&run.StartedAt), (*instant)(&run.EndedAt), &run.Error, &run.Data)
		ids = append(ids, id)
		return run, err
	}, name, limit)
	return runs, ids, err
}

// An Ended counts the jobs of one name that ended in one step of time.
type Ended struct {
	Name   string
	Step   int
	State  jobs.State
	Count  int
	Oldest *time.Time // of the latest jobs that are counted, if there are more
}

// Activity counts jobs that ended since start, at most limit of each of River's states.
func (s *Store) Activity(ctx context.Context, db DB, start time.Time, step time.Duration, limit int) ([]Ended, error) {
	return collect(ctx, s, db, "Activity", pgx.RowToStructByPos[Ended], start, step.Seconds(), limit)
}

// A Total counts the rows of one of River's states, or of schedules that are due, that have a state of ours.
type Total struct {
	River string
	State jobs.State
	Count int
}

// CountTotals counts at most limit rows of each of River's states. all is as for QueueSize.
func (s *Store) CountTotals(ctx context.Context, db DB, limit int, all []string) ([]Total, error) {
	return collect(ctx, s, db, "CountTotals", pgx.RowToStructByPos[Total], limit, all)
}

// OldestWaiting returns how long the job that waits longest has been due.
func (s *Store) OldestWaiting(ctx context.Context, db DB) (time.Duration, error) {
	seconds, err := one[float64](ctx, s, db, "OldestWaiting", []string{"available"}, PausedQueue)
	return time.Duration(seconds * float64(time.Second)), err
}

// BecomingDue returns the database's time, the queues with available jobs that have become due since the given
// time (none, if that is nil), and when the next one does. It is as quick however many jobs wait.
func (s *Store) BecomingDue(ctx context.Context, db DB, since *time.Time) (now time.Time, queues []string, next *time.Time, err error) {
	err = db.QueryRow(ctx, s.sql("BecomingDue"), []string{"available", "scheduled", "retryable"}, since, PausedQueue).
		Scan(&now, &queues, &next)
	return now, queues, next, err
}

// NotifyInsert has workers of these queues told of jobs, in River's words.
func (s *Store) NotifyInsert(ctx context.Context, db DB, queues []string) error {
	_, err := s.exec(ctx, db, "NotifyInsert", s.schema, queues)
	return err
}

// LockJob locks a job until the transaction ends, and returns its state. It is [pgx.ErrNoRows] if there is none
// of that name.
func (s *Store) LockJob(ctx context.Context, tx DB, id int64, name string) (jobs.State, error) {
	return one[jobs.State](ctx, s, tx, "LockJob", id, name)
}

// PrepareRetry makes a job ready for River's JobRetryTx.
func (s *Store) PrepareRetry(ctx context.Context, tx DB, id int64) error {
	_, err := s.exec(ctx, tx, "PrepareRetry", id)
	return err
}

// SetMaxAttempts sets how many attempts a job has.
func (s *Store) SetMaxAttempts(ctx context.Context, db DB, id int64, n int) error {
	_, err := s.exec(ctx, db, "SetMaxAttempts", id, n)
	return err
}

// SetQueue moves a job.
func (s *Store) SetQueue(ctx context.Context, db DB, id int64, queue string) error {
	_, err := s.exec(ctx, db, "SetQueue", id, queue)
	return err
}

// OwnsAttempt reports whether an attempt is still that client's.
func (s *Store) OwnsAttempt(ctx context.Context, db DB, id int64, attempt int, client string) (bool, error) {
	return one[bool](ctx, s, db, "OwnsAttempt", id, attempt, client)
}

// CountRunningBy counts the jobs that a client runs, as far as the database knows.
func (s *Store) CountRunningBy(ctx context.Context, db DB, client string) (int, error) {
	return one[int](ctx, s, db, "CountRunningBy", client)
}

// LetThrough reports whether another run of the job goes on. If none does, the run with that ID does from now on.
func (s *Store) LetThrough(ctx context.Context, tx DB, name string, id int64) (overlaps bool, err error) {
	if _, err := s.exec(ctx, tx, "LockOverlap", s.schema, name); err != nil {
		return false, err
	}
	if overlaps, err = one[bool](ctx, s, tx, "Overlaps", name, id); err != nil || overlaps {
		return overlaps, err
	}
	_, err = s.exec(ctx, tx, "LetThrough", id)
	return false, err
}

// A Found is a job that has a unique key.
type Found struct {
	ID    int64
	State rivertype.JobState
	Queue string
}

// FindUnique returns the job that has a unique key, with ID 0 if there is none.
func (s *Store) FindUnique(ctx context.Context, db DB, key []byte) (f Found, err error) {
	err = db.QueryRow(ctx, s.sql("FindUnique"), key).Scan(&f.ID, &f.State, &f.Queue)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return f, err
}

// LockAvailable keeps workers from taking an available job until the transaction ends, and reports whether it
// still was.
func (s *Store) LockAvailable(ctx context.Context, tx DB, id int64) (bool, error) {
	_, err := one[int64](ctx, s, tx, "LockAvailable", id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
