package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A Failure is a run that has failed for good, for which the functions of jobs.OnFailed are to be called.
type Failure struct {
	JobID    int64
	Name     string
	Failures int // how often it has failed since the last call
}

// NoteFailed stores that the run is about to fail for good.
func (s *Store) NoteFailed(ctx context.Context, db DB, id int64, name string) error {
	return s.exec(ctx, db, "NoteFailed", id, name)
}

// ClaimFailed claims at most limit calls for the named jobs for the client with the given ID. It passes over those that
// a living process makes: others, and the client itself those for the jobs in current. dead has processes known to be
// dead.
func (s *Store) ClaimFailed(
	ctx context.Context, db DB, names []string, client string, dead []string, current []int64, limit int,
) ([]Failure, error) {
	dead, current = append([]string{}, dead...), append([]int64{}, current...) // nil would be NULL
	return collect(ctx, s, db, "ClaimFailed", pgx.RowToStructByPos[Failure], names, client, dead, limit, current)
}

// DeleteFailed deletes a call that the client has made, unless the run has failed again since it was claimed.
func (s *Store) DeleteFailed(ctx context.Context, db DB, f Failure, client string) error {
	tag, err := db.Exec(ctx, s.sql("DeleteFailed"), f.JobID, client, f.Failures)
	if err == nil && tag.RowsAffected() == 0 {
		err = s.ReleaseFailed(ctx, db, f, client)
	}
	return err
}

// ReleaseFailed gives up the client's claim of a call.
func (s *Store) ReleaseFailed(ctx context.Context, db DB, f Failure, client string) error {
	return s.exec(ctx, db, "ReleaseFailed", f.JobID, client)
}

// ForgetFailed deletes calls whose runs have ended in another way, or are gone.
func (s *Store) ForgetFailed(ctx context.Context, db DB) error {
	return s.exec(ctx, db, "ForgetFailed")
}
