package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

func TestTransactional_LeavesTwoConnectionsOfAPool(t *testing.T) {
	t.Parallel()
	for size, running := range map[int32]int{3: 1, 5: 3} {
		synctest.Test(t, func(t *testing.T) {
			s, err := memory.New(&memory.Config{DB: sizedDB{size: size}})
			require.NoError(t, err)
			release := make(chan struct{})
			require.NoError(t, s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
				<-release
				return nil
			}, jobs.Transactional()))
			require.NoError(t, s.Start(t.Context()))
			_, err = s.TriggerMany(t.Context(), "test.job", make([]any, 5))
			require.NoError(t, err)
			synctest.Wait()
			h, err := s.Health(t.Context())
			require.NoError(t, err)
			require.Equal(t, running, h.Totals[jobs.StateRunning].N)
			close(release)
			require.NoError(t, s.Shutdown(t.Context()))
			require.NoError(t, s.Start(t.Context()), "the number is set again")
			synctest.Wait()
			require.NoError(t, s.Shutdown(t.Context()))
			h, err = s.Health(t.Context())
			require.NoError(t, err)
			require.Equal(t, 5, h.Totals[jobs.StateCompleted].N)
		})
	}
}

func TestStart_RefusesAPoolTooSmallForTransactionalJobs(t *testing.T) {
	t.Parallel()
	s, err := memory.New(&memory.Config{DB: sizedDB{size: 2}})
	require.NoError(t, err)
	nothing := func(context.Context, *jobs.Job) error { return nil }
	require.NoError(t, s.RegisterDelayed("test.job", 0, nothing, jobs.Transactional()))
	require.ErrorContains(t, s.Start(t.Context()), "memory: start: transactional jobs (test.job) need a pool of at least 3 connections")
	require.NoError(t, s.RegisterDelayed("test.other", 0, nothing), "it is not started")
}

// sizedDB looks like a pool.
type sizedDB struct {
	jobs.DB
	size int32
}

func (db sizedDB) Config() *pgxpool.Config { return &pgxpool.Config{MaxConns: db.size} }

func (sizedDB) Begin(context.Context) (pgx.Tx, error) { return new(memory.Tx), nil }

// Without a database, a transaction is a Tx: jobs can be triggered in it.
func TestTransactional_WithoutADB(t *testing.T) {
	t.Parallel()
	outcome := make(chan error, 1)
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return errors.Join(
			s.RegisterDelayed("test.effect", 0, func(context.Context, *jobs.Job) error { return nil }),
			s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
				_, err := job.DB.Exec(ctx, `SELECT 1`)
				outcome <- err
				_, err = s.TriggerTx(ctx, job.Tx, "test.effect", nil)
				return err
			}, jobs.Transactional()),
		)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		_, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.ErrorContains(t, <-outcome, "memory: no DB was configured")
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, h.Totals[jobs.StateCompleted].N)
	})
}

// brokenTx cannot commit.
type brokenTx struct{ pgx.Tx }

func (brokenTx) Conn() *pgx.Conn                { return nil }
func (brokenTx) Commit(context.Context) error   { return &pgconn.PgError{Message: "disk full"} }
func (brokenTx) Rollback(context.Context) error { return pgx.ErrTxClosed }

type brokenDB struct{ jobs.DB }

func (brokenDB) Begin(context.Context) (pgx.Tx, error) { return brokenTx{}, nil }

func TestTransactional_ARefusedCommitInsertsNoJobs(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{DB: brokenDB{}}, func(s *memory.Scheduler) error {
		return errors.Join(
			s.RegisterDelayed("test.effect", 0, func(context.Context, *jobs.Job) error { return nil }),
			s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
				_, err := s.TriggerTx(ctx, job.Tx, "test.effect", nil)
				return err
			}, jobs.Transactional(), jobs.MaxRetries(0)),
		)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		id, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		failed := run(t, s, "test.job", id)
		require.Equal(t, jobs.StateFailed, failed.State)
		require.Contains(t, failed.Error, "disk full")
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Zero(t, h.Totals[jobs.StateCompleted].N)
	})
}
