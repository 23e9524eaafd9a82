package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"
)

// A Found is a job that has a unique key.
type Found struct {
	ID    int64
	State rivertype.JobState
	Queue string
}

// FindUnique returns the job that has a unique key, with ID 0 if there is none.
func (s *Store) FindUnique(ctx context.Context, db DB, key []byte) (f Found, err error) {
	err = db.QueryRow(ctx, s.sql("FindUnique"), key).Scan(&f.ID, &f.State, &f.Queue)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return f, err
}

// LockAvailable keeps workers from taking an available job until the transaction ends, and reports whether it
// still was.
func (s *Store) LockAvailable(ctx context.Context, db DB, id int64) (bool, error) {
	err := db.QueryRow(ctx, s.sql("LockAvailable"), id).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
