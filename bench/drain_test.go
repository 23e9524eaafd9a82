//go:build unix

package bench

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// BenchmarkDrain measures how fast waiting no-op jobs are completed, from Start until the last one is completed in the
// database. River gets a tenth of the jobs with its defaults, which are slow.
func BenchmarkDrain(b *testing.B) {
	srv := newServer(b)
	b.Run("defaults", func(b *testing.B) {
		river, everytick := alternate(b, srv, 5, func(db *database, c contender) metrics {
			n := scaled(50_000)
			if c.name == native.name {
				n = scaled(5_000)
			}
			return drained(b, db, c, settings{}, n)
		})
		report(b, "jobs/s", river["jobs/s"], everytick["jobs/s"], ratioAtLeast(9))
	})
	b.Run("equal", func(b *testing.B) { // 2,000 workers, 5 ms between fetches
		river, everytick := alternate(b, srv, 7, func(db *database, c contender) metrics {
			return drained(b, db, c, equal, scaled(100_000))
		})
		report(b, "jobs/s", river["jobs/s"], everytick["jobs/s"], ratioAtLeast(0.9))
	})
}

// drained measures one process that completes n jobs.
func drained(b *testing.B, db *database, c contender, set settings, n int) metrics {
	b.Helper()
	db.reset(b)
	db.fill(b, n, "'"+kind+"'", available)
	pool := db.pool(b, poolConns)
	defer pool.Close()
	return metrics{"jobs/s": drain(b, db, c, set, []*pgxpool.Pool{pool}, n, time.Hour).perSecond()}
}

// drainage is the result of a drain.
type drainage struct {
	completed int
	took      time.Duration // from Start
	working   time.Duration // from the first job
}

func (d drainage) perSecond() float64 { return float64(d.completed) / d.took.Seconds() }

// drain starts a process on each pool and stops them when n jobs are completed or the limit is reached.
func drain(b *testing.B, db *database, c contender, set settings, pools []*pgxpool.Pool, n int, limit time.Duration) (d drainage) {
	b.Helper()
	var handled, first atomic.Int64
	waiting := db.count(b, "state = 'available'")
	var queues []queue
	for _, pool := range pools {
		queues = append(queues, c.open(b, pool, set, func(int) {
			if handled.Add(1) == 1 {
				first.Store(time.Now().UnixNano())
			}
		}))
	}
	start := time.Now()
	for _, q := range queues {
		require.NoError(b, q.start(b.Context()))
	}
	for ; ; wait(2 * time.Millisecond) {
		d.took = time.Since(start)
		if handled.Load() < int64(n) && d.took < limit {
			continue
		}
		d.working = time.Since(time.Unix(0, first.Load()))
		d.completed = db.count(b, "state = 'completed' AND attempted_by IS NOT NULL")
		if d.completed >= n || d.took >= limit {
			break
		}
	}
	for _, q := range queues {
		require.NoError(b, q.stop(context.WithoutCancel(b.Context())))
	}
	completed := db.count(b, "state = 'completed' AND attempted_by IS NOT NULL")
	require.EqualValues(b, handled.Load(), completed, "each job is run once")
	require.Equal(b, waiting, completed+db.count(b, "state = 'available'"), "jobs are lost")
	return d
}

// BenchmarkKinds compares River's static args with the two ways to define a job: by type (jobs.Kind), and by name with
// arbitrary data (RegisterDelayed, Trigger) that the handler decodes into a map.
func BenchmarkKinds(b *testing.B) {
	srv := newServer(b)
	b.Run("insert", func(b *testing.B) { // by 16 callers
		kinds(b, srv, 3, func(db *database, c contender) metrics {
			return insertion(b, db, c, 16, scaled(1500*time.Millisecond))
		})
	})
	b.Run("drain", func(b *testing.B) { // with equal settings
		kinds(b, srv, 7, func(db *database, c contender) metrics {
			return drained(b, db, c, equal, scaled(100_000))
		})
	})
}

// kinds measures all three in turns.
func kinds(b *testing.B, srv *server, rounds int, measure func(db *database, c contender) metrics) {
	b.Helper()
	all := inTurns(b, srv, rounds, []contender{native, typed, dynamic}, measure)
	report(b, "typed-jobs/s", all[0]["jobs/s"], all[1]["jobs/s"], ratioAtLeast(0.9))
	report(b, "dynamic-jobs/s", all[0]["jobs/s"], all[2]["jobs/s"], ratioAtLeast(0.9))
}
