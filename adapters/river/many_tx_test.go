package river_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestTriggerManyTx_InsertsNoneIfALaterStatementFails(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	refused := errors.New("refused")
	s := newScheduler(t, pool, river.Config{River: func(cfg *riverqueue.Config) {
		cfg.Hooks = append(cfg.Hooks, riverqueue.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) error {
			if string(p.EncodedArgs) == `{"n":10000}` { // the first of the second statement
				return refused
			}
			return nil
		}))
	}})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		before, err := s.TriggerTx(t.Context(), tx, "a.job", nil)
		require.NoError(t, err)
		ids, err := s.TriggerManyTx(t.Context(), tx, "a.job", numbered(10_001))
		require.ErrorIs(t, err, refused)
		require.Empty(t, ids)
		ids, err = s.TriggerManyTx(t.Context(), tx, "a.job", numbered(2))
		require.NoError(t, err)
		require.Greater(t, idOf(t, ids[0]), idOf(t, before))
		return nil
	}))
	require.Equal(t, 3, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestTriggerManyTx_JobsStartWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	for range 3 {
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := s.TriggerManyTx(t.Context(), tx, "a.job", []any{nil, nil})
			return err
		}))
		receive(t, ran)
		receive(t, ran)
	}
}
