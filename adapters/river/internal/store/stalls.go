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

// GiveBack gives back the runs that were fetched for a client before the given time and that it does not hold, and
// returns the queue of each.
func (s *Store) GiveBack(ctx context.Context, db DB, client string, held []int64, before time.Duration) ([]string, error) {
	return collect(ctx, s, db, "GiveBack", pgx.RowTo[string], client, held, before.Seconds())
}

// OwnedAttempts returns the IDs of those of these attempts that still belong to the client.
func (s *Store) OwnedAttempts(ctx context.Context, db DB, client string, ids []int64, attempts []int) ([]int64, error) {
	return collect(ctx, s, db, "OwnedAttempts", pgx.RowTo[int64], ids, attempts, client)
}
