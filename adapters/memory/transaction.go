package memory

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var errCancelled = errors.New("memory: the job was cancelled before its transaction committed, so it was rolled back")

// runTx runs an attempt of a job with [jobs.Transactional].
func (s *Scheduler) runTx(ctx context.Context, r *row, job *jobs.Job) error {
	return r.queue.def.RunTx(ctx, job, s.logger, provider.Transaction{
		Begin: s.beginTx,
		Complete: func(ctx context.Context, tx pgx.Tx) error {
			s.mu.Lock()
			cancelled := !r.cancelled.IsZero()
			s.mu.Unlock()
			if cancelled {
				return errCancelled
			}
			return s.commit(context.WithoutCancel(ctx), r, job, tx)
		},
	})
}

var errCovered = errors.New("memory: another run of the schedule has succeeded meanwhile, so the transaction was " +
	"rolled back; it runs again from the tick of that run on")

// commit commits tx unless another run has covered a part of the job's window since the attempt
// began. Only one run of a schedule commits at a time.
func (s *Scheduler) commit(ctx context.Context, r *row, job *jobs.Job, tx pgx.Tx) error {
	q := r.queue
	if job.Tick.IsZero() {
		return tx.Commit(ctx)
	}
	q.committing.Lock()
	defer q.committing.Unlock()
	s.mu.Lock()
	r.covered = provider.Covered(job.PrevSuccess, job.Tick, q.lastSuccess)
	s.mu.Unlock()
	if r.covered {
		return errCovered
	}
	err := tx.Commit(ctx)
	if err == nil {
		s.mu.Lock()
		q.succeeded(r)
		s.mu.Unlock()
	}
	return err
}

// beginTx begins a transaction of [Config].DB in which [Scheduler.TriggerTx] can trigger. Without a DB it is a [Tx].
func (s *Scheduler) beginTx(ctx context.Context) (pgx.Tx, error) {
	if s.db == jobs.DB(errNoDB) {
		return &Tx{DB: s.db}, nil
	}
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := tx.(interface{ itself() *Tx }); ok {
		return tx, nil
	}
	return &dbTx{Tx: tx, jobs: new(Tx)}, nil
}

// A dbTx is a database's transaction, or a savepoint in it, together with the jobs triggered in it.
type dbTx struct {
	pgx.Tx
	jobs *Tx
}

func (tx *dbTx) itself() *Tx { return tx.jobs }

// Begin begins a nested transaction.
func (tx *dbTx) Begin(ctx context.Context) (pgx.Tx, error) {
	nested, err := tx.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := tx.jobs.nest()
	if err != nil {
		return nil, errors.Join(err, nested.Rollback(ctx))
	}
	return &dbTx{Tx: nested, jobs: inner}, nil
}

// Commit inserts the jobs if the database has committed.
func (tx *dbTx) Commit(ctx context.Context) error {
	err := tx.Tx.Commit(ctx)
	if ended := tx.jobs.end(err == nil); err == nil {
		return ended
	}
	return err
}

// Rollback discards the jobs.
func (tx *dbTx) Rollback(ctx context.Context) error {
	_ = tx.jobs.end(false) // the database says whether it has ended
	return tx.Tx.Rollback(ctx)
}

// unwrapTx returns the [Tx] that holds the jobs triggered in tx, or nil.
func unwrapTx(tx pgx.Tx) *Tx {
	for {
		switch t := tx.(type) {
		case interface{ itself() *Tx }:
			return t.itself()
		case interface{ Unwrap() pgx.Tx }:
			tx = t.Unwrap()
		default:
			return nil
		}
	}
}

// poolSize returns how many connections db allows if it is a pool.
func poolSize(db jobs.DB) (n int, ok bool) {
	pool, ok := db.(interface{ Config() *pgxpool.Config })
	if !ok {
		return 0, false
	}
	return int(pool.Config().MaxConns), true
}

// sizeTxSlots sets how many transactional jobs without [jobs.Concurrency] run at once. If the DB is a pool, at least two
// of its connections are left for everything else. It returns an error if the pool is too small.
func (s *Scheduler) sizeTxSlots() error {
	size, ok := poolSize(s.db)
	if !ok {
		return nil // they share the general slots
	}
	n, err := provider.TransactionalWorkers(s.registry.Jobs(), size, s.general.n)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.txSlots.free += n - s.txSlots.n
	s.txSlots.n = n
	return nil
}
