package jobstest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
)

var database = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `CREATE TABLE effect (what text, UNIQUE (what) DEFERRABLE INITIALLY DEFERRED)`)
	return err
})

// With a real database, a handler's transaction and the jobs triggered in it end together.
func TestRecorder_RunsTransactionalJobs(t *testing.T) {
	t.Parallel()
	again := errors.New("not this time")
	for _, test := range []struct {
		name    string
		first   func(ctx context.Context, s jobs.TxTriggerer, job *jobs.Job) error // ends the first attempt
		says    string
		effects []string
	}{
		{name: "an error", first: func(context.Context, jobs.TxTriggerer, *jobs.Job) error { return again }, says: "not this time", effects: []string{"done"}},
		{name: "a failed statement that the handler ignores", first: func(ctx context.Context, _ jobs.TxTriggerer, job *jobs.Job) error {
			_, _ = job.Tx.Exec(ctx, `SELECT 1/0`)
			return nil
		}, says: "a statement had failed", effects: []string{"done"}},
		{name: "a constraint checked at the commit", first: func(ctx context.Context, _ jobs.TxTriggerer, job *jobs.Job) error {
			_, err := job.Tx.Exec(ctx, `INSERT INTO effect VALUES ('done')`)
			return err
		}, says: "duplicate key", effects: []string{"done"}},
		{name: "savepoints", first: func(ctx context.Context, s jobs.TxTriggerer, job *jobs.Job) error {
			for _, end := range []error{again, nil} {
				err := pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, `INSERT INTO effect VALUES ('nested')`); err != nil {
						return err
					}
					_, err := s.TriggerTx(ctx, tx, "test.effect", nil)
					return errors.Join(err, end)
				})
				if !errors.Is(err, end) {
					return err
				}
			}
			return nil
		}, effects: []string{"done", "nested"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := database.Pool(t)
			scheduler, err := memory.New(&memory.Config{DB: pool})
			require.NoError(t, err)
			s := jobstest.Record(scheduler)
			require.NoError(t, s.RegisterDelayed("test.effect", 0, func(context.Context, *jobs.Job) error { return nil }))
			require.NoError(t, s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
				if _, err := job.DB.Exec(ctx, `INSERT INTO effect VALUES ('done')`); err != nil {
					return err
				}
				if _, err := s.TriggerTx(ctx, job.Tx, "test.effect", nil); err != nil || job.Attempt == 2 {
					return err
				}
				return test.first(ctx, s, job)
			}, jobs.Transactional(), jobs.RetryDelay(0)))
			require.NoError(t, s.Start(t.Context()))
			outcome := s.TriggerAndWait(t, "test.job", nil)
			require.NoError(t, outcome.Err)
			require.Nil(t, outcome.Job.Tx, "the transaction has ended")
			require.Eventually(t, func() bool { return len(s.Outcomes("test.effect")) >= len(test.effects) }, time.Minute, time.Millisecond)
			require.NoError(t, s.Shutdown(t.Context()))
			require.Len(t, s.Outcomes("test.effect"), len(test.effects), "jobs of transactions that committed")
			require.Equal(t, outcome.Attempts == 2, test.says != "")
			rows, err := pool.Query(t.Context(), `SELECT what FROM effect ORDER BY what`)
			require.NoError(t, err)
			got, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			require.Equal(t, test.effects, got)
			runs, err := scheduler.Runs(t.Context(), "test.job", 1)
			require.NoError(t, err)
			require.Contains(t, runs[0].Error, test.says, "error of the first attempt")
		})
	}
}
