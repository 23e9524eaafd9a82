//go:build unix

package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkTrigger compares River's Insert with Trigger. Each caller triggers one job after the other.
func BenchmarkTrigger(b *testing.B) {
	srv := newServer(b)
	for _, bench := range []struct {
		callers   int
		rate, p99 target
	}{
		{1, ratioAtLeast(1.25), noTarget},
		{16, ratioAtLeast(3.5), noTarget},
		{50, ratioAtLeast(6), ratioAtMost(0.3)},
	} {
		b.Run(fmt.Sprintf("callers=%d", bench.callers), func(b *testing.B) {
			river, everytick := alternate(b, srv, 5, func(db *database, c contender) metrics {
				return insertion(b, db, c, bench.callers, scaled(1500*time.Millisecond))
			})
			report(b, "jobs/s", river["jobs/s"], everytick["jobs/s"], bench.rate)
			report(b, "p50-ms", river["p50-ms"], everytick["p50-ms"], noTarget)
			report(b, "p99-ms", river["p99-ms"], everytick["p99-ms"], bench.p99)
		})
	}
}

// insertion measures concurrent callers.
func insertion(b *testing.B, db *database, c contender, callers int, during time.Duration) metrics {
	b.Helper()
	db.reset(b)
	pool := db.pool(b, 50)
	defer pool.Close()
	q := c.open(b, pool, settings{}, func(int) {})

	latencies := make([][]time.Duration, callers)
	call := func(during time.Duration) time.Duration {
		var number atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for i := range callers {
			latencies[i] = nil
			wg.Go(func() {
				for time.Since(start) < during {
					before := time.Now()
					if err := q.insert(b.Context(), int(number.Add(1)), time.Time{}); err != nil {
						b.Error(err)
						return
					}
					latencies[i] = append(latencies[i], time.Since(before))
				}
			})
		}
		wg.Wait()
		return time.Since(start)
	}
	call(100 * time.Millisecond) // opens the connections
	before := db.count(b, "true")
	took := call(during)

	var all []time.Duration
	for _, l := range latencies {
		all = append(all, l...)
	}
	require.Equal(b, len(all), db.count(b, "true")-before, "jobs are lost")
	return metrics{
		"jobs/s": float64(len(all)) / took.Seconds(),
		"p50-ms": milliseconds(quantile(all, 0.5)),
		"p99-ms": milliseconds(quantile(all, 0.99)),
	}
}

// BenchmarkTriggerMany inserts 100,000 jobs and returns their IDs: River's InsertMany in batches of 10,000, compared
// with one TriggerMany, which inserts all or none.
func BenchmarkTriggerMany(b *testing.B) {
	many(b, contender{native.name, openNative}, contender{typed.name, openTyped})
}

// BenchmarkTriggerBulk inserts as many by COPY, without returning IDs: InsertManyFast in batches of 10,000, compared
// with one TriggerBulk.
func BenchmarkTriggerBulk(b *testing.B) {
	many(b, contender{native.name, openFast}, contender{typed.name, openBulk})
}

func many(b *testing.B, river, everytick contender) {
	b.Helper()
	all := inTurns(b, newServer(b), 5, []contender{river, everytick}, func(db *database, c contender) metrics {
		return metrics{"jobs/s": insertionMany(b, db, scaled(100_000), c.open)}
	})
	report(b, "jobs/s", all[0]["jobs/s"], all[1]["jobs/s"], ratioAtLeast(0.97))
}

// insertionMany stores n jobs and returns the rate in jobs per second.
func insertionMany(b *testing.B, db *database, n int, open opener) float64 {
	b.Helper()
	pool := db.pool(b, poolConns)
	defer pool.Close()
	q := open(b, pool, settings{}, func(int) {})
	require.NoError(b, q.insertMany(b.Context(), 0, 10, time.Time{})) // opens a connection
	db.reset(b)
	start := time.Now()
	require.NoError(b, q.insertMany(b.Context(), 0, n, time.Time{}))
	took := time.Since(start)
	require.Equal(b, n, db.count(b, "true"), "jobs are lost")
	return float64(n) / took.Seconds()
}
