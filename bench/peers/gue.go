package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/vgarvardt/gue/v5"
	"github.com/vgarvardt/gue/v5/adapter/pgxv5"
)

// The settings of gue. Its documentation recommends no values; these were the best of those tried.
const (
	gueDefaultWorkers = 2 // gue has no default; this is from its README
	gueWorkers        = 16
	gueBatch          = 1000 // at 8 parameters per row, Postgres allows 8,191 rows
	gueQueue          = "bench"
)

// gueSchema is migrations/schema.sql of gue's module, which has to be applied by hand.
const gueSchema = `
CREATE TABLE IF NOT EXISTS gue_jobs
(
  job_id      TEXT        NOT NULL PRIMARY KEY,
  priority    SMALLINT    NOT NULL,
  run_at      TIMESTAMPTZ NOT NULL,
  job_type    TEXT        NOT NULL,
  args        BYTEA       NOT NULL,
  error_count INTEGER     NOT NULL DEFAULT 0,
  last_error  TEXT,
  queue       TEXT        NOT NULL,
  created_at  TIMESTAMPTZ NOT NULL,
  updated_at  TIMESTAMPTZ NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_gue_jobs_selector ON gue_jobs (queue, run_at, priority);`

var guePeer = peer{
	name:    "gue",
	title:   "gue",
	version: func() string { return moduleVersion("github.com/vgarvardt/gue/v5") },
	missing: func(context.Context) string { return "" },
	run: func(ctx context.Context, url string, s step) (result, error) {
		pool, err := newPool(ctx, url)
		if err != nil {
			return result{}, err
		}
		if _, err := pool.Exec(ctx, gueSchema); err != nil {
			return result{}, err
		}
		client, err := gue.NewClient(pgxv5.NewConnPool(pool))
		if err != nil {
			return result{}, err
		}
		return measure(ctx, &gueLibrary{pool: pool, client: client}, s)
	},
}

type gueLibrary struct {
	pool   *pgxpool.Pool
	client *gue.Client
}

func gueJob(n int, at time.Time) *gue.Job {
	args, err := json.Marshal(payload{n})
	if err != nil {
		panic(err)
	}
	return &gue.Job{Type: string(noop), Queue: gueQueue, Args: args, RunAt: at}
}

func (g *gueLibrary) enqueue(ctx context.Context, n int) error {
	return g.client.Enqueue(ctx, gueJob(n, time.Time{}))
}

func (g *gueLibrary) enqueueAfter(ctx context.Context, n int, delay time.Duration) error {
	return g.client.Enqueue(ctx, gueJob(n, time.Now().Add(delay)))
}

func (g *gueLibrary) enqueueMany(ctx context.Context, n int, at time.Time) error {
	for first := 0; first < n; first += gueBatch {
		var batch []*gue.Job
		for i := first; i < min(first+gueBatch, n); i++ {
			batch = append(batch, gueJob(i, at))
		}
		if err := g.client.EnqueueBatch(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

func (g *gueLibrary) start(ctx context.Context, tuned bool, handle func(int)) (func() error, error) {
	work := func(_ context.Context, j *gue.Job) error {
		var p payload
		if err := json.Unmarshal(j.Args, &p); err != nil {
			return err
		}
		handle(p.N)
		return nil
	}
	workers := gueDefaultWorkers
	opts := []gue.WorkerPoolOption{
		gue.WithPoolQueue(gueQueue),
		gue.WithPoolGracefulShutdown(nil), // otherwise the end of a step interrupts jobs
	}
	if tuned {
		workers = gueWorkers
		opts = append(opts, gue.WithPoolPollInterval(pollInterval),
			gue.WithPoolPollStrategy(gue.RunAtPollStrategy)) // the order of its index, so nothing is sorted
	}
	pool, err := gue.NewWorkerPool(g.client, gue.WorkMap{string(noop): work}, workers, opts...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}, nil
}

func (g *gueLibrary) unfinished(ctx context.Context) (n int, err error) {
	err = g.pool.QueryRow(ctx, "SELECT count(*) FROM gue_jobs").Scan(&n)
	return n, err
}

func (g *gueLibrary) settle(ctx context.Context) error { return vacuum(ctx, g.pool) }

func (g *gueLibrary) close() { g.pool.Close() }
