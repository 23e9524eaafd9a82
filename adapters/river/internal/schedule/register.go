package schedule

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs/provider"
)

// A View is how a process sees the row of one of its schedules.
type View struct {
	Spec     string    // of the process's own registration
	By       string    // hash of all its registrations
	At       time.Time // its start
	Starting bool
	// Live has the registrations of all live processes.
	Live map[string]bool
}

// Decide returns what the row of a schedule should be, and whether it has to be written. row is nil if there is
// none; next returns the first tick of a new row.
//
// Of processes with different schedules, the one that started last wins. The others leave the row alone as long as
// a process with its registrations is alive. A claim always carries the claimer's own start, so a newer process
// that was only cut off sees an older claim when it returns, and claims the row again.
func (v View) Decide(row *store.Claim, next func() time.Time) (claim store.Claim, write bool) {
	switch {
	case row == nil:
		return store.Claim{Spec: v.Spec, By: v.By, At: v.At, Next: next()}, true
	case row.Spec == v.Spec:
		// The next tick stays: one in the past is an outage to catch up on.
		newer := row.At.Before(v.At) && (v.Starting || row.By != v.By)
		if newer || row.By != v.By && !v.Live[row.By] {
			return store.Claim{Spec: v.Spec, By: v.By, At: v.At, Next: row.Next}, true
		}
		return *row, false
	case v.Starting, row.At.Before(v.At), !v.Live[row.By]:
		// There is no catch-up for the time before.
		return store.Claim{Spec: v.Spec, By: v.By, At: v.At, Next: next()}, true
	default:
		return *row, false
	}
}

// Register writes the rows of this process's schedules when it starts.
func (t *Ticker) Register(ctx context.Context) error {
	if len(t.entries) == 0 {
		return nil
	}
	if err := t.register(ctx, true); err != nil {
		return fmt.Errorf("registering schedules: %w", err)
	}
	names, err := t.cfg.Store.Unregistered(ctx, t.cfg.Pool, t.names)
	if err != nil {
		return fmt.Errorf("looking for schedules that nobody registers: %w", err)
	}
	for _, name := range names {
		t.cfg.Log.WarnContext(ctx, "schedule is overdue and not registered here; it runs only if another service registers it", "job", name)
	}
	return nil
}

// register brings the rows in line with the registrations. Unless the process is starting, it takes the lock only
// if there is something to write.
func (t *Ticker) register(ctx context.Context, starting bool) error {
	ctx, cancel := context.WithTimeout(ctx, fullEvery)
	defer cancel()
	if !starting {
		rows, err := t.cfg.Store.ReadSchedules(ctx, t.cfg.Pool, t.names)
		if err != nil {
			return err
		}
		claims, err := t.claims(ctx, t.cfg.Pool, rows, t.cfg.Clock.Estimate(), false)
		if err != nil || len(claims) == 0 {
			return err
		}
	}
	limits := store.Limits{Statement: fullEvery, Idle: idleTimeout}
	return t.cfg.Store.InTx(ctx, t.cfg.Pool, limits, func(tx pgx.Tx) error {
		now, err := t.cfg.Store.LockRegistering(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := t.cfg.Store.LockSchedules(ctx, tx, t.names)
		if err != nil {
			return err
		}
		claims, err := t.claims(ctx, tx, rows, now, starting)
		if err != nil || len(claims) == 0 {
			return err
		}
		t.full.Store(true) // a new row may be due before the floor
		return t.cfg.Store.PutSchedules(ctx, tx, claims)
	})
}

// claims returns the rows to write.
func (t *Ticker) claims(ctx context.Context, db store.DB, rows []store.Claim, now time.Time, starting bool) (claims []store.Claim, err error) {
	live, err := t.live(ctx, db, rows)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*store.Claim, len(rows))
	for i := range rows {
		byName[rows[i].Name] = &rows[i]
	}
	for _, e := range t.entries {
		row, after := byName[e.Name], now
		if row == nil && !e.known.IsZero() {
			// The row was deleted. Ticks may have been inserted, and more may have passed, since it was last read.
			last, err := t.cfg.Store.LastTick(ctx, db, e.Name)
			if err != nil {
				return nil, err
			}
			after = last
		}
		var stalled error
		next := func() (next time.Time) {
			if row == nil && after.Before(e.known) {
				return e.known
			}
			next, stalled = provider.CheckedNext(e.Schedule, after)
			return next
		}
		v := View{Spec: e.spec, By: t.cfg.Hash, At: t.cfg.Started, Starting: starting, Live: live}
		claim, write := v.Decide(row, next)
		claim.Name = e.Name
		if stalled != nil {
			t.logStall(ctx, e, time.Time{}, stalled)
			continue // the row stays as it is, and is claimed once the schedule works
		}
		if write {
			claim.Data = e.Data
			claims = append(claims, claim)
		}
		if claim.Spec == e.spec {
			e.known = claim.Next
		}
	}
	return claims, nil
}

// live returns the registrations of live processes, including one that has just started and whose heartbeat this
// process may not have seen yet.
func (t *Ticker) live(ctx context.Context, db store.DB, rows []store.Claim) (map[string]bool, error) {
	_, live := t.cfg.Live()
	if !slices.ContainsFunc(rows, func(row store.Claim) bool { return row.By != t.cfg.Hash && !live[row.By] }) {
		return live, nil
	}
	recent, err := t.cfg.Store.RecentRegistrations(ctx, db, process.MinDeadAfter)
	for _, registrations := range recent {
		live[registrations] = true
	}
	return live, err
}
