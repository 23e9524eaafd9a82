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

// Limits bound a transaction that may wait for locks, or whose process may be cut off in the middle.
type Limits struct {
	Statement time.Duration // for one statement, including its wait for a lock
	Idle      time.Duration // how long the server waits for the next statement
}

// InTx calls f in a transaction with limits, whatever the settings of the role. It is read committed: once f has waited
// for a lock, it sees what the former holder committed.
func (s *Store) InTx(ctx context.Context, pool Beginner, l Limits, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := s.setLimits(ctx, tx, l); err != nil {
			return err
		}
		return f(tx)
	})
}

func (s *Store) setLimits(ctx context.Context, tx DB, l Limits) error {
	return s.exec(ctx, tx, "SetLimits", milliseconds(l.Statement), milliseconds(l.Idle))
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// LockRegistering makes processes register schedules one after the other. It returns the database's time once it
// has the lock; decisions in tx are made as of then.
func (s *Store) LockRegistering(ctx context.Context, tx DB) (now time.Time, err error) {
	if err := s.exec(ctx, tx, "LockRegistering", s.schema); err != nil {
		return now, err
	}
	at, err := one[instant](ctx, s, tx, "Now")
	return time.Time(at), err
}

// A Claim says which process a schedule's row belongs to.
type Claim struct {
	Name, Spec string
	By         string          // hash of all registrations of the process that set Spec
	At         time.Time       // start of that process
	Next       time.Time       // zero if no tick is left
	Data       json.RawMessage // of its ticks; only written
}

// LockSchedules returns the rows of these schedules and locks them until the transaction ends.
func (s *Store) LockSchedules(ctx context.Context, tx DB, names []string) ([]Claim, error) {
	return collect(ctx, s, tx, "LockSchedules", readClaim, names)
}

// ReadSchedules returns the rows of these schedules.
func (s *Store) ReadSchedules(ctx context.Context, db DB, names []string) ([]Claim, error) {
	return collect(ctx, s, db, "ReadSchedules", readClaim, names)
}

func readClaim(row pgx.CollectableRow) (c Claim, err error) {
	return c, row.Scan(&c.Name, &c.Spec, &c.By, (*instant)(&c.At), (*instant)(&c.Next))
}

// PutSchedules inserts rows, or updates the columns of a claim in rows that exist.
func (s *Store) PutSchedules(ctx context.Context, tx DB, claims []Claim) error {
	var names, specs, by, data []string
	var at []time.Time
	var next []*time.Time
	for _, c := range claims {
		names, specs, by, data = append(names, c.Name), append(specs, c.Spec), append(by, c.By), append(data, string(c.Data))
		at, next = append(at, c.At), append(next, orNull(c.Next))
	}
	return s.exec(ctx, tx, "PutSchedules", names, specs, by, at, next, data)
}

// Unregistered returns the overdue schedules that are not in names.
func (s *Store) Unregistered(ctx context.Context, db DB, names []string) ([]string, error) {
	return collect(ctx, s, db, "Unregistered", pgx.RowTo[string], names)
}

// A Due is a schedule whose next tick is due.
type Due struct {
	Name, Spec string
	Next       time.Time
	Bytes      int // of its data
}

// DueSchedules returns the due schedules whose next tick is after floor.
func (s *Store) DueSchedules(ctx context.Context, db DB, floor time.Time) ([]Due, error) {
	return collect(ctx, s, db, "DueSchedules", func(row pgx.CollectableRow) (d Due, err error) {
		return d, row.Scan(&d.Name, &d.Spec, (*instant)(&d.Next), &d.Bytes)
	}, floor)
}

// A Tick is a tick that was inserted or skipped, with its outcome.
type Tick struct {
	At     time.Time // zero if there is none
	Missed int       // how many earlier ticks it stands for
	JobID  int64     // ID of its run; 0 if it was skipped
	State  jobs.State
}

// A Schedule is a schedule's row, with the outcome of its runs.
type Schedule struct {
	Name        string
	Next        time.Time // zero if no tick is left
	Last, Prev  Tick      // the two latest ticks inserted
	Skipped     Tick      // the latest tick that a pause skipped
	LastSuccess time.Time
	Data        json.RawMessage
	Progress    provider.Progress // of the last tick's run
	Paused      bool
}

// columns returns where to scan the columns of the SQL piece "columns".
func (r *Schedule) columns() []any {
	return []any{
		&r.Name, (*instant)(&r.Next),
		(*instant)(&r.Last.At), &r.Last.Missed, (*zeronull.Int8)(&r.Last.JobID), &r.Last.State,
		(*instant)(&r.Prev.At), &r.Prev.Missed, (*zeronull.Int8)(&r.Prev.JobID), &r.Prev.State,
		(*instant)(&r.Skipped.At), &r.Skipped.Missed, (*instant)(&r.LastSuccess),
	}
}

// LockDue returns the given schedules that are still due, locked until the transaction ends, and the database's
// time. It leaves out those that another process has locked or advanced.
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

// A Fold gives the waiting run of a tick a later tick.
type Fold struct {
	JobID  int64
	Tick   time.Time
	Missed int
}

// FoldJobs returns the IDs of the runs that were folded. The others no longer wait, or another transaction has
// locked them.
func (s *Store) FoldJobs(ctx context.Context, tx DB, folds []Fold) ([]int64, error) {
	var ids []int64
	var ticks []string
	var missed []int
	for _, f := range folds {
		ids, ticks, missed = append(ids, f.JobID), append(ticks, FormatTick(f.Tick)), append(missed, f.Missed)
	}
	return collect(ctx, s, tx, "FoldJobs", pgx.RowTo[int64], ids, ticks, missed)
}

// FormatTick returns a tick as it is stored in a run's metadata.
func FormatTick(tick time.Time) string { return tick.UTC().Format(time.RFC3339Nano) }

// AdvanceSchedules writes locked rows. It draws a new Last.JobID for those in insert, and returns the Last.JobID of
// every row by name.
func (s *Store) AdvanceSchedules(
	ctx context.Context, tx DB, rows []Schedule, insert map[string]bool,
) (map[string]int64, error) {
	encoded := make([]map[string]any, len(rows))
	for i, r := range rows {
		encoded[i] = map[string]any{
			"name": r.Name, "insert": insert[r.Name],
			"next_tick": orNull(r.Next), "last_success": orNull(r.LastSuccess),
			"last_tick": orNull(r.Last.At), "last_missed": r.Last.Missed,
			"last_job_id": r.Last.JobID, "last_state": r.Last.State,
			"prev_tick": orNull(r.Prev.At), "prev_missed": r.Prev.Missed,
			"prev_job_id": r.Prev.JobID, "prev_state": r.Prev.State,
			"skipped_tick": orNull(r.Skipped.At), "skipped_missed": r.Skipped.Missed,
		}
	}
	all, err := json.Marshal(encoded)
	if err != nil {
		return nil, err
	}
	return collectByName(ctx, s, tx, "AdvanceSchedules", func(id *int64) []any {
		return []any{(*zeronull.Int8)(id)}
	}, string(all))
}

// A Standing is a schedule with what a status needs.
type Standing struct {
	Schedule
	Spec string
	// LastDue is since when the last tick's run has been due, which is an earlier tick if the run was folded. It is
	// zero if the run is no longer stored.
	LastDue time.Time
}

// Standings returns the schedules with these names.
func (s *Store) Standings(ctx context.Context, db DB, names []string) ([]Standing, error) {
	return collect(ctx, s, db, "Standings", func(row pgx.CollectableRow) (st Standing, err error) {
		return st, row.Scan(append(st.columns(), &st.Spec, &st.Progress, (*instant)(&st.LastDue))...)
	}, names)
}

// CopyOutcomes copies the outcomes of runs into the rows of these schedules.
func (s *Store) CopyOutcomes(ctx context.Context, db DB, names []string) error {
	return s.exec(ctx, db, "CopyOutcomes", names)
}

// PutSuccesses stores that the runs of these ticks succeeded. It returns the names of the schedules it updated;
// another transaction may have locked the others.
func (s *Store) PutSuccesses(ctx context.Context, db DB, ticks map[string]time.Time) ([]string, error) {
	var names []string
	var at []time.Time
	for name, tick := range ticks {
		names, at = append(names, name), append(at, tick)
	}
	return collect(ctx, s, db, "PutSuccesses", pgx.RowTo[string], names, at)
}

// LastSuccess returns the latest tick whose run has succeeded, or the zero time. A success that is not in the row yet
// is found for the two latest ticks.
func (s *Store) LastSuccess(ctx context.Context, db DB, name string) (time.Time, error) {
	tick, _, err := atMostOne(ctx, s, db, "LastSuccess", pgx.RowTo[instant], name) // the row may have been deleted
	return time.Time(tick), err
}

// LockSuccess returns the success in a schedule's row, and locks the row until the transaction ends. It returns the zero
// time if there is none, or no row.
func (s *Store) LockSuccess(ctx context.Context, tx DB, l Limits, name string) (time.Time, error) {
	if err := s.setLimits(ctx, tx, l); err != nil {
		return time.Time{}, err
	}
	tick, _, err := atMostOne(ctx, s, tx, "LockSuccess", pgx.RowTo[instant], name)
	return time.Time(tick), err
}

// PutSuccess stores the success of a run in a locked row.
func (s *Store) PutSuccess(ctx context.Context, tx DB, name string, tick time.Time) error {
	return s.exec(ctx, tx, "PutSuccess", name, tick)
}

// LastTick returns the latest tick with a stored run, or the zero time. It may take long on a large table.
func (s *Store) LastTick(ctx context.Context, db DB, name string) (time.Time, error) {
	tick, err := one[instant](ctx, s, db, "LastTick", name)
	return time.Time(tick), err
}
