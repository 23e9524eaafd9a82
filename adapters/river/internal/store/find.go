package store

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// CancelPrefix is how River begins the error of a run that a handler cancelled.
const CancelPrefix = "JobCancelError: "

// scanRun reads the columns of the piece "run", and the others into more.
func scanRun(row pgx.CollectableRow, more ...any) (r jobs.Run, err error) {
	var id int64
	err = row.Scan(append([]any{
		&id, &r.Name, &r.State, (*instant)(&r.Tick), &r.Attempt, &r.MaxAttempts, (*instant)(&r.CreatedAt),
		(*instant)(&r.DueAt), (*instant)(&r.StartedAt), (*instant)(&r.EndedAt), &r.Error, &r.Process,
		(*instant)(&r.CancelledAt), &r.Snoozes, &r.SnoozeReason, &r.Data, &r.Output,
	}, more...)...)
	r.ID, r.Error = strconv.FormatInt(id, 10), strings.TrimPrefix(r.Error, CancelPrefix)
	if r.Attempt == 0 { // an interrupted attempt does not count
		r.StartedAt, r.Process = time.Time{}, ""
	}
	return r, err
}

// Runs returns the latest runs of a job, newest first. Those after maxBytes of data and error texts have no data.
func (s *Store) Runs(ctx context.Context, db DB, name string, limit, maxBytes int) ([]jobs.Run, error) {
	read := func(row pgx.CollectableRow) (jobs.Run, error) { return scanRun(row) }
	return collect(ctx, s, db, "Runs", read, name, limit, maxBytes)
}

// A RunError is the error of an attempt as River stores it.
type RunError struct {
	At      time.Time `json:"at"`
	Attempt int       `json:"attempt"`
	Error   string    `json:"error"`
	Trace   string    `json:"trace"`
}

// Run returns a run with its latest errors, oldest first. found is false if there is none with this ID.
func (s *Store) Run(
	ctx context.Context, db DB, id int64, maxErrors int,
) (r jobs.Run, errs []RunError, found bool, err error) {
	read := func(row pgx.CollectableRow) (jobs.Run, error) { return scanRun(row, &errs) }
	r, found, err = atMostOne(ctx, s, db, "Run", read, id, maxErrors)
	return r, errs, found, err
}

// A Filter says which runs to find. It has both the states of ours and those of River that rows with them may have,
// by whether they have ended.
type Filter struct {
	provider.RunFilter
	Live, Ended []string
}

// reading calls f in a transaction for statements whose plans depend on their parameters.
func (s *Store) reading(ctx context.Context, pool Beginner, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := s.exec(ctx, tx, "SetPlanning"); err != nil {
			return err
		}
		return f(tx)
	})
}

// A Beginner is a pool or a connection.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// FindRuns returns a page of runs, latest first, with at most maxBytes of data and error texts unless it is a single
// run, and whether more follow.
func (s *Store) FindRuns(
	ctx context.Context, pool Beginner, f Filter, maxBytes int,
) (runs []jobs.Run, more bool, err error) {
	found := 0 // runs from the start of the page, but at most one more than the limit
	read := func(row pgx.CollectableRow) (jobs.Run, error) { return scanRun(row, &found) }
	err = s.reading(ctx, pool, func(tx pgx.Tx) (err error) {
		runs, err = collect(ctx, s, tx, "FindRuns", read,
			f.Live, f.Ended, maxBytes, f.Names, f.states(), orNull(f.Since), orNull(f.Until), f.Limit+1, orNull(f.After.At), f.After.ID)
		return err
	})
	runs = runs[:min(f.Limit, len(runs))]
	return runs, found > len(runs), err
}

// A Match is a run that was found, with its time then.
type Match struct {
	ID int64
	At time.Time
}

// MatchingRuns returns all runs that match, latest first. Without due it leaves out runs that start now in any case.
func (s *Store) MatchingRuns(ctx context.Context, pool Beginner, f Filter, due bool) (all []Match, err error) {
	err = s.reading(ctx, pool, func(tx pgx.Tx) (err error) {
		all, err = collect(ctx, s, tx, "MatchingRuns", pgx.RowToStructByPos[Match], f.matching(due)...)
		return err
	})
	return all, err
}

// CountMatching counts what [Store.MatchingRuns] returns.
func (s *Store) CountMatching(ctx context.Context, pool Beginner, f Filter, due bool) (n int, err error) {
	err = s.reading(ctx, pool, func(tx pgx.Tx) (err error) {
		n, err = one[int](ctx, s, tx, "CountMatching", f.matching(due)...)
		return err
	})
	return n, err
}

func (f *Filter) matching(due bool) []any {
	return []any{f.Live, f.Ended, due, f.Names, f.states(), orNull(f.Since), orNull(f.Until)}
}

// states returns the states as strings: not every query mode knows how to send other types.
func (f *Filter) states() []string {
	states := make([]string, len(f.States))
	for i, state := range f.States {
		states[i] = string(state)
	}
	return states
}
