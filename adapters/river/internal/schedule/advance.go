package schedule

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// One transaction advances at most so many rows and so much data. A larger answer would block the server in its
// write to a frozen process, where no timeout reaches it.
const advanceRows, advanceBytes = 500, 256 << 10

// refusedEvery is how often the log repeats that a tick cannot be inserted.
const refusedEvery = time.Minute

// Once advances what is due, without [Ticker.Run].
func (t *Ticker) Once(ctx context.Context) error {
	due, err := t.due(ctx, time.Time{})
	if err == nil {
		err = t.advanceAll(ctx, due)
	}
	return err
}

// advanceAll advances schedules in as many transactions as it takes.
func (t *Ticker) advanceAll(ctx context.Context, due []store.Due) error {
	for len(due) > 0 {
		n := Fitting(due)
		err := t.advance(ctx, due[:n])
		if err != nil && !t.answers(ctx) {
			return err
		}
		if err != nil {
			t.advanceEach(ctx, due[:n]) // one schedule may be the cause; it must not stop the others
		}
		due = due[n:]
	}
	return nil
}

// Fitting returns how many of the first of due are advanced in one transaction: at least one.
func Fitting(due []store.Due) (n int) {
	for size := 0; n < len(due) && n < advanceRows; n++ {
		if size += due[n].Bytes; n > 0 && size > advanceBytes {
			break
		}
	}
	return n
}

// answers reports whether the database does, within a limit: a connection that the network has dropped may never
// return anything.
func (t *Ticker) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return t.cfg.Pool.Ping(ctx) == nil
}

func (t *Ticker) advanceEach(ctx context.Context, due []store.Due) {
	for i, d := range due {
		e := t.byName[d.Name]
		if err := t.advance(ctx, due[i:i+1]); err != nil && ctx.Err() == nil && time.Since(e.logged) > refusedEvery {
			e.logged = time.Now()
			t.cfg.Log.ErrorContext(ctx, "could not insert a tick that is due; retrying every few seconds",
				"job", d.Name, "tick", d.Next, "error", err)
		}
	}
}

// logStall logs that the code of a schedule fails, and that its tick waits.
func (t *Ticker) logStall(ctx context.Context, e *entry, tick time.Time, err error) {
	if time.Since(e.logged) > refusedEvery {
		e.logged = time.Now()
		t.cfg.Log.ErrorContext(ctx, "schedule has a bug; its ticks wait until a version without it is started",
			"job", e.Name, "tick", tick, "schedule", e.spec, "error", err)
	}
}

// A planned row is a locked row and what happens to it.
type planned struct {
	row store.Schedule
	provider.Advance
}

// advance advances schedules in one transaction.
func (t *Ticker) advance(ctx context.Context, due []store.Due) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var plans []planned
	var queues []string
	limits := store.Limits{Statement: stepTimeout, Idle: idleTimeout}
	err := t.cfg.Store.InTx(ctx, t.cfg.Pool, limits, func(tx pgx.Tx) error {
		locked, now, err := t.cfg.Store.LockDue(ctx, tx, due)
		if err != nil {
			return err
		}
		if plans, err = t.plan(ctx, tx, locked, now); err != nil || len(plans) == 0 {
			return err
		}
		var rows []store.Schedule
		inserts := map[string]bool{}
		for _, p := range plans {
			rows = append(rows, Step(p.row, p.Advance))
			inserts[p.row.Name] = p.Action == provider.Insert
		}
		ids, err := t.cfg.Store.AdvanceSchedules(ctx, tx, rows, inserts)
		if err != nil {
			return err
		}
		var ticks []*insert.Job
		for _, p := range plans {
			if p.Action == provider.Insert {
				j := t.jobOf(p, ids[p.row.Name])
				ticks, queues = append(ticks, j), append(queues, j.Queue)
			}
		}
		if len(ticks) == 0 {
			return nil
		}
		return t.cfg.Insert(ctx, tx, ticks...)
	})
	if err != nil {
		return err
	}
	for _, p := range plans {
		e := t.byName[p.row.Name]
		e.known = p.Next
		if p.Action == provider.Skip {
			t.cfg.Log.InfoContext(ctx, "tick skipped: the job is paused",
				"job", p.row.Name, "tick", p.Tick, "earlier_ticks", p.Missed, "next_tick", p.Next)
			e.Skipped(ctx, t.cfg.Log, jobs.Run{
				Tick: p.Tick, EndedAt: t.cfg.Clock.Estimate().UTC(), Error: provider.SkippedPaused,
			})
		}
	}
	t.cfg.Notify(ctx, queues)
	return nil
}

// plan decides what happens to locked rows, and folds ticks into jobs that wait. A job that turns out to have
// started gets a successor instead.
func (t *Ticker) plan(ctx context.Context, tx pgx.Tx, locked []store.Schedule, now time.Time) (plans []planned, err error) {
	decide := func(row store.Schedule) provider.Advance {
		e := t.byName[row.Name]
		return provider.Plan(e.Schedule, provider.Policy{CatchUp: e.CatchUp, Paused: row.Paused}, provider.Row{
			Next: row.Next, Last: row.Last.At, LastMissed: row.Last.Missed, LastJob: row.Progress,
		}, now)
	}
	var folds []store.Fold
	for _, row := range locked {
		a := decide(row)
		if a.Action == provider.Stall {
			t.logStall(ctx, t.byName[row.Name], row.Next, a.Err)
			continue
		}
		if a.Action == provider.None || a.Action == provider.Hold {
			continue
		}
		if a.Action == provider.Fold {
			folds = append(folds, store.Fold{JobID: row.Last.JobID, Tick: a.Tick, Missed: a.Missed})
		}
		plans = append(plans, planned{row, a})
	}
	if len(folds) == 0 {
		return plans, nil
	}
	folded, err := t.cfg.Store.FoldJobs(ctx, tx, folds)
	if err != nil {
		return nil, err
	}
	for i, p := range plans {
		if p.Action == provider.Fold && !slices.Contains(folded, p.row.Last.JobID) {
			p.row.Progress = provider.Going
			plans[i] = planned{p.row, decide(p.row)}
		}
	}
	return plans, nil
}

// Step returns the row after an advance.
func Step(row store.Schedule, a provider.Advance) store.Schedule {
	for _, tick := range []store.Tick{row.Last, row.Prev} {
		if tick.State == jobs.StateCompleted && tick.At.After(row.LastSuccess) {
			row.LastSuccess = tick.At
		}
	}
	row.Next = a.Next
	switch a.Action {
	case provider.Insert:
		row.Prev, row.Last = row.Last, store.Tick{At: a.Tick, Missed: a.Missed}
	case provider.Fold:
		row.Last.At, row.Last.Missed = a.Tick, a.Missed
	case provider.Skip:
		row.Skipped = store.Tick{At: a.Tick, Missed: a.Missed, State: jobs.StateSkipped}
	default:
	}
	return row
}

func (t *Ticker) jobOf(p planned, id int64) *insert.Job {
	e := t.byName[p.row.Name]
	meta := work.Meta{Tick: store.FormatTick(p.Tick), Missed: p.Missed}
	metadata, _ := json.Marshal(meta) // a string and a number cannot fail
	return &insert.Job{
		Kind: e.Name, Queue: t.cfg.QueueOf(e.Definition), Priority: e.Priority, MaxAttempts: e.MaxAttempts,
		Data: p.row.Data, Metadata: metadata, Due: p.Tick, Passed: true, ID: id,
	}
}
