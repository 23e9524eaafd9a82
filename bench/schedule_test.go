//go:build unix

package bench

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// BenchmarkSchedules measures how long after a common tick the last of many schedules starts, compared with River's
// periodic jobs, with the defaults of both.
func BenchmarkSchedules(b *testing.B) {
	srv := newServer(b)
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			river, everytick := alternate(b, srv, 1, func(db *database, c contender) metrics {
				return dueSchedules(b, db, c, scaled(n))
			})
			report(b, "late-max-ms", river["max-ms"], everytick["max-ms"], ratioAtMost(0.4))
		})
	}
}

const (
	// scheduleEvery is longer than all schedules take to start.
	scheduleEvery = 20 * time.Second
	// scheduleInstants is how many ticks are measured; the median counts.
	scheduleInstants = 5
)

// starts records when schedules started.
type starts struct {
	mu   sync.Mutex
	last map[time.Time]time.Duration // by tick: how late the last one started
	n    map[time.Time]int
}

func (s *starts) note() {
	now := time.Now()
	instant := now.Truncate(scheduleEvery)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[instant], s.n[instant] = now.Sub(instant), s.n[instant]+1
}

// complete returns how late the last schedule started at each tick at which all n have started.
func (s *starts) complete(n int) (late []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for instant, started := range s.n {
		if started == n {
			late = append(late, s.last[instant])
		}
	}
	return late
}

func dueSchedules(b *testing.B, db *database, c contender, n int) metrics {
	b.Helper()
	db.reset(b)
	pool := db.pool(b, poolConns)
	defer pool.Close()
	s := &starts{last: map[time.Time]time.Duration{}, n: map[time.Time]int{}}
	start, stop := schedulesEverytick(b, pool, n, s.note)
	if c.name == native.name {
		start, stop = schedulesNative(b, pool, n, s.note)
	}
	require.NoError(b, start(b.Context()))
	waitFor(b, 2*scheduleInstants*scheduleEvery, "all schedules start", func() bool { return len(s.complete(n)) >= scheduleInstants })
	require.NoError(b, stop(context.WithoutCancel(b.Context())))
	return metrics{"max-ms": milliseconds(quantile(s.complete(n), 0.5))}
}

func scheduleName(i int) string { return fmt.Sprintf("bench.schedule-%05d", i) }

func schedulesEverytick(b *testing.B, pool *pgxpool.Pool, n int, note func()) (start, stop func(context.Context) error) {
	b.Helper()
	s, err := river.New(pool, &river.Config{Logger: logger})
	require.NoError(b, err)
	for i := range n {
		require.NoError(b, s.RegisterInterval(scheduleName(i), scheduleEvery, func(context.Context, *jobs.Job) error {
			note()
			return nil
		}))
	}
	return s.Start, s.Shutdown
}

// onInstants is a [riverqueue.PeriodicSchedule] whose times are multiples of the interval.
type onInstants time.Duration

func (o onInstants) Next(t time.Time) time.Time {
	return t.Truncate(time.Duration(o)).Add(time.Duration(o))
}

func schedulesNative(b *testing.B, pool *pgxpool.Pool, n int, note func()) (start, stop func(context.Context) error) {
	b.Helper()
	worker := riverqueue.WorkFunc(func(context.Context, *riverqueue.Job[args]) error {
		note()
		return nil
	})
	cfg := &riverqueue.Config{
		Logger: logger, Schema: river.DefaultSchema, Workers: riverqueue.NewWorkers(),
		Queues: map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 100}},
	}
	for i := range n {
		job := args{kind: scheduleName(i)}
		riverqueue.AddWorkerArgs(cfg.Workers, job, worker)
		cfg.PeriodicJobs = append(cfg.PeriodicJobs, riverqueue.NewPeriodicJob(onInstants(scheduleEvery),
			func() (riverqueue.JobArgs, *riverqueue.InsertOpts) { return job, nil }, nil))
	}
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), cfg)
	require.NoError(b, err)
	return client.Start, client.Stop
}

// BenchmarkCluster measures how many queries per second, nearly all of them transactions, a cluster of 20 processes
// sends at 100 triggers per second, compared with a cluster of 2.
func BenchmarkCluster(b *testing.B) {
	srv := newServer(b)
	db := srv.database(b, typed)
	var ratios []float64
	for b.Loop() {
		for range 3 {
			two, twenty := cluster(b, db, 2), cluster(b, db, 20)
			b.ReportMetric(two, "queries/s-of-2")
			b.ReportMetric(twenty, "queries/s-of-20")
			ratios = append(ratios, twenty/two)
		}
	}
	report(b, "20-over-2", none, quantile(ratios, 0.5), atMost(2.5))
}

// cluster returns the queries per second of a cluster.
func cluster(b *testing.B, db *database, processes int) float64 {
	b.Helper()
	db.reset(b)
	during := scaled(15 * time.Second)
	w := newStopwatch(int(during.Seconds()*100) + 1)
	var queues []queue
	var sentQueries queryCounter
	for range processes {
		// Two connections, in addition to the scheduler's own.
		pool := db.pool(b, 2, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = &sentQueries })
		defer pool.Close()
		q := openTyped(b, pool, settings{}, w.work)
		require.NoError(b, q.start(b.Context()))
		queues = append(queues, q)
	}
	wait(8 * time.Second) // for elections and startup work
	before := sentQueries.n.Load()
	begin := time.Now()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	sent := 0
	for time.Since(begin) < during && sent < len(w.due) {
		<-ticker.C
		w.expect(sent, time.Now())
		require.NoError(b, queues[sent%2].insert(b.Context(), sent, time.Time{}))
		sent++
	}
	perSecond := float64(sentQueries.n.Load()-before) / time.Since(begin).Seconds()
	waitFor(b, time.Minute, "all jobs start", func() bool { return w.started.Load() == int64(sent) })
	for _, q := range queues {
		require.NoError(b, q.stop(context.WithoutCancel(b.Context())))
	}
	return perSecond
}
