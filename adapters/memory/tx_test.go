package memory_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

func newWithJob(t *testing.T) *memory.Scheduler {
	t.Helper()
	s, err := memory.New(nil)
	require.NoError(t, err)
	require.NoError(t, s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	return s
}

func waiting(t *testing.T, s *memory.Scheduler) int {
	t.Helper()
	n, err := s.QueueSize(t.Context(), "test.job")
	require.NoError(t, err)
	return n
}

func TestTriggerTx_InAnotherTransactionInsertsAtOnce(t *testing.T) {
	t.Parallel()
	s := newWithJob(t)
	_, err := s.TriggerTx(t.Context(), struct{ pgx.Tx }{}, "test.job", nil)
	require.NoError(t, err)
	require.Equal(t, 1, waiting(t, s))
}

func TestTriggerTx_FollowsATypeThatEmbedsTx(t *testing.T) {
	t.Parallel()
	s := newWithJob(t)
	tx := struct{ *memory.Tx }{new(memory.Tx)}
	_, err := s.TriggerTx(t.Context(), tx, "test.job", nil)
	require.NoError(t, err)
	require.Zero(t, waiting(t, s))
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, 1, waiting(t, s))
}

func TestTx_IsClosedAfterItEnds(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		end  func(*memory.Tx) error
		err  error
		jobs int
	}{
		"commit":                      {func(tx *memory.Tx) error { return tx.Commit(t.Context()) }, nil, 1},
		"rollback":                    {func(tx *memory.Tx) error { return tx.Rollback(t.Context()) }, nil, 0},
		"rollback with ended context": {func(tx *memory.Tx) error { return tx.Rollback(ended) }, nil, 0},
		"commit with ended context":   {func(tx *memory.Tx) error { return tx.Commit(ended) }, context.Canceled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, tx := newWithJob(t), new(memory.Tx)
			inner, err := tx.Begin(t.Context())
			require.NoError(t, err)
			_, err = s.TriggerTx(t.Context(), inner, "test.job", nil)
			require.NoError(t, err)
			require.ErrorIs(t, test.end(tx), test.err)
			require.Equal(t, test.jobs, waiting(t, s))
			for _, closed := range []pgx.Tx{tx, inner} {
				require.ErrorIs(t, closed.Commit(t.Context()), pgx.ErrTxClosed)
				require.ErrorIs(t, closed.Rollback(t.Context()), pgx.ErrTxClosed)
				_, err = closed.Begin(t.Context())
				require.ErrorIs(t, err, pgx.ErrTxClosed)
				_, err = s.TriggerTx(t.Context(), closed, "test.job", nil, jobs.Unique("key"))
				require.ErrorIs(t, err, pgx.ErrTxClosed)
			}
			require.Equal(t, test.jobs, waiting(t, s))
			_, err = s.Trigger(t.Context(), "test.job", nil, jobs.Unique("key"))
			require.NoError(t, err, "the key is released")
		})
	}
}

// counting is a database that counts statements.
type counting struct {
	jobs.DB
	statements *int
}

func (db counting) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	*db.statements++
	return pgconn.NewCommandTag("INSERT 0 1"), nil
}

func TestTx_SendsStatementsToItsDB(t *testing.T) {
	t.Parallel()
	n := 0
	tx := &memory.Tx{DB: counting{statements: &n}}
	failure := errors.New("roll back")
	err := pgx.BeginFunc(t.Context(), tx, func(inner pgx.Tx) error {
		_, err := inner.Exec(t.Context(), "INSERT INTO users DEFAULT VALUES")
		require.NoError(t, err)
		return failure
	})
	require.ErrorIs(t, err, failure)
	require.Equal(t, 1, n)

	const want = "memory: the Tx has no DB"
	tx = new(memory.Tx)
	_, err = tx.Exec(t.Context(), "SELECT 1")
	require.EqualError(t, err, want)
	rows, err := tx.Query(t.Context(), "SELECT 1")
	require.EqualError(t, err, want)
	rows.Close()
	require.EqualError(t, tx.QueryRow(t.Context(), "SELECT 1").Scan(), want)
	_, err = tx.CopyFrom(t.Context(), pgx.Identifier{"users"}, nil, nil)
	require.EqualError(t, err, want)
	_, err = tx.Prepare(t.Context(), "name", "SELECT 1")
	require.EqualError(t, err, want)
	batch := tx.SendBatch(t.Context(), new(pgx.Batch))
	_, err = batch.Exec()
	require.EqualError(t, err, want)
	require.EqualError(t, batch.Close(), want)
}

// A commit does several things, and no run starts between them.
func TestLatest_ATransactionReplacesTheDataBeforeTheRunStarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(nil)
		require.NoError(t, err)
		type data struct{ N int }
		var early, runs, want atomic.Int32
		job := jobs.Kind[data]("test.job")
		require.NoError(t, job.Register(s, func(_ context.Context, _ *jobs.Job, d data) error {
			if runs.Add(1); d.N < 2 {
				early.Add(1)
			}
			return nil
		}))
		require.NoError(t, s.Start(t.Context()))
		var group sync.WaitGroup
		for worker := range 32 {
			group.Go(func() {
				for i := range 50 {
					key := jobs.Latest(fmt.Sprintf("%d/%d", worker, i))
					tx, delay := new(memory.Tx), 10*time.Millisecond
					var errs [3]error
					if worker%2 == 0 { // the transaction finds a run that becomes due before the commit
						_, errs[0] = job.Trigger(t.Context(), s, data{1}, key, jobs.Delay(delay))
					} else { // or inserts it
						_, errs[0] = job.TriggerTx(t.Context(), s, tx, data{1}, key)
					}
					_, errs[1] = job.TriggerTx(t.Context(), s, tx, data{2}, key)
					time.Sleep(delay)
					errs[2] = tx.Commit(t.Context())
					if want.Add(1); errors.Join(errs[:]...) != nil {
						t.Error(errs)
					}
				}
			})
		}
		group.Wait()
		time.Sleep(time.Second) // until all have run
		require.NoError(t, s.Shutdown(t.Context()))
		require.Zero(t, early.Load(), "runs with the data of the first trigger")
		require.Equal(t, want.Load(), runs.Load())
	})
}
