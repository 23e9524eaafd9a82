package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Stall is the oldest run in a queue that a worker could take.
type Stall struct {
	Queue  string
	ID     int64
	Due    float64 // seconds
	Paused bool    // River has paused the queue
}

// Stalls returns the oldest run in each queue that a worker of these jobs could take, if it has been due for the given
// time.
func (s *Store) Stalls(ctx context.Context, db DB, queues, names []string, due time.Duration) ([]Stall, error) {
	return collect(ctx, s, db, "Stalls", pgx.RowToStructByPos[Stall], queues, names, due.Seconds())
}

// An Attempt is a run and the time at which it was fetched.
type Attempt struct {
	ID int64
	At time.Time
}

// RunningBy returns the attempts that are stored as running in a client, and were fetched that long ago.
func (s *Store) RunningBy(ctx context.Context, db DB, client string, age time.Duration) ([]Attempt, error) {
	return collect(ctx, s, db, "RunningBy", pgx.RowToStructByPos[Attempt], client, age.Seconds())
}

// GiveBack gives back attempts of a client as if they had not been fetched, and returns the queue of each.
func (s *Store) GiveBack(ctx context.Context, db DB, client string, lost []Attempt) ([]string, error) {
	ids, times := make([]int64, len(lost)), make([]time.Time, len(lost))
	for i, a := range lost {
		ids[i], times[i] = a.ID, a.At
	}
	return collect(ctx, s, db, "GiveBack", pgx.RowTo[string], client, ids, times)
}

// OwnedAttempts returns the IDs of those of these attempts that still belong to the client, with ended also of those
// whose runs have ended.
func (s *Store) OwnedAttempts(
	ctx context.Context, db DB, client string, ids []int64, attempts []int, ended bool,
) ([]int64, error) {
	return collect(ctx, s, db, "OwnedAttempts", pgx.RowTo[int64], ids, attempts, client, ended)
}
