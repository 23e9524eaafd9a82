package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// moveChunk is how many rows are moved in one transaction.
const moveChunk = 5000

// move repeats a statement that moves up to moveChunk rows until it finds fewer.
func (s *Store) move(ctx context.Context, db DB, name string, args ...any) error {
	for {
		n, err := s.exec(ctx, db, name, append([]any{moveChunk}, args...)...)
		if err != nil || n < moveChunk {
			return err
		}
	}
}

// Park puts the waiting jobs of that name into [PausedQueue], but for those that somebody else has locked.
func (s *Store) Park(ctx context.Context, db DB, name string) error {
	return s.move(ctx, db, "Park", name, PausedQueue)
}

// Unpark moves the jobs of these names from [PausedQueue] to their queues, and reports whether some are left,
// which somebody else has locked.
func (s *Store) Unpark(ctx context.Context, db DB, names, queues []string) (left bool, err error) {
	if err := s.move(ctx, db, "Unpark", names, queues, PausedQueue); err != nil {
		return false, err
	}
	return one[bool](ctx, s, db, "StillParked", moveChunk, names, queues, PausedQueue)
}

// Rehome moves waiting jobs of these names to their queues out of queues that are not among worked. Those that
// are not late by lateness stay, unless all is set.
func (s *Store) Rehome(ctx context.Context, db DB, names, queues, worked []string, all bool, lateness time.Duration) error {
	return s.move(ctx, db, "Rehome", names, queues, worked, all, lateness.Seconds())
}

// Pauses returns since when which jobs are paused.
func (s *Store) Pauses(ctx context.Context, db DB) (map[string]time.Time, error) {
	paused := map[string]time.Time{}
	rows, err := db.Query(ctx, s.sql("Pauses"))
	if err != nil {
		return nil, err
	}
	var (
		name  string
		since time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &since}, func() error {
		paused[name] = since.UTC()
		return nil
	})
	return paused, err
}

// Pause stores that a job is paused.
func (s *Store) Pause(ctx context.Context, db DB, name string) error {
	_, err := s.exec(ctx, db, "Pause", name)
	return err
}

// Resume stores that a job is not paused.
func (s *Store) Resume(ctx context.Context, db DB, name string) error {
	_, err := s.exec(ctx, db, "Resume", name)
	return err
}
