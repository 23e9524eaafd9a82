package providertest_test

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/providertest"
)

// effectFaults are faults of transactional jobs.
var effectFaults = []struct {
	fault, rule string
	seed        func(f *faulty, cfg providertest.Config)
}{
	{"a transactional job has no Tx", "a Transactional job's effects exist once it has completed, and not before", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tx = nil })
	}},
	{"a transactional job's DB is not its Tx", "a Transactional job's effects exist once it has completed, and not before", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Tx != nil {
				job.DB = new(memory.Tx)
			}
		})
	}},
	{"effects are stored at once", "a Transactional job's effects exist once it has completed, and not before", ignoresTx},
	{"effects are lost", "a Transactional job's effects exist once it has completed, and not before", losesTx},
	{"a failed attempt commits", "a Transactional attempt that fails leaves no effects, and its retry sees none", func(f *faulty, _ providertest.Config) {
		f.handler = inOtherTx(commitsAlways)
	}},
	{"nil after the timeout commits", "a Transactional attempt that returns nil after its timeout fails and leaves no effects", func(f *faulty, _ providertest.Config) {
		f.handler = inOtherTx(commitsOnNil)
	}},
	{"nil after a hard stop commits", "a hard stop rolls a Transactional attempt back, even if it returns nil", func(f *faulty, _ providertest.Config) {
		f.handler = inOtherTx(commitsOnNil)
	}},
	{"nil after a cancellation commits", "a Cancel rolls a Transactional attempt back, even if it returns nil", func(f *faulty, _ providertest.Config) {
		f.handler = inOtherTx(commitsOnNil)
	}},
	{"a handler may commit", "a Transactional handler cannot end its transaction, and can begin nested ones", func(f *faulty, _ providertest.Config) {
		f.handler = inOtherTx(commitsOnNil)
	}},
	{"a nested transaction cannot roll back", "a Transactional handler cannot end its transaction, and can begin nested ones", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Tx != nil {
				flat := flatTx{job.Tx}
				job.DB, job.Tx = flat, flat
			}
		})
	}},
	{"every job has a transaction", "a job that is not Transactional has no transaction", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tx = new(memory.Tx) })
	}},
	{"middleware gets a transaction", "middleware runs outside the transaction and sees the outcome after the commit", func(f *faulty, _ providertest.Config) {
		f.own = func(opts []jobs.Option) []jobs.Option {
			return slices.Concat([]jobs.Option{jobs.Use(before(func(job *jobs.Job) { job.Tx = new(memory.Tx) }))}, opts)
		}
	}},
	{"the commit comes after the middleware", "middleware runs outside the transaction and sees the outcome after the commit", func(f *faulty, _ providertest.Config) {
		f.handler = inOtherTx(func(ctx context.Context, tx pgx.Tx, err error) {
			if err == nil {
				time.AfterFunc(time.Minute, func() { _ = tx.Commit(context.WithoutCancel(ctx)) })
			}
		})
	}},
	{"a handler is called again after its commit", "middleware cannot undo a commit, and its error then changes nothing", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				return errors.Join(h(ctx, job), h(ctx, job))
			}
		}
	}},
	{
		"the success of a transactional run is not recorded", "a schedule of Transactional runs goes on, and records its success",
		changingStatus(func(st *jobs.Status) { st.LastSuccess = time.Time{} }),
	},
}

// inOtherTx gives transactional handlers a transaction that is not the job's, and calls end after them.
func inOtherTx(end func(ctx context.Context, tx pgx.Tx, err error)) func(jobs.Handler) jobs.Handler {
	return func(h jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) (err error) {
			if job.Tx == nil {
				return h(ctx, job)
			}
			tx := new(memory.Tx)
			job.DB, job.Tx = tx, tx
			err = errors.New("the handler panicked")
			defer func() { end(ctx, tx, err) }()
			err = h(ctx, job)
			return err
		}
	}
}

func commitsAlways(ctx context.Context, tx pgx.Tx, _ error) {
	_ = tx.Commit(context.WithoutCancel(ctx))
}

func commitsOnNil(ctx context.Context, tx pgx.Tx, err error) {
	if err == nil {
		commitsAlways(ctx, tx, nil)
	}
}

// flatTx is a transaction whose nested transactions are the transaction itself.
type flatTx struct{ pgx.Tx }

func (tx flatTx) Unwrap() pgx.Tx                        { return tx.Tx }
func (tx flatTx) Begin(context.Context) (pgx.Tx, error) { return nestedFlatTx{tx}, nil }

type nestedFlatTx struct{ flatTx }

func (nestedFlatTx) Commit(context.Context) error   { return nil }
func (nestedFlatTx) Rollback(context.Context) error { return nil }
