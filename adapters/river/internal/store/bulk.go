package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Bulk is what is done to many runs. It determines which of them it still applies to.
type Bulk string

// The values of [Bulk].
const (
	BulkRetry  Bulk = "Retryable" // of runs that can be retried and have not been retried meanwhile
	BulkCancel Bulk = "Live"      // of runs that have not ended
)

// Lockable is a run that a [Bulk] applies to.
type Lockable struct {
	ID      int64
	Running bool
	Queue   string
}

// How [Store.Lockable] locks runs.
const (
	LockFree = "LockFree" // all but those that another transaction has locked
	Lock     = "Lock"     // waiting for other transactions
	Read     = "Read"     // not at all
)

// Lockable returns those of the runs that b applies to, and locks them. how is one of [LockFree], [Lock] and [Read].
func (s *Store) Lockable(ctx context.Context, db DB, how string, b Bulk, runs []Match) ([]Lockable, error) {
	ids, times := make([]int64, len(runs)), make([]time.Time, len(runs))
	for i, r := range runs {
		ids[i], times[i] = r.ID, r.At
	}
	return collect(ctx, s, db, how+string(b), pgx.RowToStructByPos[Lockable], ids, times)
}

// PrepareRetry prepares runs for JobRetryTx of River's client or [Store.RetryRuns]. With dropKeys, those that do not
// hold their unique key lose it.
func (s *Store) PrepareRetry(ctx context.Context, tx DB, ids []int64, dropKeys bool) error {
	return s.exec(ctx, tx, "PrepareRetry", ids, dropKeys)
}

// RetryRuns makes runs due at once, with at least one more attempt.
func (s *Store) RetryRuns(ctx context.Context, tx DB, ids []int64) error {
	return s.exec(ctx, tx, "RetryRuns", ids)
}

// CancelRuns cancels runs that are not running and have not ended.
func (s *Store) CancelRuns(ctx context.Context, tx DB, ids []int64) error {
	return s.exec(ctx, tx, "CancelRuns", ids)
}
