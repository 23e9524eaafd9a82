package river

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// The keys of jobs.UniqueWaiting and jobs.Latest. See sql/key.sql in package store for why River's unique keys alone
// do not suffice.

const (
	// heldWithin is how soon a scheduled run is due that is made available before a caller's transaction locks it.
	// Most transactions are shorter.
	heldWithin = time.Minute
	// heldTimeout bounds that statement, which needs a connection beside the transaction's.
	heldTimeout = 250 * time.Millisecond
)

// insertKeyed inserts j, or finds or replaces the run that waits with its key, and sets the ID of j to that run's.
func (s *Scheduler) insertKeyed(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job) error {
	hash := j.UniqueKey
	if tx != nil {
		soon, err := s.triggerKeyed(ctx, tx, true, req, j, hash)
		if err != nil {
			return err
		}
		if soon { // workers may have passed over it by the time of the commit
			if err := s.wake.NotifyTx(ctx, tx, []string{j.Queue}); err != nil {
				return err
			}
		}
		return s.wake.InsertedTx(ctx, tx, j)
	}
	if req.UniqueMode == jobs.UniqueModeWaiting { // a run that waits now starts after this call began
		live, err := s.store.LiveByKey(ctx, s.pool, hash)
		if err != nil {
			return err
		}
		if latest := latestOf(live); provider.DecideKey(req.UniqueMode, latest.State) == provider.KeyReturn {
			j.ID = latest.ID
			return nil
		}
	}
	err := s.inserts.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := s.triggerKeyed(ctx, tx, false, req, j, hash)
		return err
	})
	if err == nil {
		s.wake.Inserted(ctx, []*insert.Job{j}, false)
	}
	return err
}

// triggerKeyed does the work of insertKeyed in a transaction, which must be at the isolation level read committed.
// open says that it is the caller's. soon says that the run was found and is due soon, but not yet.
func (s *Scheduler) triggerKeyed(
	ctx context.Context, tx pgx.Tx, open bool, req *jobs.Request, j *insert.Job, hash []byte,
) (soon bool, err error) {
	if err := s.store.LockKey(ctx, tx, hash); err != nil {
		return false, err
	}
	for {
		live, err := s.store.LiveByKey(ctx, tx, hash)
		if err != nil {
			return false, err
		}
		latest := latestOf(live)
		action := provider.DecideKey(req.UniqueMode, latest.State)
		var held store.Held
		if action != provider.KeyInsert {
			if open && latest.Scheduled {
				s.keepFromScheduler(ctx, latest.ID)
			}
			waits := false
			if held, waits, err = s.store.LockWaiting(ctx, tx, latest.ID); err != nil {
				return false, err
			}
			if !waits { // it has started or ended meanwhile
				continue
			}
		}
		if action == provider.KeyReturn {
			j.ID, j.Queue, j.Due = latest.ID, held.Queue, dueAfter(held.Now, held.Due)
			return j.Due.Before(held.Now.Add(heldWithin)) && !j.Immediate(), nil
		}
		if j.UniqueKey = store.SharedKey(hash); req.UniqueMode == jobs.UniqueModeLatest {
			if j.Metadata, err = s.metadata(req, othersThan(latest.ID, action, live)); err != nil {
				return false, err
			}
		}
		if err := s.inserts.Tx(ctx, tx, j); err != nil || action == provider.KeyInsert {
			return false, err
		}
		due := j.Due
		if due.IsZero() {
			due = held.Now
		}
		keepDue := provider.ReplacedDue(held.Started, held.Due, due).After(due)
		if err := s.store.Replace(ctx, tx, j.ID, latest.ID, keepDue); err != nil {
			return false, err
		}
		if j.ID, j.Queue = latest.ID, held.Queue; keepDue {
			j.Due = dueAfter(held.Now, held.Due)
		}
		return j.Due.Before(held.Now.Add(heldWithin)) && !j.Immediate(), nil
	}
}

// keepFromScheduler makes a run that is due soon available, before a caller's transaction locks it: River's scheduler
// waits for locked rows, and every run that it makes available would wait with it. If this fails, the lock is as good.
func (s *Scheduler) keepFromScheduler(ctx context.Context, id int64) {
	ctx, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	_ = s.store.MakeAvailable(ctx, s.ownPool(), id, heldWithin)
}

// latestOf returns the run that was inserted last, or the zero value.
func latestOf(live []store.Keyed) (latest store.Keyed) {
	for _, run := range live {
		if run.ID > latest.ID {
			latest = run
		}
	}
	return latest
}

// othersThan returns the IDs of the live runs, without the one that is replaced.
func othersThan(latest int64, action provider.KeyAction, live []store.Keyed) (ids []int64) {
	for _, run := range live {
		if action == provider.KeyInsert || run.ID != latest {
			ids = append(ids, run.ID)
		}
	}
	return ids
}

// dueAfter returns due if it is after now, and otherwise zero.
func dueAfter(now, due time.Time) time.Time {
	if due.After(now) {
		return due
	}
	return time.Time{}
}

// metadata returns the metadata of a row, or nil if it is empty.
func (s *Scheduler) metadata(req *jobs.Request, overtakes []int64) ([]byte, error) {
	if !s.cfg.TriggerOnly && len(req.Metadata) == 0 && len(overtakes) == 0 {
		return nil, nil
	}
	return json.Marshal(work.Meta{Open: s.cfg.TriggerOnly, Metadata: req.Metadata, Overtakes: overtakes})
}
