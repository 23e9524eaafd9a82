package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Once is a run that has an idempotency key.
type Once struct {
	ID          int64
	Fingerprint string // of its trigger
}

// FindOnce returns the run that has an idempotency key, in whatever state. Its ID is 0 if there is none.
func (s *Store) FindOnce(ctx context.Context, db DB, key []byte) (o Once, err error) {
	o, _, err = atMostOne(ctx, s, db, "FindOnce", pgx.RowToStructByPos[Once], key)
	return o, err
}
