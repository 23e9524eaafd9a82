package store

import (
	"context"
	"time"
)

// PausedQueue is a queue without workers. It holds the waiting runs of paused jobs.
const PausedQueue = "everytick-paused"

// moveChunk is how many rows one transaction moves.
const moveChunk = 5000

// move repeats a statement that moves up to moveChunk rows until it finds fewer.
func (s *Store) move(ctx context.Context, db DB, name string, args ...any) error {
	for {
		tag, err := db.Exec(ctx, s.sql(name), append([]any{moveChunk}, args...)...)
		if err != nil || tag.RowsAffected() < moveChunk {
			return err
		}
	}
}

// Park moves the waiting runs of a job to [PausedQueue], except those that another transaction has locked.
func (s *Store) Park(ctx context.Context, db DB, name string) error {
	return s.move(ctx, db, "Park", name, PausedQueue)
}

// Unpark moves the runs of these jobs from [PausedQueue] to queues, which has one queue per name. It reports
// whether some are left because another transaction has locked them.
func (s *Store) Unpark(ctx context.Context, db DB, names, queues []string) (left bool, err error) {
	if err := s.move(ctx, db, "Unpark", names, queues, PausedQueue); err != nil {
		return false, err
	}
	return one[bool](ctx, s, db, "StillParked", moveChunk, names, queues, PausedQueue)
}

// Rehome moves waiting runs of these jobs from queues that are not in worked to queues, which has one queue per
// name. Unless all is set, it moves only runs that are more than lateness late.
func (s *Store) Rehome(
	ctx context.Context, db DB, names, queues, worked []string, all bool, lateness time.Duration,
) error {
	return s.move(ctx, db, "Rehome", names, queues, worked, all, lateness.Seconds())
}

// Pauses returns the paused jobs and when each pause began.
func (s *Store) Pauses(ctx context.Context, db DB) (map[string]time.Time, error) {
	return collectByName(ctx, s, db, "Pauses", func(since *time.Time) []any { return []any{(*instant)(since)} })
}

// Pause marks a job as paused.
func (s *Store) Pause(ctx context.Context, db DB, name string) error {
	return s.exec(ctx, db, "Pause", name)
}

// Resume marks a job as not paused.
func (s *Store) Resume(ctx context.Context, db DB, name string) error {
	return s.exec(ctx, db, "Resume", name)
}
