package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Sweep deletes runs in River's state cancelled that ended some time ago: those that were skipped, or those that were
// not. It remembers up to where it has read, so that rows that stay are read only once. The zero value starts at the
// beginning. It is not safe for concurrent use.
type Sweep struct {
	Skipped bool
	last    Match // the last row read
}

// sweepRows bounds what a sweep reads in one statement.
const sweepRows = 1000

// Run deletes those runs of the named jobs that ended longer ago than age.
func (w *Sweep) Run(ctx context.Context, s *Store, db DB, names []string, age time.Duration) error {
	for {
		read, err := collect(ctx, s, db, "DeleteEnded", pgx.RowToStructByPos[Match],
			names, age.Seconds(), w.last.At, w.last.ID, w.Skipped, sweepRows)
		if n := len(read); n > 0 {
			w.last = read[n-1]
		}
		if len(read) < sweepRows {
			return err
		}
	}
}
