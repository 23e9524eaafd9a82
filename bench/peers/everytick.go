package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

var everytickPeer = peer{
	name:    ours,
	title:   ours,
	version: func() string { return "(this tree)" },
	missing: func(context.Context) string { return "" },
	run: func(ctx context.Context, url string, s step) (result, error) {
		pool, err := newPool(ctx, url)
		if err != nil {
			return result{}, err
		}
		if err := river.Migrate(ctx, pool, nil); err != nil {
			return result{}, err
		}
		var cfg *river.Config
		if s.Tuned {
			cfg = &river.Config{
				MaxWorkers: 2000,
				River:      func(c *riverqueue.Config) { c.FetchCooldown = 5 * time.Millisecond },
			}
		}
		lib := &everytick{pool: pool}
		if lib.scheduler, err = river.New(pool, cfg); err != nil {
			return result{}, err
		}
		err = noop.Register(lib.scheduler, func(_ context.Context, _ *jobs.Job, p payload) error {
			lib.handle(p.N)
			return nil
		})
		if err != nil {
			return result{}, err
		}
		return measure(ctx, lib, s)
	},
}

type payload struct {
	N int `json:"n"`
}

const noop jobs.Kind[payload] = "bench.noop"

// newPool returns a pool for the Go libraries, with a connection for each of the 50 callers.
func newPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 50
	return pgxpool.NewWithConfig(ctx, cfg)
}

type everytick struct {
	pool      *pgxpool.Pool
	scheduler *river.Scheduler
	handle    func(n int)
}

func (e *everytick) enqueue(ctx context.Context, n int) error {
	_, err := noop.Trigger(ctx, e.scheduler, payload{n})
	return err
}

func (e *everytick) enqueueAfter(ctx context.Context, n int, delay time.Duration) error {
	_, err := noop.Trigger(ctx, e.scheduler, payload{n}, jobs.Delay(delay))
	return err
}

func (e *everytick) enqueueMany(ctx context.Context, n int, at time.Time) error {
	var opts []jobs.TriggerOption
	if !at.IsZero() {
		opts = append(opts, jobs.At(at))
	}
	data := make([]any, n)
	for i := range data {
		data[i] = payload{i}
	}
	_, err := e.scheduler.TriggerMany(ctx, string(noop), data, opts...)
	return err
}

func (e *everytick) start(ctx context.Context, _ bool, handle func(int)) (func() error, error) {
	e.handle = handle
	return func() error { return e.scheduler.Shutdown(ctx) }, e.scheduler.Start(ctx)
}

func (e *everytick) unfinished(ctx context.Context) (n int, err error) {
	err = e.pool.QueryRow(ctx, "SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL").Scan(&n)
	return n, err
}

func (e *everytick) settle(ctx context.Context) error { return vacuum(ctx, e.pool) }

func (e *everytick) close() { e.pool.Close() }

// vacuum does what autovacuum would do within a minute, for all libraries.
func vacuum(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, "VACUUM ANALYZE"); err != nil {
		return err
	}
	_, err := pool.Exec(ctx, "CHECKPOINT")
	return err
}
