package river_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// sealed is the stored form of encrypted args. Base64 stands in for a cipher.
type sealed struct {
	Sealed string `json:"sealed"`
}

func seal(args []byte) ([]byte, error) {
	return json.Marshal(sealed{base64.StdEncoding.EncodeToString(args)})
}

func unseal(args []byte) ([]byte, error) {
	var s sealed
	if err := json.Unmarshal(args, &s); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(s.Sealed)
}

// counting is middleware that counts inserted jobs and attempts.
type counting struct {
	riverqueue.MiddlewareDefaults
	inserted, worked *atomic.Int64
}

func (c *counting) InsertMany(ctx context.Context, params []*rivertype.JobInsertParams, doInner func(context.Context) ([]*rivertype.JobInsertResult, error)) ([]*rivertype.JobInsertResult, error) {
	c.inserted.Add(int64(len(params)))
	return doInner(ctx)
}

func (c *counting) Work(ctx context.Context, _ *rivertype.JobRow, doInner func(context.Context) error) error {
	c.worked.Add(1)
	return doInner(ctx)
}

// Programs that encrypt their data depend on it.
func TestConfigRiver_HooksAndMiddlewareSeeEveryInsertAndRun(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	var hooked, worked, inserted, midWorked atomic.Int64
	s := newScheduler(t, pool, river.Config{River: func(cfg *riverqueue.Config) {
		cfg.Hooks = append(cfg.Hooks,
			riverqueue.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) (err error) {
				hooked.Add(1)
				p.EncodedArgs, err = seal(p.EncodedArgs)
				return err
			}),
			riverqueue.HookWorkBeginFunc(func(_ context.Context, job *rivertype.JobRow) (err error) {
				worked.Add(1)
				job.EncodedArgs, err = unseal(job.EncodedArgs)
				return err
			}))
		cfg.Middleware = append(cfg.Middleware, &counting{inserted: &inserted, worked: &midWorked})
	}})
	ran, ticks := make(chan jobs.Job, 100), make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ticks)))
	require.NoError(t, s.Start(t.Context()))
	secret := map[string]string{"card": "4711"}
	_, err := s.Trigger(t.Context(), "a.job", secret)
	require.NoError(t, err)
	_, err = s.Trigger(t.Context(), "a.job", secret, jobs.Unique("key"))
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := s.TriggerTx(t.Context(), tx, "a.job", secret)
		return err
	}))
	ids, err := s.TriggerMany(t.Context(), "a.job", []any{secret, secret})
	require.NoError(t, err)
	require.Len(t, ids, 2)
	n, err := s.TriggerBulk(t.Context(), "a.job", []any{secret, secret})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	for range 7 {
		require.JSONEq(t, `{"card": "4711"}`, string(receive(t, ran).Data))
	}
	require.JSONEq(t, `{}`, string(receive(t, ticks).Data))
	receive(t, ticks)
	require.GreaterOrEqual(t, hooked.Load(), int64(9))
	require.GreaterOrEqual(t, inserted.Load(), int64(9))
	require.GreaterOrEqual(t, worked.Load(), int64(9))
	require.GreaterOrEqual(t, midWorked.Load(), int64(9))
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE args::text LIKE '%4711%' OR NOT args ? 'sealed'`))
}

// Services that share a schema fetch faster with one queue each.
func TestConfigQueue_HoldsJobsWithoutConcurrency(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{Queue: "billing"})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(1)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran)))
	// Left in the default queue by another configuration.
	insertRows(t, pool, 1, `kind, state, scheduled_at`, `'a.job', 'available', now() - interval '1 minute'`)
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.own", nil)
	require.NoError(t, err)
	for seen := map[string]bool{}; !seen["a.job"] || !seen["a.own"] || !seen["a.tick"]; {
		seen[receive(t, ran).Name] = true
	}
	require.Equal(t, 2, scalar[int](t, pool, `SELECT count(DISTINCT queue) FROM river.river_job`))
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE queue = 'default'`))
}
