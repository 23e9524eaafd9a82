package store

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Limits are those of a transaction that may wait for locks, and be cut off from its process in the middle.
type Limits struct {
	Statement time.Duration // how long one statement may take, and wait for a lock
	Idle      time.Duration // how long the server waits for the next one
}

// SetLimits sets them for a transaction, whatever those of the role.
func (s *Store) SetLimits(ctx context.Context, tx DB, l Limits) error {
	_, err := s.exec(ctx, tx, "SetLimits", milliseconds(l.Statement), milliseconds(l.Idle))
	return err
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// LockRegistering makes those who register schedules do so one after the other, and returns the database's time
// once it has the lock: every decision in tx is as of then.
func (s *Store) LockRegistering(ctx context.Context, tx DB) (now time.Time, err error) {
	if _, err := s.exec(ctx, tx, "LockRegistering", s.schema); err != nil {
		return now, err
	}
	now, err = one[time.Time](ctx, s, tx, "Now")
	return now.UTC(), err
}

// A Claim is what a row says of whose schedule it is.
type Claim struct {
	Name, Spec string
	By         string    // hash of all registrations of the process that set Spec
	At         time.Time // start of that process
	Next       time.Time // zero if no tick is left
}

// LockSchedules returns the rows of these names, locked until the transaction ends.
func (s *Store) LockSchedules(ctx context.Context, tx DB, names []string) ([]Claim, error) {
	return collect(ctx, s, tx, "LockSchedules", readClaim, names)
}

// ReadSchedules returns the rows of these names.
func (s *Store) ReadSchedules(ctx context.Context, db DB, names []string) ([]Claim, error) {
	return collect(ctx, s, db, "ReadSchedules", readClaim, names)
}

func readClaim(row pgx.CollectableRow) (c Claim, err error) {
	return c, row.Scan(&c.Name, &c.Spec, &c.By, (*instant)(&c.At), (*instant)(&c.Next))
}

// PutSchedules writes rows, or what a claim has of those that are there.
func (s *Store) PutSchedules(ctx context.Context, tx DB, claims []Claim) error {
	var names, specs, by []string
	var at []time.Time
	var next []*time.Time
	for _, c := range claims {
		names, specs, by = append(names, c.Name), append(specs, c.Spec), append(by, c.By)
		at, next = append(at, c.At), append(next, orNull(c.Next))
	}
	_, err := s.exec(ctx, tx, "PutSchedules", names, specs, by, at, next)
	return err
}

// Unregistered returns the names of rows that are overdue and not among those given.
func (s *Store) Unregistered(ctx context.Context, db DB, names []string) ([]string, error) {
	return collect(ctx, s, db, "Unregistered", pgx.RowTo[string], names)
}

// A Due is a schedule whose next tick has come.
type Due struct {
	Name, Spec string
	Next       time.Time
}

// DueSchedules returns the schedules that have become due since floor.
func (s *Store) DueSchedules(ctx context.Context, db DB, floor time.Time) ([]Due, error) {
	return collect(ctx, s, db, "DueSchedules", func(row pgx.CollectableRow) (d Due, err error) {
		return d, row.Scan(&d.Name, &d.Spec, (*instant)(&d.Next))
	}, floor)
}

// A Tick is one that was inserted or skipped, with what has become of it.
type Tick struct {
	At     time.Time // zero if there is none
	Missed int       // how many earlier ticks it stands for
	JobID  int64     // 0 if it was skipped
	State  jobs.State
}

// A Schedule is a row, with what its jobs have come to.
type Schedule struct {
	Name        string
	Next        time.Time // zero if no tick is left
	Last, Prev  Tick
	Skipped     Tick // the latest that a pause skipped
	LastSuccess time.Time
	Data        json.RawMessage
	Progress    provider.Progress // of the last tick's job
	Paused      bool
}

// columns are where a row is read into, in the order in which the statements have them.
func (r *Schedule) columns() []any {
	return []any{
		&r.Name, (*instant)(&r.Next),
		(*instant)(&r.Last.At), &r.Last.Missed, (*zeronull.Int8)(&r.Last.JobID), &r.Last.State,
		(*instant)(&r.Prev.At), &r.Prev.Missed, (*zeronull.Int8)(&r.Prev.JobID), &r.Prev.State,
		(*instant)(&r.Skipped.At), &r.Skipped.Missed, (*instant)(&r.LastSuccess),
	}
}

// LockDue returns those of these schedules that are still due, locked until the transaction ends, and the
// database's time. One that somebody else has locked or advanced is left out.
func (s *Store) LockDue(ctx context.Context, tx DB, due []Due) (locked []Schedule, now time.Time, err error) {
	var names, specs []string
	var next []time.Time
	for _, d := range due {
		names, specs, next = append(names, d.Name), append(specs, d.Spec), append(next, d.Next)
	}
	locked, err = collect(ctx, s, tx, "LockDue", func(row pgx.CollectableRow) (r Schedule, err error) {
		return r, row.Scan(append(r.columns(), &r.Data, &r.Progress, &r.Paused, (*instant)(&now))...)
	}, names, specs, next)
	return locked, now, err
}

// A Fold gives the waiting job of a tick a later one.
type Fold struct {
	JobID  int64
	Tick   time.Time
	Missed int
}

// FoldJobs returns the IDs of those that were folded: the others do not wait any more, or somebody has locked them.
func (s *Store) FoldJobs(ctx context.Context, tx DB, folds []Fold) ([]int64, error) {
	var ids []int64
	var ticks []string
	var missed []int
	for _, f := range folds {
		ids, ticks, missed = append(ids, f.JobID), append(ticks, FormatTick(f.Tick)), append(missed, f.Missed)
	}
	return collect(ctx, s, tx, "FoldJobs", pgx.RowTo[int64], ids, ticks, missed)
}

// FormatTick is how metadata has a tick.
func FormatTick(tick time.Time) string { return tick.UTC().Format(time.RFC3339Nano) }

// AdvanceSchedules writes locked rows as they are given. Those among insert get a new Last.JobID, which is
// returned by name.
func (s *Store) AdvanceSchedules(ctx context.Context, tx DB, rows []Schedule, insert map[string]bool) (map[string]int64, error) {
	encoded := make([]map[string]any, len(rows))
	for i, r := range rows {
		encoded[i] = map[string]any{
			"name": r.Name, "insert": insert[r.Name], "next_tick": orNull(r.Next), "last_success": orNull(r.LastSuccess),
			"last_tick": orNull(r.Last.At), "last_missed": r.Last.Missed, "last_job_id": r.Last.JobID, "last_state": r.Last.State,
			"prev_tick": orNull(r.Prev.At), "prev_missed": r.Prev.Missed, "prev_job_id": r.Prev.JobID, "prev_state": r.Prev.State,
			"skipped_tick": orNull(r.Skipped.At), "skipped_missed": r.Skipped.Missed,
		}
	}
	all, err := json.Marshal(encoded)
	if err != nil {
		return nil, err
	}
	result, err := tx.Query(ctx, s.sql("AdvanceSchedules"), string(all))
	if err != nil {
		return nil, err
	}
	ids := map[string]int64{}
	var name string
	var id zeronull.Int8
	_, err = pgx.ForEachRow(result, []any{&name, &id}, func() error {
		ids[name] = int64(id)
		return nil
	})
	return ids, err
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// A Standing is a schedule as callers ask for it.
type Standing struct {
	Schedule
	Spec string
	// LastDue is since when the last tick's job has been due, which may be an earlier tick; zero if it is not kept.
	LastDue time.Time
}

// Standings returns the schedules of these names.
func (s *Store) Standings(ctx context.Context, db DB, names []string) ([]Standing, error) {
	return collect(ctx, s, db, "Standings", func(row pgx.CollectableRow) (st Standing, err error) {
		return st, row.Scan(append(st.columns(), &st.Spec, &st.Progress, (*instant)(&st.LastDue))...)
	}, names)
}

// CopyOutcomes stores in the rows of these names what their jobs have come to.
func (s *Store) CopyOutcomes(ctx context.Context, db DB, names []string) error {
	_, err := s.exec(ctx, db, "CopyOutcomes", names)
	return err
}

// PutSuccesses stores that the runs of these ticks have succeeded, and returns the names of those it could store:
// somebody may have locked the others.
func (s *Store) PutSuccesses(ctx context.Context, db DB, ticks map[string]time.Time) ([]string, error) {
	var names []string
	var at []time.Time
	for name, tick := range ticks {
		names, at = append(names, name), append(at, tick)
	}
	return collect(ctx, s, db, "PutSuccesses", pgx.RowTo[string], names, at)
}

// LastTick returns the latest tick that has a job, as far as it is kept, or zero. It may take a while.
func (s *Store) LastTick(ctx context.Context, db DB, name string) (time.Time, error) {
	tick, err := one[*time.Time](ctx, s, db, "LastTick", name)
	if tick == nil {
		return time.Time{}, err
	}
	return tick.UTC(), err
}
