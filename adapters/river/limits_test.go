package river_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// What docs/operating.md says about uses of PostgreSQL and pgx that do not fit together with triggers.

// PostgreSQL prepares no transaction that has notified, and a trigger notifies workers.
func TestTriggerTx_PrepareTransactionNeedsPollOnly(t *testing.T) {
	t.Parallel()
	db := dbtest.Server(t, devdb.Options{Fast: true})
	pool, err := pgxpool.New(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	execSQL(t, pool, `ALTER SYSTEM SET max_prepared_transactions = 5`)
	require.NoError(t, db.Restart(t.Context()))
	pool.Reset()
	require.NoError(t, river.Migrate(t.Context(), pool, nil))
	for _, pollOnly := range []bool{false, true} {
		s := newScheduler(t, pool, river.Config{PollOnly: pollOnly})
		require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		id, err := s.TriggerTx(t.Context(), tx, "a.job", nil)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `PREPARE TRANSACTION 'order'`)
		if !pollOnly {
			require.ErrorContains(t, err, "cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY")
			require.NoError(t, tx.Rollback(t.Context()))
			continue
		}
		require.NoError(t, err)
		_ = tx.Rollback(t.Context()) // it is not open anymore
		require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE id = $1::text::bigint`, id))
		execSQL(t, pool, `COMMIT PREPARED 'order'`)
		require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE id = $1::text::bigint`, id))
	}
}

// Callers that share an insert share its connection too.
func TestTrigger_PrepareConnSeesNoValuesOfSeveralCallers(t *testing.T) {
	t.Parallel()
	type tenant struct{}
	var mu sync.Mutex
	var without int
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		cfg.PrepareConn = func(ctx context.Context, _ *pgx.Conn) (bool, error) {
			if ctx.Value(tenant{}) == nil {
				mu.Lock()
				without++
				mu.Unlock()
				return true, errors.New("no tenant")
			}
			return true, nil
		}
	})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	ctx := context.WithValue(t.Context(), tenant{}, "ann")

	_, err := s.Trigger(ctx, "a.job", nil) // alone: with its own context
	require.NoError(t, err)
	_, err = s.TriggerMany(ctx, "a.job", []any{nil, nil})
	require.NoError(t, err)
	require.Zero(t, without)

	const callers = 50
	failed := make(chan error, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if _, err := s.Trigger(ctx, "a.job", nil); err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		require.ErrorContains(t, err, "no tenant")
	}
	require.Positive(t, without, "a shared insert has no values of its callers")
}

// Text results have bytea in the format of bytea_output, and pgx reads only one of them.
func TestTrigger_EscapedByteaNeedsABinaryQueryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec} {
		pool := poolWith(t, func(cfg *pgxpool.Config) {
			cfg.ConnConfig.RuntimeParams["bytea_output"] = "escape"
			cfg.ConnConfig.DefaultQueryExecMode = mode
		})
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
		_, err := s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err, mode)
		_, err = s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
		if mode == pgx.QueryExecModeExec {
			require.ErrorContains(t, err, "unique_key): invalid hex format")
		} else {
			require.NoError(t, err, mode)
		}
	}
}
