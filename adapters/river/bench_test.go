//go:build unix

package river_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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

// processorTime is what this process has used.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
