package river

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Trigger implements [jobs.Triggerer]. Unless the job is unique, it waits at most 10 seconds for the database or for a
// connection of the pool. If it is unknown whether the job was stored, the error says so; the job is not inserted
// again.
func (s *Scheduler) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	return s.trigger(ctx, nil, name, data, opts)
}

// TriggerTx implements [jobs.TxTriggerer]. The job can run once tx has committed.
func (s *Scheduler) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	if tx == nil {
		return "", fmt.Errorf("river: trigger %q: the transaction is nil; use Trigger without one", name)
	}
	return s.trigger(ctx, tx, name, data, opts)
}

// trigger inserts one job, in tx unless that is nil.
func (s *Scheduler) trigger(ctx context.Context, tx pgx.Tx, name string, data any, opts []jobs.TriggerOption) (string, error) {
	d, err := s.definition(name)
	if err != nil {
		return "", err
	}
	req, err := d.Request(data, opts...)
	if err != nil {
		return "", err
	}
	err = d.Enqueue(ctx, []*jobs.Request{req}, func(ctx context.Context, _ []*jobs.Request) error {
		toInsert, err := s.toInsert(ctx, tx, d, req)
		if err == nil {
			err = s.insert(ctx, tx, req, toInsert[0])
		}
		if err != nil {
			return fmt.Errorf("river: trigger %q: %w", name, s.unmigrated(err))
		}
		req.ID = formatID(toInsert[0].ID)
		return nil
	})
	if err != nil {
		return "", err
	}
	return req.ID, nil
}

// insert inserts one job, in tx unless that is nil, or finds the run that has its key.
func (s *Scheduler) insert(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job) error {
	switch {
	case req.Unique != "" || req.IdempotencyKey != "":
		return s.keys.Insert(ctx, tx, req, j)
	case tx == nil:
		return s.inserts.One(ctx, j)
	}
	if err := s.inserts.Tx(ctx, tx, j); err != nil {
		return err
	}
	return s.wake.InsertedTx(ctx, tx, j)
}

// TriggerMany implements [jobs.Triggerer]. The jobs are inserted in one transaction.
func (s *Scheduler) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	reqs, err := s.triggerMany(ctx, nil, name, data, opts, s.inserts.Many)
	return runIDs(reqs), err
}

// TriggerManyTx implements [jobs.TxTriggerer]. The jobs are inserted in a savepoint of tx, so that tx can go on after
// an error, without the jobs. They can run once tx has committed.
func (s *Scheduler) TriggerManyTx(
	ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption,
) ([]string, error) {
	if tx == nil {
		return nil, fmt.Errorf("river: trigger %d of %q: the transaction is nil; use TriggerMany without one", len(data), name)
	}
	reqs, err := s.triggerMany(ctx, tx, name, data, opts, func(ctx context.Context, all []*insert.Job) error {
		if err := s.inserts.ManyTx(ctx, tx, all); err != nil {
			return err
		}
		return s.wake.InsertedTx(ctx, tx, all...)
	})
	return runIDs(reqs), err
}

func runIDs(reqs []*jobs.Request) []string {
	var ids []string
	for _, req := range reqs {
		ids = append(ids, req.ID)
	}
	return ids
}

// TriggerBulk implements [jobs.BulkTriggerer]. The jobs are inserted in one transaction by COPY.
func (s *Scheduler) TriggerBulk(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error) {
	reqs, err := s.triggerMany(ctx, nil, name, data, opts, s.inserts.Bulk)
	return len(reqs), err
}

// triggerMany inserts all or none with insertAll, and returns the requests, or none after an error. tx is nil unless
// insertAll inserts in it.
func (s *Scheduler) triggerMany(
	ctx context.Context, tx pgx.Tx, name string, data []any, opts []jobs.TriggerOption,
	insertAll func(context.Context, []*insert.Job) error,
) ([]*jobs.Request, error) {
	d, err := s.definition(name)
	if err != nil {
		return nil, err
	}
	reqs, err := d.Requests(data, opts...)
	if err != nil || len(reqs) == 0 {
		return nil, err
	}
	err = d.Enqueue(ctx, reqs, func(ctx context.Context, reqs []*jobs.Request) error {
		toInsert, err := s.toInsert(ctx, tx, d, reqs...)
		if err == nil {
			err = insertAll(ctx, toInsert)
		}
		if err != nil {
			return fmt.Errorf("river: trigger %d of %q: %w", len(reqs), name, s.unmigrated(err))
		}
		for i, j := range toInsert {
			reqs[i].ID = formatID(j.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reqs, nil
}

// toInsert converts requests for a job to rows. It reads the time once, in tx unless that is nil, so those with the
// same delay are due together.
func (s *Scheduler) toInsert(
	ctx context.Context, tx pgx.Tx, d *provider.Definition, reqs ...*jobs.Request,
) (all []*insert.Job, err error) {
	var now time.Time
	queue := s.queues.Of(d)
	all = make([]*insert.Job, len(reqs))
	for i, req := range reqs {
		j := &insert.Job{Kind: d.Name, Queue: queue, Priority: req.Priority, MaxAttempts: d.MaxAttempts, Data: req.Data}
		if all[i] = j; req.Delay > 0 || !req.At.IsZero() {
			if now.IsZero() {
				if now, err = s.clock.Now(ctx, tx); err != nil {
					return nil, err
				}
			}
			// For a job that is due now, the database sets the time.
			if due := provider.Due(req, now); due.After(now) {
				j.Due = due
			}
		}
		if i > 0 && maps.Equal(req.Metadata, reqs[i-1].Metadata) {
			j.Metadata = all[i-1].Metadata
		} else if j.Metadata, err = s.metadata(req, nil); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// metadata returns the metadata of a row, or nil if it is empty.
func (s *Scheduler) metadata(req *jobs.Request, overtakes []int64) ([]byte, error) {
	meta := work.Meta{Open: s.cfg.TriggerOnly, Metadata: req.Metadata, Overtakes: overtakes, Fingerprint: req.Fingerprint}
	if !meta.Open && len(meta.Metadata) == 0 && len(overtakes) == 0 && meta.Fingerprint == "" {
		return nil, nil
	}
	return json.Marshal(meta)
}

func formatID(id int64) string { return strconv.FormatInt(id, 10) }
