package work

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs/provider"
)

const (
	// commitTimeout bounds the end of a transaction: the lock of the job's row, its completion and the COMMIT. The
	// server ends a transaction that idles there for commitIdle, because other processes need the row.
	commitTimeout = time.Minute
	commitIdle    = 10 * time.Second
	// idleMargin is how much longer than the job's timeout the server keeps the transaction of a handler that sends
	// nothing, so that a frozen process does not keep its locks.
	idleMargin = 10 * time.Second
	// slowConnect is how long a job waits for a connection without a message in the log.
	slowConnect = time.Second
)

// connect takes the connection of a transactional job, before the attempt counts as started: what waits here has neither
// its timeout running nor used up an attempt. The worker slots leave connections free, so it waits only for others.
func (a *attempt) connect(ctx context.Context) error {
	if !a.job.Transactional {
		return nil
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	conn, err := a.env.App.Acquire(bounded)
	switch {
	case err == nil:
	case ctx.Err() != nil && a.stopping():
		return interrupted(ctx, err)
	default:
		return a.postpone(ctx, "its transaction got no connection of the pool", err)
	}
	a.conn = conn
	waited := time.Since(began)
	a.run.StartedAt = a.run.StartedAt.Add(waited)
	if waited > slowConnect {
		a.log().WarnContext(ctx, "job waited for a connection of the pool", "waited", waited)
	}
	return nil
}

// disconnect gives the connection back.
func (a *attempt) disconnect() {
	if a.conn != nil {
		a.conn.Release()
		a.conn = nil
	}
}

// runTx runs the handler in a transaction. ctx is River's.
func (a *attempt) runTx(ctx context.Context) error {
	return a.job.RunTx(ctx, a.run, a.env.Log, provider.Transaction{
		Begin: func(handlerCtx context.Context) (pgx.Tx, error) {
			tx, err := a.begin(handlerCtx)
			if a.ending = notYet; err != nil && handlerCtx.Err() == nil {
				a.ending = notBegun
				a.env.Refused(err)
			}
			return tx, err
		},
		Complete: func(_ context.Context, tx pgx.Tx) error {
			err := a.complete(ctx, tx)
			if err != nil {
				a.env.Refused(err)
			}
			return err
		},
	})
}

func (a *attempt) begin(ctx context.Context) (pgx.Tx, error) {
	if a.conn == nil { // middleware calls the handler again after settle
		conn, err := a.env.App.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		a.conn = conn
	}
	tx, err := a.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, err
	}
	if err := a.env.Store.LimitIdle(ctx, tx, min(a.job.Timeout, maxIdle)+idleMargin); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	return tx, nil
}

// maxIdle is below PostgreSQL's limit for a timeout, which is 2^31 milliseconds.
const maxIdle = 24 * 24 * time.Hour

// An ending is what became of the transaction of an attempt. Once the handler has returned nil, the job's row says so.
type ending int

const (
	notYet    ending = iota // it may commit, or did not commit
	committed               // it has committed
	cancelled               // it must not commit, because the run was cancelled
	lost                    // it must not commit, because it belongs to another process or has no row
	unknown                 // the database has not answered
	covered                 // it must not commit: another run has covered a part of its window meanwhile
	notBegun                // it could not begin, so the handler was not called
)

// endingOf returns what a locked row says about an attempt.
func endingOf(row store.AttemptRow) ending {
	switch {
	case row.Own && row.State == rivertype.JobStateCompleted:
		return committed
	case !row.Own || row.State != rivertype.JobStateRunning:
		return lost
	case row.Cancelled:
		return cancelled
	default:
		return notYet
	}
}

var (
	errCancelled = errors.New("river: the job was cancelled before its transaction committed, so it was rolled back")
	errLost      = errors.New("river: the attempt no longer belongs to this process, so its transaction was rolled back")
	errCovered   = errors.New("river: another run of the schedule has succeeded meanwhile, so the transaction was rolled back; " +
		"it runs again from the tick of that run on")
	errUnknown = errors.New("river: the database did not say whether the transaction has committed")
)

// complete commits the handler's transaction together with the completion of the job. The lock keeps the row as it is
// from the check until the commit: River's completion asks only for state = 'running', so that without it a process
// that was taken for dead would complete the attempt of another one. It is taken last, because River's and our own
// statements about the run wait for it.
func (a *attempt) complete(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout) // it has a definite outcome
	defer cancel()
	if err := a.cover(ctx, tx); err != nil {
		return err
	}
	limits := store.Limits{Statement: commitTimeout, Idle: commitIdle}
	row, err := a.env.Store.LockAttempt(ctx, tx, limits, a.row.ID, a.row.Attempt, a.env.Client)
	if err != nil {
		return fmt.Errorf("river: the transaction was rolled back, because the job's row could not be locked: %w", err)
	}
	if a.ending = endingOf(row); a.ending != notYet {
		return a.refuse(ctx)
	}
	if err := a.recordOutput(ctx); err != nil {
		return fmt.Errorf("river: the transaction was rolled back, because the output could not be recorded: %w", err)
	}
	done, err := riverqueue.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, &riverqueue.Job[args]{JobRow: a.row})
	if err == nil && done.State != rivertype.JobStateCompleted {
		err = fmt.Errorf("it is %s", done.State)
	}
	if err != nil {
		return fmt.Errorf("river: the transaction was rolled back, because the job could not be completed: %w", err)
	}
	err = tx.Commit(ctx)
	if err == nil {
		a.ending = committed
		return nil
	}
	// An error after which the connection is in order was reported by the server, which has then rolled back.
	if conn := a.conn.Conn(); conn.IsClosed() || conn.PgConn().TxStatus() != 'I' {
		if a.ending = a.settle(ctx, err); a.ending == committed {
			return nil
		}
		if a.ending != notYet {
			return a.refuse(ctx)
		}
	}
	return fmt.Errorf("river: the transaction was rolled back, because the commit failed: %w", err)
}

// cover stores that the window of a tick's run is covered, unless another run has covered a part of it since the attempt
// began. The schedule's row stays locked until the commit, so that of two runs the second sees the first one.
func (a *attempt) cover(ctx context.Context, tx pgx.Tx) error {
	if !a.run.PrevSuccess.Before(a.run.Tick) { // triggered, or covered before
		return nil
	}
	last, err := a.env.Store.LockSuccess(ctx, tx, store.Limits{Statement: commitTimeout, Idle: commitIdle}, a.run.Name)
	if err == nil && provider.Covered(a.run.PrevSuccess, a.run.Tick, last) {
		a.ending = covered
		return errCovered
	}
	if err == nil {
		err = a.env.Store.PutSuccess(ctx, tx, a.run.Name, a.run.Tick)
	}
	if err != nil {
		return fmt.Errorf("river: the transaction was rolled back, because the success could not be stored in the schedule's row: %w", err)
	}
	return nil
}

// refuse returns the error of an attempt that must not commit.
func (a *attempt) refuse(ctx context.Context) error {
	switch a.ending {
	case cancelled:
		return errCancelled
	case unknown:
		return errUnknown
	}
	a.log().WarnContext(ctx, "run ended after its job was given to another process: its transaction is rolled back and its result not stored",
		"attempt", a.row.Attempt)
	return errLost
}

// settle finds out whether a transaction has committed whose connection broke during the COMMIT. The server may still be
// about to carry it out. Until then it keeps the row locked, so reading the row with a lock waits for the outcome. While
// the database does not answer, settle asks again, and this process keeps the attempt. After a hard stop the row decides:
// others rescue the run if it is not completed.
func (a *attempt) settle(ctx context.Context, broken error) ending {
	a.log().WarnContext(ctx, "connection lost during a commit; asking the database for its outcome", "error", broken)
	a.disconnect() // its place in the pool is for the connection that asks
	for {
		row, err := a.reread(ctx)
		if err == nil {
			return endingOf(row)
		}
		a.log().WarnContext(ctx, "the outcome of a commit is unknown; asking again", "retry_in", transientSnooze, "error", err)
		select {
		case <-time.After(transientSnooze):
		case <-a.env.Stopping:
			return unknown
		}
	}
}

// reread reads the row of the attempt after every transaction that had locked it has ended. It has nothing to commit.
func (a *attempt) reread(ctx context.Context) (row store.AttemptRow, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), prepareTimeout)
	defer cancel()
	tx, err := a.env.App.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return row, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // whose success does not matter
	limits := store.Limits{Statement: prepareTimeout, Idle: prepareTimeout}
	return a.env.Store.LockAttempt(ctx, tx, limits, a.row.ID, a.row.Attempt, a.env.Client)
}
