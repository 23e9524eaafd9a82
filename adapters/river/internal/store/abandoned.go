package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Abandoned is a job with runs that nobody works, and that no process has registered.
type Abandoned struct {
	Name string
	N    int     // how many runs wait, or were left behind by a dead process
	Due  float64 // how long the oldest of them has been due, in seconds
}

// Abandoned returns at most limit jobs that have runs which have been due for longer than the given time, or were left
// behind by a dead process, but that no process seen within deadAfter has registered, except those in known. It counts
// at most rows waiting runs of each.
func (s *Store) Abandoned(
	ctx context.Context, db DB, due, deadAfter time.Duration, rows, limit int, known []string,
) ([]Abandoned, error) {
	return collect(ctx, s, db, "Abandoned", pgx.RowToStructByPos[Abandoned],
		due.Seconds(), deadAfter.Seconds(), PausedQueue, rows, limit, known)
}
