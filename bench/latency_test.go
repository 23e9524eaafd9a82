//go:build unix

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// BenchmarkLatency measures the time from the call that triggers a job to the start of its handler, or for scheduled
// jobs from when they are due, with the defaults of both.
//
// Callers and workers share one client and one pool. In "apart", a second client with its own pool does the
// triggering.
func BenchmarkLatency(b *testing.B) {
	srv := newServer(b)
	for _, where := range []struct {
		suffix string
		apart  bool
	}{{"", false}, {"-apart", true}} {
		samples, during := scaled(200), scaled(5*time.Second)
		if where.apart {
			samples, during = scaled(50), scaled(3*time.Second)
		}
		// One job at a time, each 300 to 700 ms after the previous one, which exceeds every cooldown.
		b.Run("idle"+where.suffix, func(b *testing.B) {
			river, everytick := spaced(b, srv, samples, where.apart, false)
			report(b, "p50-ms", river["p50-ms"], everytick["p50-ms"], ratioAtMost(1.05))
			report(b, "p99-ms", river["p99-ms"], everytick["p99-ms"], ratioAtMost(0.2))
		})
		// The second of two jobs triggered 50 ms apart.
		b.Run("second-job"+where.suffix, func(b *testing.B) {
			river, everytick := spaced(b, srv, max(1, samples*3/10), where.apart, true)
			report(b, "p50-ms", river["p50-ms"], everytick["p50-ms"], ratioAtMost(0.02))
			report(b, "p99-ms", river["p99-ms"], everytick["p99-ms"], noTarget)
			report(b, "max-ms", river["max-ms"], everytick["max-ms"], noTarget)
		})
		// Random arrivals at a fixed average rate, regardless of how many jobs wait, into a table that was never
		// analyzed.
		for _, rate := range []struct {
			perSecond int
			p50, p99  target
		}{{300, noTarget, noTarget}, {1000, ratioAtMost(0.15), noTarget}} {
			b.Run(fmt.Sprintf("rate=%d", rate.perSecond)+where.suffix, func(b *testing.B) {
				river, everytick := alternate(b, srv, 1, func(db *database, c contender) metrics {
					return arrivals(b, db, c, rate.perSecond, during, where.apart)
				})
				report(b, "p50-ms", river["p50-ms"], everytick["p50-ms"], rate.p50)
				report(b, "p99-ms", river["p99-ms"], everytick["p99-ms"], rate.p99)
			})
		}
	}
	// One job at a time, due in 1 s.
	b.Run("delayed", func(b *testing.B) {
		river, everytick := delayed(b, srv, scaled(30*time.Second))
		report(b, "late-p50-ms", river["p50-ms"], everytick["p50-ms"], ratioAtMost(0.01))
		report(b, "late-p95-ms", river["p95-ms"], everytick["p95-ms"], noTarget)
	})
	// 10,000 jobs due at one instant, which is this long after they are stored.
	for _, ahead := range []time.Duration{3 * time.Second, 8 * time.Second} {
		b.Run(fmt.Sprintf("due-at-once-in-%s", ahead), func(b *testing.B) {
			river, everytick := alternate(b, srv, 1, func(db *database, c contender) metrics {
				return dueAtOnce(b, db, c, scaled(10_000), ahead)
			})
			report(b, "late-p50-ms", river["p50-ms"], everytick["p50-ms"], noTarget)
			report(b, "late-max-ms", river["max-ms"], everytick["max-ms"], ratioAtMost(0.15))
		})
	}
}

// BenchmarkSustained measures the same latency while one process with the defaults both stores and runs jobs at a high
// rate. The rate is sustained if p99 is much shorter than the measurement: otherwise a backlog has built up.
func BenchmarkSustained(b *testing.B) {
	srv := newServer(b)
	for _, perSecond := range []int{2000, 4000, 6000, 8000} {
		b.Run(fmt.Sprintf("rate=%d", perSecond), func(b *testing.B) {
			figures := inTurns(b, srv, 1, []contender{typed}, func(db *database, c contender) metrics {
				return arrivals(b, db, c, perSecond, scaled(10*time.Second), false)
			})
			report(b, "p50-ms", none, figures[0]["p50-ms"], noTarget)
			report(b, "p99-ms", none, figures[0]["p99-ms"], noTarget)
		})
	}
}

// process is a process that measures when its handlers start.
type process struct {
	*stopwatch
	db      *database
	enqueue queue
	work    queue
	pools   []*pgxpool.Pool
	sent    int
}

// newProcess starts a process for up to n jobs and waits until it is idle.
func newProcess(b *testing.B, db *database, c contender, n int, apart bool) *process {
	b.Helper()
	const settling = 20
	db.reset(b)
	// The table must stay without statistics during the measurement.
	db.exec(b, "ALTER TABLE river.river_job SET (autovacuum_enabled = false)")
	p := &process{stopwatch: newStopwatch(n + settling), db: db, pools: []*pgxpool.Pool{db.pool(b, poolConns)}}
	p.work = c.open(b, p.pools[0], settings{}, p.stopwatch.work)
	p.enqueue = p.work
	if apart {
		p.pools = append(p.pools, db.pool(b, poolConns))
		p.enqueue = c.open(b, p.pools[1], settings{enqueueOnly: true}, nil)
	}
	require.NoError(b, p.work.start(b.Context()))
	var wg sync.WaitGroup
	for range settling { // to open the connections
		n := p.take(time.Now())
		wg.Go(func() { p.send(b, n, time.Time{}) })
	}
	wg.Wait()
	p.await(b)
	wait(500 * time.Millisecond)
	return p
}

// take returns the number of the next job, whose lateness counts from due.
func (p *process) take(due time.Time) int {
	n := p.sent
	p.sent++
	p.expect(n, due)
	return n
}

// send enqueues job n.
func (p *process) send(b *testing.B, n int, at time.Time) {
	b.Helper()
	if err := p.enqueue.insert(b.Context(), n, at); err != nil {
		b.Error(err)
	}
}

// await waits until all enqueued jobs have started.
func (p *process) await(b *testing.B) {
	b.Helper()
	waitFor(b, time.Minute, "all jobs start", func() bool { return p.started.Load() == int64(p.sent) })
}

// finish waits for all jobs, stops the process, and returns the lateness of the jobs with these numbers.
func (p *process) finish(b *testing.B, numbers []int) metrics {
	b.Helper()
	p.await(b)
	waitFor(b, time.Minute, "all jobs are completed", func() bool {
		return p.db.count(b, "state = 'completed'") == p.sent
	})
	require.NoError(b, p.work.stop(context.WithoutCancel(b.Context())))
	for _, pool := range p.pools {
		pool.Close()
	}
	require.Equal(b, p.sent, p.db.count(b, "true"), "jobs are lost")
	var all []time.Duration
	for _, n := range numbers {
		all = append(all, p.lateness(n))
	}
	return metrics{
		"p50-ms": milliseconds(quantile(all, 0.5)),
		"p95-ms": milliseconds(quantile(all, 0.95)),
		"p99-ms": milliseconds(quantile(all, 0.99)),
		"max-ms": milliseconds(quantile(all, 1)),
	}
}

// both starts a process of River and one of everytick, each with its own database.
func both(b *testing.B, srv *server, n int, apart bool) [2]*process {
	b.Helper()
	return [2]*process{newProcess(b, srv.database(b, native), native, n, apart), newProcess(b, srv.database(b, typed), typed, n, apart)}
}

// spaced sends jobs to both in turns, so that other load on the machine affects both alike.
func spaced(b *testing.B, srv *server, samples int, apart, second bool) (river, everytick metrics) {
	b.Helper()
	for b.Loop() {
		procs := both(b, srv, 2*samples, apart)
		var numbers [2][]int
		for i := range 2 * samples {
			wait(150*time.Millisecond + rand.N(200*time.Millisecond))
			p := procs[i%2]
			if second {
				now := time.Now()
				p.send(b, p.take(now), time.Time{})
				wait(time.Until(now.Add(50 * time.Millisecond)))
			}
			n := p.take(time.Now())
			p.send(b, n, time.Time{})
			numbers[i%2] = append(numbers[i%2], n)
		}
		river, everytick = procs[0].finish(b, numbers[0]), procs[1].finish(b, numbers[1])
	}
	return river, everytick
}

// arrivals sends jobs at the times of a Poisson process, each from its own goroutine, and counts lateness from the
// time at which each should have been sent.
func arrivals(b *testing.B, db *database, c contender, perSecond int, during time.Duration, apart bool) metrics {
	b.Helper()
	p := newProcess(b, db, c, 2*int(during.Seconds()*float64(perSecond))+100, apart)
	random := rand.New(rand.NewPCG(1, 2)) // the same arrivals for both
	var wg sync.WaitGroup
	var numbers []int
	start := time.Now()
	for after := time.Duration(0); after < during; after += time.Duration(random.ExpFloat64() / float64(perSecond) * float64(time.Second)) {
		due := start.Add(after)
		if ahead := time.Until(due); ahead > 0 {
			wait(ahead)
		}
		n := p.take(due)
		numbers = append(numbers, n)
		wg.Go(func() { p.send(b, n, time.Time{}) })
	}
	wg.Wait()
	return p.finish(b, numbers)
}

// delayed sends jobs due in one second to both, each when the previous one has started.
func delayed(b *testing.B, srv *server, during time.Duration) (river, everytick metrics) {
	b.Helper()
	for b.Loop() {
		procs := both(b, srv, int(during/time.Second)+10, false)
		var numbers [2][]int
		var wg sync.WaitGroup
		start := time.Now()
		for i, p := range procs {
			wg.Go(func() {
				for ok := true; ok && (len(numbers[i]) == 0 || time.Since(start) < during); {
					wait(rand.N(200 * time.Millisecond)) // to be out of step with polls
					at := time.Now().Add(time.Second)
					n := p.take(at)
					p.send(b, n, at)
					numbers[i] = append(numbers[i], n)
					for p.started.Load() <= int64(n) && ok {
						wait(time.Millisecond)
						ok = time.Since(at) < time.Minute
					}
				}
			})
		}
		wg.Wait()
		river, everytick = procs[0].finish(b, numbers[0]), procs[1].finish(b, numbers[1])
	}
	return river, everytick
}

// dueAtOnce measures n jobs that are due at the same instant.
func dueAtOnce(b *testing.B, db *database, c contender, n int, ahead time.Duration) metrics {
	b.Helper()
	p := newProcess(b, db, c, n, false)
	at := time.Now().Add(ahead)
	var numbers []int
	for range n {
		numbers = append(numbers, p.take(at))
	}
	require.NoError(b, p.enqueue.insertMany(b.Context(), numbers[0], n, at))
	require.True(b, time.Now().Before(at), "stored too late")
	return p.finish(b, numbers)
}
