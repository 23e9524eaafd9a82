//go:build unix

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// BenchmarkSharedPool measures how late ticks start while handlers of a backlog use up the pool's 20 connections. The
// ticks come once per second, for a job with its own worker.
func BenchmarkSharedPool(b *testing.B) {
	srv := newServer(b)
	for _, hold := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond} {
		for _, workers := range []int{15, 0} {
			name := "default"
			if workers > 0 {
				name = fmt.Sprint(workers)
			}
			b.Run(fmt.Sprintf("hold=%s/workers=%s", hold, name), func(b *testing.B) {
				db := srv.database(b, typed)
				var figures metrics
				for b.Loop() {
					figures = sharedPool(b, db, workers, hold, scaled(15*time.Second))
				}
				report(b, "tick-late-p50-ms", none, figures["p50"], noTarget)
				report(b, "tick-late-max-ms", none, figures["max"], noTarget)
				report(b, "jobs/s", none, figures["jobs/s"], noTarget)
			})
		}
	}
}

// sharedPool runs jobs from a backlog that is too long to finish.
func sharedPool(b *testing.B, db *database, workers int, hold, during time.Duration) metrics {
	b.Helper()
	const holder, ticker = "bench.holder", "bench.ticker"
	db.reset(b)
	pool := db.pool(b, poolConns)
	defer pool.Close()
	s, err := river.New(pool, &river.Config{Logger: slog.New(slog.DiscardHandler), MaxWorkers: workers})
	require.NoError(b, err)
	require.NoError(b, s.RegisterDelayed(holder, 0, func(ctx context.Context, job *jobs.Job) error {
		_, err := job.DB.Exec(ctx, `SELECT pg_sleep($1)`, hold.Seconds())
		return err
	}))
	var (
		mu   sync.Mutex
		late []time.Duration
	)
	require.NoError(b, s.RegisterInterval(ticker, time.Second, func(_ context.Context, job *jobs.Job) error {
		mu.Lock()
		defer mu.Unlock()
		late = append(late, time.Since(job.Tick))
		return nil
	}, jobs.Concurrency(1)))
	require.NoError(b, s.Start(b.Context()))
	wait(min(during, 7*time.Second)) // for an election
	n := int(poolConns * during / hold)
	mu.Lock()
	late = nil
	mu.Unlock()
	_, err = s.TriggerMany(b.Context(), holder, make([]any, n))
	require.NoError(b, err)
	start := time.Now()
	wait(during)
	took := time.Since(start)
	completed := db.count(b, "state = 'completed' AND kind = '"+holder+"'")
	mu.Lock()
	lateness := slices.Clone(late)
	mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // running jobs go back to the queue
	require.ErrorIs(b, s.Shutdown(ctx), context.Canceled)
	require.Equal(b, n, db.count(b, "kind = '"+holder+"'"), "jobs are lost")
	require.NotEmpty(b, lateness)
	return metrics{
		"p50":    milliseconds(quantile(lateness, 0.5)),
		"max":    milliseconds(quantile(lateness, 1)),
		"jobs/s": float64(completed) / took.Seconds(),
	}
}
