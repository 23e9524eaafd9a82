//go:build unix

package river_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// BenchmarkSchedulesDueTogether tells how long after one instant the last of many
// schedules that are due then has started (last-start-s) and has its successor
// stored (stored-s), on a Postgres with durable settings; and what they cost of a
// core while none is due (idle-%core), in this process. An iteration is one tick,
// and takes its interval:
//
//	go test -run='^$' -bench=SchedulesDueTogether -benchtime=3x ./adapters/river
func BenchmarkSchedulesDueTogether(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkSchedules(b, n, 20*time.Second) })
	}
}

func benchmarkSchedules(b *testing.B, n int, every time.Duration) {
	cfg, err := pgxpool.ParseConfig(dbtest.Server(b, devdb.Options{}).URL)
	require.NoError(b, err)
	cfg.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	require.NoError(b, err)
	b.Cleanup(pool.Close)
	require.NoError(b, river.Migrate(b.Context(), pool, ""))
	s := newScheduler(b, pool, river.Config{})
	for i := range n {
		require.NoError(b, s.RegisterInterval(fmt.Sprintf("bench.schedule-%d", i), every, func(context.Context, *jobs.Job) error { return nil }))
	}
	require.NoError(b, s.Start(b.Context()))
	defer func() { require.NoError(b, shutdown(s)) }()

	var lastStart, stored, idle float64
	b.ResetTimer()
	tick := time.Now().Truncate(every).Add(2 * every) // a whole interval to settle in
	for range b.N {
		<-time.After(time.Until(tick.Add(-every / 4)))
		before := processorTime()
		<-time.After(time.Until(tick))
		idle += 100 * (processorTime() - before).Seconds() / (every / 4).Seconds()
		for {
			var started, successors int
			var latest float64
			err := pool.QueryRow(b.Context(), `SELECT
				count(*) FILTER (WHERE attempt > 0 AND scheduled_at = $1),
				coalesce(max(extract(epoch FROM attempted_at - $1::timestamptz)) FILTER (WHERE scheduled_at = $1), 0)::float8,
				count(*) FILTER (WHERE scheduled_at = $2) FROM river.river_job`, tick, tick.Add(every)).Scan(&started, &latest, &successors)
			require.NoError(b, err)
			if started == n && successors == n {
				lastStart += latest
				stored += time.Since(tick).Seconds()
				break
			}
			require.Less(b, time.Since(tick), every, "%d of %d started, %d successors", started, n, successors)
			<-time.After(100 * time.Millisecond)
		}
		tick = tick.Add(every)
	}
	b.ReportMetric(lastStart/float64(b.N), "last-start-s")
	b.ReportMetric(stored/float64(b.N), "stored-s")
	b.ReportMetric(idle/float64(b.N), "idle-%core")
	b.ReportMetric(0, "ns/op") // is the interval
}

// BenchmarkTrigger compares Trigger with the Insert of River's own client, by so many
// callers at once on a Postgres with durable settings.
//
//	go test -run='^$' -bench=Trigger -benchtime=3s ./adapters/river
func BenchmarkTrigger(b *testing.B) {
	for _, callers := range []int{1, 16, 50} {
		for _, who := range []string{"river", "everytick"} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, who), func(b *testing.B) { benchmarkTrigger(b, callers, who) })
		}
	}
}

type noArgs struct{}

func (noArgs) Kind() string { return "bench.job" }

func benchmarkTrigger(b *testing.B, callers int, who string) {
	cfg, err := pgxpool.ParseConfig(dbtest.Server(b, devdb.Options{}).URL)
	require.NoError(b, err)
	cfg.MaxConns = 50
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	require.NoError(b, err)
	b.Cleanup(pool.Close)
	require.NoError(b, river.Migrate(b.Context(), pool, ""))
	s := newScheduler(b, pool, river.Config{})
	require.NoError(b, s.RegisterDelayed("bench.job", 0, noop))
	insert := func() error {
		_, err := s.Trigger(b.Context(), "bench.job", nil)
		return err
	}
	if who == "river" {
		client, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{Schema: river.DefaultSchema})
		require.NoError(b, err)
		insert = func() error {
			_, err := client.Insert(b.Context(), noArgs{}, nil)
			return err
		}
	}
	require.NoError(b, insert())

	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	latencies := make([][]time.Duration, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				if err := insert(); err != nil {
					b.Error(err)
					return
				}
				latencies[i] = append(latencies[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	all := slices.Concat(latencies...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	var rows int
	require.NoError(b, pool.QueryRow(b.Context(), "SELECT count(*) FROM river.river_job").Scan(&rows))
	require.Equal(b, b.N+1, rows, "no job is lost")
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
