//go:build unix

package bench

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// BenchmarkIdle measures the cost of a started process without work: queries per second on all connections, and the
// share of a core. The process has three triggered jobs and two schedules that are not due.
func BenchmarkIdle(b *testing.B) {
	srv := newServer(b)
	river, everytick := alternate(b, srv, 1, func(db *database, c contender) metrics {
		return idle(b, db, c, scaled(15*time.Second))
	})
	report(b, "queries/s", river["queries/s"], everytick["queries/s"], atMost(8))
	report(b, "%core", river["%core"], everytick["%core"], atMost(1))
}

var idleKinds = []string{"bench.first", "bench.second", "bench.third"}

const hourly, daily = "bench.hourly", "bench.daily"

func idle(b *testing.B, db *database, c contender, during time.Duration) metrics {
	b.Helper()
	db.reset(b)
	var queries queryCounter
	pool := db.pool(b, poolConns, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = &queries })
	defer pool.Close()
	start, stop := idleEverytick(b, pool)
	if c.name == native.name {
		start, stop = idleNative(b, pool)
	}
	require.NoError(b, start(b.Context()))
	wait(min(during, 10*time.Second)) // for elections and startup work
	before, used := queries.n.Load(), processorTime()
	wait(during)
	figures := metrics{
		"queries/s": float64(queries.n.Load()-before) / during.Seconds(),
		"%core":     100 * (processorTime() - used).Seconds() / during.Seconds(),
	}
	require.NoError(b, stop(context.WithoutCancel(b.Context())))
	return figures
}

func idleEverytick(b *testing.B, pool *pgxpool.Pool) (start, stop func(context.Context) error) {
	b.Helper()
	nothing := func(context.Context, *jobs.Job) error { return nil }
	s, err := river.New(pool, &river.Config{Logger: logger})
	require.NoError(b, err)
	for _, name := range idleKinds {
		require.NoError(b, s.RegisterDelayed(name, 0, nothing))
	}
	require.NoError(b, s.RegisterInterval(hourly, time.Hour, nothing))
	require.NoError(b, s.RegisterCron(daily, "0 3 * * *", nothing))
	return s.Start, s.Shutdown
}

func idleNative(b *testing.B, pool *pgxpool.Pool) (start, stop func(context.Context) error) {
	b.Helper()
	worker := riverqueue.WorkFunc(func(context.Context, *riverqueue.Job[args]) error { return nil })
	cfg := &riverqueue.Config{
		Logger: logger, Schema: river.DefaultSchema, Workers: riverqueue.NewWorkers(),
		Queues: map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 100}},
	}
	for _, kind := range idleKinds {
		riverqueue.AddWorkerArgs(cfg.Workers, args{kind: kind}, worker)
	}
	for kind, every := range map[string]time.Duration{hourly: time.Hour, daily: 24 * time.Hour} {
		riverqueue.AddWorkerArgs(cfg.Workers, args{kind: kind}, worker)
		cfg.PeriodicJobs = append(cfg.PeriodicJobs, riverqueue.NewPeriodicJob(riverqueue.PeriodicInterval(every),
			func() (riverqueue.JobArgs, *riverqueue.InsertOpts) { return args{kind: kind}, nil }, nil))
	}
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), cfg)
	require.NoError(b, err)
	return client.Start, client.Stop
}

// queryCounter counts the queries that a pool sends.
type queryCounter struct{ n atomic.Int64 }

// TraceQueryStart implements [pgx.QueryTracer].
func (c *queryCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (c *queryCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart implements [pgx.BatchTracer]: a batch counts by its queries.
func (c *queryCounter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	c.n.Add(int64(data.Batch.Len()))
	return ctx
}

// TraceBatchQuery implements [pgx.BatchTracer].
func (c *queryCounter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements [pgx.BatchTracer].
func (c *queryCounter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}
