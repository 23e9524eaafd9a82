package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"
)

// Because of the first of these, a transactional attempt locks its row and checks whose it is.
func TestRiver_JobCompleteTxAsksOnlyForRunning(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, before string // a statement before the completion
		state        rivertype.JobState
	}{
		{"as it was", `SELECT 1`, rivertype.JobStateCompleted},
		{"another attempt of another process", `UPDATE river.river_job SET attempt = 7, attempted_by = '{other}'`, rivertype.JobStateCompleted},
		{"no longer running", `UPDATE river.river_job SET state = 'retryable'`, rivertype.JobStateRetryable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			got := make(chan *riverqueue.Job[some], 1)
			c := client(t, pool, func(ctx context.Context, job *riverqueue.Job[some]) error {
				return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, test.before); err != nil {
						return err
					}
					row, err := riverqueue.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
					got <- row
					return err
				})
			}, nil)
			_, err := c.Insert(t.Context(), some{}, nil)
			require.NoError(t, err)
			require.Equal(t, test.state, receive(t, got).State)
		})
	}
}

func TestRiver_JobCompleteTxStoresMetadataAndThenNothingElse(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	c := client(t, pool, func(ctx context.Context, job *riverqueue.Job[some]) error {
		if err := riverqueue.MetadataSet(ctx, "key", "value"); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := riverqueue.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
			return err
		})
		if err != nil {
			return err
		}
		var metadata string
		if err := pool.QueryRow(ctx, `SELECT metadata::text FROM river.river_job`).Scan(&metadata); err != nil || metadata != `{"key": "value"}` {
			return riverqueue.JobCancel(errors.New("not stored with the completion: " + metadata))
		}
		return errors.New("an error after the commit")
	}, nil)
	events, cancel := c.Subscribe(riverqueue.EventKindJobCompleted, riverqueue.EventKindJobFailed, riverqueue.EventKindJobCancelled)
	defer cancel()
	_, err := c.Insert(t.Context(), some{}, nil)
	require.NoError(t, err)
	event := receive(t, events)
	require.Equal(t, riverqueue.EventKindJobCompleted, event.Kind, "subscribers see the completion")
	require.Equal(t, rivertype.JobStateCompleted, event.Job.State)
	require.Empty(t, event.Job.Errors, "the error changes nothing")
}
