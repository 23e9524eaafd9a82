package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/jobs"
)

// A Transaction is what a provider does for an attempt of a job with [jobs.Transactional]. Both functions are required.
// [Definition.RunTx] calls them in the handler's goroutine, usually once each.
type Transaction struct {
	// Begin begins a transaction. ctx is the handler's.
	Begin func(ctx context.Context) (pgx.Tx, error)
	// Complete commits tx together with the completion of the job, or returns an error after which neither will ever
	// happen. ctx is the handler's and has not ended. A tx that Complete leaves open is rolled back.
	Complete func(ctx context.Context, tx pgx.Tx) error
}

// transaction is a Transaction during an attempt.
type transaction struct {
	Transaction
	completed atomic.Bool
}

type transactionKey struct{}

// RunTx is [Definition.Run] for a job with [jobs.Transactional]. The transaction is around the handler and inside all
// middleware. RunTx returns nil if Complete has returned nil, even if middleware then returned an error, which it logs.
func (d *Definition) RunTx(ctx context.Context, job *jobs.Job, base *slog.Logger, t Transaction) error {
	running := &transaction{Transaction: t}
	err := d.Run(context.WithValue(ctx, transactionKey{}, running), job, base)
	if err != nil && running.completed.Load() {
		job.Logger.WarnContext(ctx, "job completed and its transaction committed, but middleware returned an error, which changes nothing",
			"error", err)
		return nil
	}
	return err
}

// rollbackTimeout bounds a rollback.
const rollbackTimeout = 5 * time.Second

// inTx wraps a handler in the transaction given to [Definition.RunTx].
func (d *Definition) inTx(h jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		t, _ := ctx.Value(transactionKey{}).(*transaction)
		switch {
		case t == nil:
			return errors.New("jobs: no transaction in the handler's context: the provider does not support Transactional, " +
				"or middleware has replaced the context with one that is not derived from it")
		case t.completed.Load():
			return errors.New("jobs: middleware called its handler again after the transaction had committed")
		}
		tx, err := t.Begin(ctx)
		if err != nil {
			return fmt.Errorf("jobs: the transaction did not begin: %w", err)
		}
		held := &heldTx{Tx: tx}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
			defer cancel()
			_ = tx.Rollback(ctx) // usually it has ended; a connection that fails here is closed
		}()
		own := *job
		own.DB, own.Tx = held, held
		if err := h(ctx, &own); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; the transaction was rolled back", context.Cause(ctx))
		}
		if err := held.check(); err != nil {
			return err
		}
		if err := t.Complete(ctx, tx); err != nil {
			return err
		}
		t.completed.Store(true)
		return nil
	}
}

var (
	errHeld = errors.New("jobs: the transaction of a Transactional job commits when its handler returns nil, and rolls back when " +
		"it returns an error; the handler must not end it")
	errEnded = errors.New("jobs: the handler has ended the transaction of its Transactional job with a COMMIT or ROLLBACK " +
		"statement; what was committed stays, and the job is not completed")
	errOpenRows = errors.New("jobs: the handler returned nil while rows of a query were open, so its transaction was rolled back: " +
		"close the rows")
	errAborted = errors.New("jobs: the handler returned nil although a statement had failed, so its transaction was rolled back")
)

// A heldTx is a transaction that its user must not end.
type heldTx struct{ pgx.Tx }

// Commit returns an error.
func (t *heldTx) Commit(context.Context) error { return errHeld }

// Rollback returns an error.
func (t *heldTx) Rollback(context.Context) error { return errHeld }

// Exec implements [pgx.Tx]. A statement that ends the transaction is an error, after the fact.
func (t *heldTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := t.Tx.Exec(ctx, sql, args...)
	if err == nil && t.status() == statusIdle {
		err = errEnded
	}
	return tag, err
}

// Unwrap returns the transaction, for providers that recognize their own.
func (t *heldTx) Unwrap() pgx.Tx { return t.Tx }

// The states in which the server reports a connection to be. See the message ReadyForQuery of PostgreSQL's protocol.
const (
	statusIdle    = 'I'
	statusAborted = 'E'
	statusUnknown = 0
)

// status returns the state of the transaction's connection.
func (t *heldTx) status() byte {
	conn := t.Conn()
	if conn == nil || conn.IsClosed() {
		return statusUnknown
	}
	return conn.PgConn().TxStatus()
}

// check returns an error if the transaction cannot be committed.
func (t *heldTx) check() error {
	switch t.status() {
	case statusIdle:
		return errEnded
	case statusAborted:
		return errAborted
	case statusUnknown:
		return nil
	}
	if t.Conn().PgConn().IsBusy() {
		return errOpenRows
	}
	return nil
}

// TransactionalWorkers returns how many of the jobs with [jobs.Transactional] that have no [jobs.Concurrency] may run at
// once, so that at least two of the pool's connections are left for everything else. The result is at most workers, and
// 0 if there are no such jobs. It returns an error if the pool is too small for all transactional jobs.
func TransactionalWorkers(all []*Definition, pool, workers int) (int, error) {
	var names []string
	reserved, shared := 0, 0
	for _, d := range all {
		if !d.Transactional {
			continue
		}
		names = append(names, d.Name)
		if reserved += d.Concurrency; d.Concurrency == 0 {
			shared = 1
		}
	}
	free := pool - 2 - reserved
	if len(names) > 0 && free < shared {
		if len(names) > maxSiblings {
			names = append(names[:maxSiblings], "…")
		}
		return 0, fmt.Errorf("transactional jobs (%s) need a pool of at least %d connections, and it allows %d: 2 for everything else, "+
			"1 for each slot of their Concurrency, and 1 if some have none; set pool_max_conns",
			strings.Join(names, ", "), reserved+shared+2, pool)
	}
	return min(workers, free) * shared, nil
}
