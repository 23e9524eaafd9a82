package store

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

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
	var next *time.Time
	err = row.Scan(&c.Name, &c.Spec, &c.By, &c.At, &next)
	c.At, c.Next = c.At.UTC(), utc(next)
	return c, err
}

// PutSchedules writes rows, or what Claim has of those that are there.
func (s *Store) PutSchedules(ctx context.Context, tx DB, claims []Claim) error {
	var names, specs, by []string
	var at []time.Time
	var next []*time.Time
	for _, c := range claims {
		names, specs, by, at, next = append(names, c.Name), append(specs, c.Spec), append(by, c.By), append(at, c.At), append(next, orNull(c.Next))
	}
	_, err := s.exec(ctx, tx, "PutSchedules", names, specs, by, at, next)
	return err
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
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
		err = row.Scan(&d.Name, &d.Spec, &d.Next)
		d.Next = d.Next.UTC()
		return d, err
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

// LockDue returns those of these schedules that are still due, locked until the transaction ends, and the
// database's time. One that somebody else has locked or advanced is left out.
func (s *Store) LockDue(ctx context.Context, tx DB, due []Due) (locked []Schedule, now time.Time, err error) {
	var names, specs []string
	var next []time.Time
	for _, d := range due {
		names, specs, next = append(names, d.Name), append(specs, d.Spec), append(next, d.Next)
	}
	locked, err = collect(ctx, s, tx, "LockDue", func(row pgx.CollectableRow) (r Schedule, err error) {
		var nextTick, last, prev, skipped, success *time.Time
		var lastJob, prevJob *int64
		err = row.Scan(&r.Name, &nextTick, &last, &r.Last.Missed, &lastJob, &r.Last.State, &prev, &r.Prev.Missed, &prevJob, &r.Prev.State,
			&skipped, &r.Skipped.Missed, &success, &r.Data, &r.Progress, &r.Paused, &now)
		r.Next, r.Last.At, r.Prev.At, r.Skipped.At, r.LastSuccess = utc(nextTick), utc(last), utc(prev), utc(skipped), utc(success)
		if lastJob != nil {
			r.Last.JobID = *lastJob
		}
		if prevJob != nil {
			r.Prev.JobID = *prevJob
		}
		return r, err
	}, names, specs, next)
	return locked, now.UTC(), err
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
	n := len(rows)
	names, inserts := make([]string, n), make([]bool, n)
	var next, last, prev, skipped, success []*time.Time
	var lastMissed, prevMissed, skippedMissed []int
	var lastJob, prevJob []*int64
	var lastState, prevState []string
	for i, r := range rows {
		names[i], inserts[i] = r.Name, insert[r.Name]
		next, last, prev = append(next, orNull(r.Next)), append(last, orNull(r.Last.At)), append(prev, orNull(r.Prev.At))
		skipped, success = append(skipped, orNull(r.Skipped.At)), append(success, orNull(r.LastSuccess))
		lastMissed, prevMissed = append(lastMissed, r.Last.Missed), append(prevMissed, r.Prev.Missed)
		skippedMissed = append(skippedMissed, r.Skipped.Missed)
		lastJob, prevJob = append(lastJob, idOrNull(r.Last.JobID)), append(prevJob, idOrNull(r.Prev.JobID))
		lastState, prevState = append(lastState, string(r.Last.State)), append(prevState, string(r.Prev.State))
	}
	result, err := tx.Query(ctx, s.sql("AdvanceSchedules"), names, next, inserts, last, lastMissed, lastJob, lastState,
		prev, prevMissed, prevJob, prevState, skipped, skippedMissed, success)
	if err != nil {
		return nil, err
	}
	ids := map[string]int64{}
	var name string
	var id *int64
	_, err = pgx.ForEachRow(result, []any{&name, &id}, func() error {
		if id != nil {
			ids[name] = *id
		}
		return nil
	})
	return ids, err
}

func idOrNull(id int64) *int64 {
	if id == 0 {
		return nil
	}
	return &id
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
		var next, last, due, prev, skipped, success *time.Time
		err = row.Scan(&st.Name, &st.Spec, &next, &last, &st.Last.Missed, &st.Last.State, &st.Progress, &due,
			&prev, &st.Prev.Missed, &st.Prev.State, &skipped, &st.Skipped.Missed, &success)
		st.LastDue = utc(due)
		st.Next, st.Last.At, st.Prev.At, st.Skipped.At, st.LastSuccess = utc(next), utc(last), utc(prev), utc(skipped), utc(success)
		return st, err
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

// HasTick reports whether a tick has a job, as far as it is kept. It may take a while.
func (s *Store) HasTick(ctx context.Context, db DB, name string, tick time.Time) (bool, error) {
	return one[bool](ctx, s, db, "HasTick", name, tick, FormatTick(tick))
}
