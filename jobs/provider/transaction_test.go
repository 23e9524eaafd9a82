package provider_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// fakeTx records how it ends.
type fakeTx struct {
	pgx.Tx
	executed []string
	end      string
}

func (tx *fakeTx) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	tx.executed = append(tx.executed, sql)
	return pgconn.CommandTag{}, nil
}

func (tx *fakeTx) Conn() *pgx.Conn { return nil }

func (tx *fakeTx) Commit(context.Context) error { return tx.ends("committed") }

func (tx *fakeTx) Rollback(context.Context) error { return tx.ends("rolled back") }

func (tx *fakeTx) ends(how string) error {
	if tx.end != "" {
		return pgx.ErrTxClosed
	}
	tx.end = how
	return nil
}

// transaction returns a Transaction that begins the transactions of txs.
func transaction(txs *[]*fakeTx) provider.Transaction {
	return provider.Transaction{
		Begin: func(context.Context) (pgx.Tx, error) {
			tx := &fakeTx{}
			*txs = append(*txs, tx)
			return tx, nil
		},
		Complete: func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
	}
}

func TestDefinition_RunTx(t *testing.T) {
	t.Parallel()
	failed := errors.New("some failure")
	refused := func(tr *provider.Transaction) {
		tr.Complete = func(context.Context, pgx.Tx) error { return errors.New("refused by the database") }
	}
	for _, test := range []struct {
		rule    string
		handler jobs.Handler
		change  func(*provider.Transaction)
		use     jobs.Middleware
		ends    []string // of each transaction
		says    string   // the error; "" if there is none
	}{
		{rule: "success commits", handler: nothing, ends: []string{"committed"}},
		{
			rule: "DB and Tx are the transaction", handler: func(ctx context.Context, job *jobs.Job) error {
				if _, err := job.DB.Exec(ctx, "one"); err != nil {
					return err
				}
				if _, err := job.Tx.Exec(ctx, "two"); err != nil || job.DB != jobs.DB(job.Tx) {
					return errors.New("not the transaction")
				}
				return nil
			}, ends: []string{"committed"},
		},
		{rule: "an error rolls back", handler: func(context.Context, *jobs.Job) error { return failed }, ends: []string{"rolled back"}, says: "some failure"},
		{rule: "a panic rolls back", handler: func(context.Context, *jobs.Job) error { panic("help") }, ends: []string{"rolled back"}, says: "panic: help"},
		{
			rule: "Goexit rolls back", handler: func(context.Context, *jobs.Job) error {
				runtime.Goexit()
				return nil
			}, ends: []string{"rolled back"}, says: "Goexit",
		},
		{
			rule: "nil after the timeout rolls back", handler: func(ctx context.Context, _ *jobs.Job) error {
				<-ctx.Done()
				return nil
			}, ends: []string{"rolled back"}, says: `"a.b" timed out after 5m0s: context deadline exceeded; the transaction was rolled back`,
		},
		{
			rule: "Commit is refused", handler: func(ctx context.Context, job *jobs.Job) error { return job.Tx.Commit(ctx) },
			ends: []string{"rolled back"}, says: "the handler must not end it",
		},
		{
			rule: "Rollback is refused and changes nothing", handler: func(ctx context.Context, job *jobs.Job) error {
				if job.Tx.Rollback(ctx) == nil {
					return failed
				}
				return nil
			}, ends: []string{"committed"},
		},
		{rule: "a refused commit fails the attempt", handler: nothing, change: refused, ends: []string{"rolled back"}, says: "refused by the database"},
		{
			rule: "a failed begin fails the attempt", handler: nothing,
			change: func(tr *provider.Transaction) {
				tr.Begin = func(context.Context) (pgx.Tx, error) { return nil, failed }
			}, says: "the transaction did not begin: some failure",
		},
		{
			rule: "middleware sees a refused commit", handler: nothing, change: refused, use: func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error {
					if next(ctx, job) == nil || job.Tx != nil || job.DB != nil {
						return errors.New("middleware has the transaction")
					}
					return nil
				}
			}, ends: []string{"rolled back"},
		},
		{
			rule: "an error of middleware after the commit changes nothing", handler: nothing, use: func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error { return errors.Join(next(ctx, job), failed) }
			}, ends: []string{"committed"},
		},
		{
			rule: "middleware may try again after a failure", handler: func() jobs.Handler {
				calls := 0
				return func(context.Context, *jobs.Job) error {
					if calls++; calls == 1 {
						return failed
					}
					return nil
				}
			}(), use: func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error {
					_ = next(ctx, job)
					return next(ctx, job)
				}
			}, ends: []string{"rolled back", "committed"},
		},
		{
			rule: "middleware cannot commit twice", handler: nothing, use: func(next jobs.Handler) jobs.Handler {
				return func(ctx context.Context, job *jobs.Job) error {
					_ = next(ctx, job)
					return next(ctx, job)
				}
			}, ends: []string{"committed"},
		},
		{
			rule: "middleware must derive its context", handler: nothing, use: func(next jobs.Handler) jobs.Handler {
				return func(_ context.Context, job *jobs.Job) error { return next(context.Background(), job) }
			}, says: "no transaction in the handler's context",
		},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				opts := []jobs.Option{jobs.Transactional()}
				if test.use != nil {
					opts = append(opts, jobs.Use(test.use))
				}
				d := define(t, nil, test.handler, opts...)
				var txs []*fakeTx
				tr := transaction(&txs)
				if test.change != nil {
					test.change(&tr)
				}
				err := d.RunTx(t.Context(), &jobs.Job{ID: "7", Name: "a.b", Attempt: 1, MaxAttempts: 3}, quiet, tr)
				if test.says == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, test.says)
				}
				var ends []string
				for _, tx := range txs {
					ends = append(ends, tx.end)
				}
				require.Equal(t, test.ends, ends)
			})
		})
	}
}

func TestDefinition_RunTxLogsAnErrorOfMiddlewareAfterTheCommit(t *testing.T) {
	t.Parallel()
	d := define(t, nil, nothing, jobs.Transactional(), jobs.Use(func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			return errors.Join(next(ctx, job), errors.New("too late"))
		}
	}))
	var log strings.Builder
	var txs []*fakeTx
	base := slog.New(slog.NewTextHandler(&log, nil))
	require.NoError(t, d.RunTx(t.Context(), &jobs.Job{ID: "7", Name: "a.b"}, base, transaction(&txs)))
	require.Contains(t, log.String(), `level=WARN msg="job completed and its transaction committed`)
	require.Contains(t, log.String(), `job=a.b job_id=7 attempt=0 error="too late"`)
}

func TestDefinition_RunRefusesATransactionalJob(t *testing.T) {
	t.Parallel()
	err := attempt(t, define(t, nil, nothing, jobs.Transactional()))
	require.ErrorContains(t, err, "the provider does not support Transactional")
}

func TestTransactionalWorkers(t *testing.T) {
	t.Parallel()
	shared, own := []jobs.Option{jobs.Transactional()}, []jobs.Option{jobs.Transactional(), jobs.Concurrency(3)}
	for _, test := range []struct {
		rule          string
		jobs          [][]jobs.Option
		pool, workers int
		want          int
		says          string
	}{
		{rule: "none", jobs: [][]jobs.Option{nil, {jobs.Concurrency(50)}}, pool: 2, workers: 10},
		{rule: "all but two connections", jobs: [][]jobs.Option{shared, shared}, pool: 10, workers: 100, want: 8},
		{rule: "no more than workers", jobs: [][]jobs.Option{shared}, pool: 10, workers: 5, want: 5},
		{rule: "the smallest pool", jobs: [][]jobs.Option{shared}, pool: 3, workers: 100, want: 1},
		{rule: "a pool that is too small", jobs: [][]jobs.Option{shared}, pool: 2, workers: 100, says: "(job.0) need a pool of at least 3 connections, and it allows 2"},
		{rule: "Concurrency counts", jobs: [][]jobs.Option{own, shared}, pool: 10, workers: 100, want: 5},
		{rule: "Concurrency alone", jobs: [][]jobs.Option{own, {jobs.Concurrency(50)}}, pool: 5, workers: 100},
		{rule: "too much Concurrency", jobs: [][]jobs.Option{own, own}, pool: 7, workers: 100, says: "at least 8 connections"},
		{rule: "too much Concurrency beside others", jobs: [][]jobs.Option{own, shared}, pool: 5, workers: 100, says: "at least 6 connections"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			for i, opts := range test.jobs {
				require.NoError(t, r.RegisterDelayed("job."+string(rune('0'+i)), 0, nothing, opts...))
			}
			n, err := provider.TransactionalWorkers(r.Jobs(), test.pool, test.workers)
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, n)
		})
	}
}

func TestTransactionalWorkers_NamesTenJobsAtMost(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, jobs.Transactional())
	for i := range 12 {
		require.NoError(t, r.RegisterDelayed("job.n"+string(rune('a'+i)), time.Second, nothing))
	}
	_, err := provider.TransactionalWorkers(r.Jobs(), 2, 100)
	require.ErrorContains(t, err, "job.na, job.nb, job.nc, job.nd, job.ne, job.nf, job.ng, job.nh, job.ni, job.nj, …) need")
}
