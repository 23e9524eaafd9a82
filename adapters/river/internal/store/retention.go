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
	// at and id are those of the last row read.
	at time.Time
	id int64
}

// sweepRows bounds what a sweep reads in one statement.
const sweepRows = 1000

// Run deletes those runs of the named jobs that ended longer ago than age.
func (w *Sweep) Run(ctx context.Context, s *Store, db DB, names []string, age time.Duration) error {
	for {
		n := 0
		_, err := collect(ctx, s, db, "DeleteEnded", func(row pgx.CollectableRow) (struct{}, error) {
			n++
			return struct{}{}, row.Scan(&w.at, &w.id)
		}, names, age.Seconds(), w.at, w.id, w.Skipped, sweepRows)
		if err != nil || n < sweepRows {
			return err
		}
	}
}
