//go:build unix

package bench

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// workload is the load for one point of a curve. Zero fields mean one process, the default number of workers, one
// name, and scalingJobs waiting jobs.
type workload struct{ workers, processes, waiting, completed, names int }

const (
	scalingJobs = 60_000          // waiting jobs: more than can be completed in scalingTime
	scalingTime = 3 * time.Second // limit for each point
)

// BenchmarkScaling measures how the rate of completed no-op jobs depends on one parameter, with defaults for all
// others. The rate counts from the first job. The flag -svg=file draws the curves.
//
// "Processes" are clients or schedulers, each with its own pool, in the process of the benchmark.
func BenchmarkScaling(b *testing.B) {
	srv := newServer(b)
	for _, curve := range []struct {
		name, thing string
		values      []int
		load        func(n int) workload
	}{
		{"workers", "workers of the process", []int{10, 50, 100, 200, 500, 1000, 2000}, func(n int) workload { return workload{workers: n} }},
		{"processes", "processes", []int{1, 2, 4}, func(n int) workload { return workload{processes: n} }},
		{"waiting", "jobs waiting", []int{1000, 10_000, 100_000, 1_000_000}, func(n int) workload { return workload{waiting: scaled(n)} }},
		{"completed", "completed jobs kept", []int{0, 10_000, 100_000, 1_000_000}, func(n int) workload { return workload{completed: n} }},
		{"names", "job names", []int{1, 10, 100, 1000}, func(n int) workload { return workload{names: n} }},
	} {
		rates := newPanel("Completed, jobs/s", curve.thing)
		fetches := rates
		if curve.name == "waiting" {
			fetches = newPanel("Fetch of the next jobs, ms", curve.thing)
		}
		for _, n := range curve.values {
			b.Run(fmt.Sprintf("%s=%d", curve.name, n), func(b *testing.B) {
				river, everytick := alternate(b, srv, 1, func(db *database, c contender) metrics {
					return curve.load(n).measure(b, db, c)
				})
				report(b, "jobs/s", river["jobs/s"], everytick["jobs/s"], noTarget)
				rates.add(n, river["jobs/s"], everytick["jobs/s"])
				if fetches != rates {
					report(b, "fetch-ms", river["fetch-ms"], everytick["fetch-ms"], noTarget)
					fetches.add(n, river["fetch-ms"], everytick["fetch-ms"])
				}
			})
		}
	}
}

func (w workload) measure(b *testing.B, db *database, c contender) metrics {
	b.Helper()
	names := "'" + kind + "'"
	if w.names > 1 {
		names = fmt.Sprintf("'%s-' || i %% %d", kind, w.names)
	}
	if w.waiting == 0 {
		w.waiting = scaled(scalingJobs)
	}
	db.reset(b)
	if w.completed > 0 {
		db.fill(b, scaled(w.completed), names, "'completed'")
	}
	db.fill(b, w.waiting, names, available)

	var fetches fetchTimer
	var pools []*pgxpool.Pool
	for range max(1, w.processes) {
		pool := db.pool(b, poolConns, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = &fetches })
		defer pool.Close()
		pools = append(pools, pool)
	}
	d := drain(b, db, c, settings{workers: w.workers, kinds: w.names}, pools, w.waiting, scalingTime)
	return metrics{
		"jobs/s":   float64(d.completed) / d.working.Seconds(),
		"fetch-ms": milliseconds(fetches.mean()),
	}
}

// fetchTimer measures River's query for the next jobs, which both clients use.
type fetchTimer struct{ n, nanoseconds atomic.Int64 }

type fetchStart struct{}

// TraceQueryStart implements [pgx.QueryTracer].
func (f *fetchTimer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !strings.HasPrefix(data.SQL, "-- name: JobGetAvailable ") {
		return ctx
	}
	return context.WithValue(ctx, fetchStart{}, time.Now())
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (f *fetchTimer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if start, ok := ctx.Value(fetchStart{}).(time.Time); ok {
		f.n.Add(1)
		f.nanoseconds.Add(int64(time.Since(start)))
	}
}

func (f *fetchTimer) mean() time.Duration {
	return time.Duration(f.nanoseconds.Load() / max(1, f.n.Load()))
}

// BenchmarkScalingSchedulesDueTogether measures how long after a common tick the last of many schedules has started
// (last-start-s), and the share of a core that this process uses while none is due (idle-%core). River's periodic jobs
// have no common tick: their times depend on when the leader started. Each iteration takes one interval:
//
//	go test -run='^$' -bench=SchedulesDueTogether -benchtime=3x ./bench
func BenchmarkScalingSchedulesDueTogether(b *testing.B) {
	srv := newServer(b)
	late := newPanel("Last start after a common tick, s", "schedules due together")
	idle := newPanel("Processor between their ticks, % of a core", "schedules")
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		every := 10 * time.Second
		if n > 1000 {
			every = 20 * time.Second
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			figures := schedules(b, srv, n, every)
			for _, unit := range []string{"last-start-s", "idle-%core"} {
				report(b, unit, none, figures[unit], noTarget)
			}
			late.add(n, none, figures["last-start-s"])
			idle.add(n, none, figures["idle-%core"])
		})
	}
}

func schedules(b *testing.B, srv *server, n int, every time.Duration) metrics {
	b.Helper()
	db := srv.database(b, typed)
	pool := db.pool(b, poolConns)
	defer pool.Close()
	s, err := river.New(pool, &river.Config{Logger: logger})
	require.NoError(b, err)
	var started, latest atomic.Int64 // handlers started at a tick, and the last start in Unix nanoseconds
	handler := func(context.Context, *jobs.Job) error {
		for now, before := time.Now().UnixNano(), latest.Load(); now > before && !latest.CompareAndSwap(before, now); before = latest.Load() {
		}
		started.Add(1)
		return nil
	}
	for i := range n {
		require.NoError(b, s.RegisterInterval(fmt.Sprintf("bench.schedule-%d", i), every, handler))
	}
	require.NoError(b, s.Start(b.Context()))
	defer func() { require.NoError(b, s.Shutdown(context.WithoutCancel(b.Context()))) }()

	var all []metrics
	tick := time.Now().Truncate(every).Add(2 * every) // leaves a whole interval to settle
	for b.Loop() {
		wait(time.Until(tick.Add(-every / 4)))
		started.Store(0)
		before := processorTime()
		wait(time.Until(tick))
		idle := (processorTime() - before).Seconds() / (every / 4).Seconds()
		for {
			if started.Load() == int64(n) {
				last := time.Unix(0, latest.Load()).Sub(tick)
				all = append(all, metrics{"last-start-s": last.Seconds(), "idle-%core": 100 * idle})
				break
			}
			require.Less(b, time.Since(tick), every, "%d of %d started", started.Load(), n)
			wait(100 * time.Millisecond)
		}
		tick = tick.Add(every)
	}
	return medians(all)
}
