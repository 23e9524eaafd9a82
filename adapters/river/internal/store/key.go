package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
)

// keySuffix is the number of random bytes at the end of a unique key that several live runs may share.
const keySuffix = 16

// SharedKey returns a value of unique_key for a run of the key with the given hash. No other run has it.
func SharedKey(hash []byte) []byte {
	suffix := make([]byte, keySuffix)
	rand.Read(suffix)
	return append(bytes.Clone(hash), suffix...)
}

// LockKey waits until no other transaction has locked the key with the given hash, and locks it until tx ends.
func (s *Store) LockKey(ctx context.Context, tx DB, hash []byte) error {
	return s.exec(ctx, tx, "LockKey", s.schema, hash)
}

// A Keyed is a live run that has a shared key.
type Keyed struct {
	ID    int64
	State jobs.State
	// Scheduled says that River's scheduler makes the run available when it is due.
	Scheduled bool
	// Moves says that the run counts as running, but may return to the queue without its handler having been called.
	Moves bool
}

// LiveByKey returns the live runs of the key with the given hash, in no particular order. Runs that have been
// overtaken are not among them. paused says that the job is.
func (s *Store) LiveByKey(ctx context.Context, db DB, hash []byte, paused bool) ([]Keyed, error) {
	end := append(bytes.Clone(hash), bytes.Repeat([]byte{0xff}, keySuffix+1)...)
	return collect(ctx, s, db, "LiveByKey", pgx.RowToStructByPos[Keyed], hash, end, PausedQueue, paused)
}

// Held is a waiting run that no worker can fetch until the transaction ends.
type Held struct {
	Queue   string
	Started bool // an attempt has started before
	Due     time.Time
	Now     time.Time // the start of the transaction, by the database's clock
}

// LockWaiting holds a waiting run until the transaction ends. ok is false if it no longer waits.
func (s *Store) LockWaiting(ctx context.Context, tx DB, id int64) (h Held, ok bool, err error) {
	return atMostOne(ctx, s, tx, "LockWaiting", func(row pgx.CollectableRow) (h Held, err error) {
		return h, row.Scan(&h.Queue, &h.Started, (*instant)(&h.Due), (*instant)(&h.Now))
	}, id)
}

// MakeAvailable makes a run that River's scheduler would make available within the given time available now. It does
// nothing if the run is locked.
func (s *Store) MakeAvailable(ctx context.Context, db DB, id int64, within time.Duration) error {
	return s.exec(ctx, db, "MakeAvailable", id, within.Seconds())
}

// Replace deletes the run by, which was inserted in the same transaction, and gives its data, metadata, priority and,
// unless keepDue is set, due time to the run id, which must be held.
func (s *Store) Replace(ctx context.Context, tx DB, by, id int64, keepDue bool) error {
	return s.exec(ctx, tx, "Replace", by, id, keepDue)
}

// Overtake makes the run id end as skipped if it is started again, because the run by starts with newer data.
func (s *Store) Overtake(ctx context.Context, db DB, id, by int64) error {
	return s.exec(ctx, db, "Overtake", id, by)
}
