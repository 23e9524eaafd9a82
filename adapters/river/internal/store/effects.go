package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"
)

// LimitIdle makes the server end a transaction that has been idle for d, or for less if the role or the database says
// so.
func (s *Store) LimitIdle(ctx context.Context, tx DB, d time.Duration) error {
	return s.exec(ctx, tx, "LimitIdle", milliseconds(d))
}

// An AttemptRow is what the row of a run says about one of its attempts. It is zero if there is no row.
type AttemptRow struct {
	State rivertype.JobState
	// Own is true if the latest attempt is the given one, by the given client.
	Own bool
	// Cancelled is true if the run was cancelled during the latest attempt.
	Cancelled bool
}

// LockAttempt reads the row of an attempt by the client with the given ID, and locks it until the transaction ends, of
// which it sets the limits.
func (s *Store) LockAttempt(ctx context.Context, tx pgx.Tx, l Limits, id int64, attempt int, client string) (row AttemptRow, err error) {
	var batch pgx.Batch
	batch.Queue(s.sql("SetLimits"), milliseconds(l.Statement), milliseconds(l.Idle))
	batch.Queue(s.sql("LockAttempt"), id, attempt, client).QueryRow(func(r pgx.Row) error {
		err := r.Scan(&row.State, &row.Own, &row.Cancelled)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		return err
	})
	return row, tx.SendBatch(ctx, &batch).Close()
}
