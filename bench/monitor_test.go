//go:build unix

package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// BenchmarkMonitor measures QueueSize, Health and Jobs on big tables that were just vacuumed and analyzed, as medians
// of 20 calls. River has no such calls, so QueueSize is compared with a count(*) that uses only River's indexes.
func BenchmarkMonitor(b *testing.B) {
	srv := newServer(b)
	oneName := "'" + kind + "'"
	hundredNames := fmt.Sprintf("'%s-' || i %% 100", kind)

	// 100,000 jobs wait among 900,000 completed ones of the same name.
	b.Run("QueueSize/one-name", func(b *testing.B) {
		db := srv.database(b, typed)
		db.fill(b, scaled(1_000_000), oneName, "CASE WHEN i % 10 = 9 THEN 'available' ELSE 'completed' END")
		queueSize(b, db, 1, atMost(8))
	})
	// 1,000 jobs of each of 100 names wait among 1,000,000 rows.
	b.Run("QueueSize/100-names", func(b *testing.B) {
		db := srv.database(b, typed)
		db.fill(b, scaled(1_000_000), hundredNames, "CASE WHEN i / 100 % 10 = 9 THEN 'available' ELSE 'completed' END")
		queueSize(b, db, 100, atMost(1))
	})
	for _, bench := range []struct {
		name, kind, state string
		kinds             int
	}{
		{"waiting", oneName, available, 1},
		{"completed", oneName, "'completed'", 1},
		{"spread", hundredNames, "(enum_range(NULL::river.river_job_state))[1 + i / 100 % 8]", 100},
	} {
		b.Run("Health/"+bench.name, func(b *testing.B) {
			db := srv.database(b, typed)
			db.fill(b, scaled(2_000_000), bench.kind, bench.state)
			s := monitored(b, db, bench.kinds)
			var health, all float64
			for b.Loop() {
				health = callTime(b, func(ctx context.Context) error {
					h, err := s.Health(ctx)
					require.Equal(b, []jobs.Reason{{Text: "the scheduler is not started"}}, h.Reasons)
					return err
				})
				all = callTime(b, func(ctx context.Context) error {
					_, err := s.Jobs(ctx)
					return err
				})
			}
			report(b, "Health-ms", none, health, atMost(5))
			report(b, "Jobs-ms", none, all, noTarget)
		})
	}
}

// monitored returns a scheduler with all the names. It is not started, so that waiting jobs keep waiting.
func monitored(b *testing.B, db *database, kinds int) *river.Scheduler {
	b.Helper()
	pool := db.pool(b, poolConns)
	b.Cleanup(pool.Close)
	s, err := river.New(pool, &river.Config{Logger: logger})
	require.NoError(b, err)
	for i := range kinds {
		require.NoError(b, s.RegisterDelayed(kindName(i, kinds), 0, func(context.Context, *jobs.Job) error { return nil }))
	}
	return s
}

// callTime returns the median duration of 20 calls in milliseconds, after one to warm up.
func callTime(b *testing.B, call func(context.Context) error) float64 {
	b.Helper()
	var all []time.Duration
	for range 21 {
		start := time.Now()
		require.NoError(b, call(b.Context()))
		all = append(all, time.Since(start))
	}
	return milliseconds(quantile(all[1:], 0.5))
}

func queueSize(b *testing.B, db *database, kinds int, want target) {
	b.Helper()
	const sql = `SELECT count(*) FROM river.river_job
		WHERE kind = $1 AND state IN ('available', 'scheduled', 'retryable', 'pending')`
	name := kindName(kinds/2, kinds)
	s := monitored(b, db, kinds)
	var exact, got int
	require.NoError(b, db.admin.QueryRow(b.Context(), sql, name).Scan(&exact))
	ours := db.indexes(b, "")

	var size, all, plain float64
	for b.Loop() {
		size = callTime(b, func(ctx context.Context) (err error) {
			got, err = s.QueueSize(ctx, name)
			return err
		})
		require.Equal(b, exact, got)
		all = callTime(b, func(ctx context.Context) error {
			_, err := s.Jobs(ctx)
			return err
		})
		db.riversIndexes(b)
		plain = callTime(b, func(ctx context.Context) error {
			return db.admin.QueryRow(ctx, sql, name).Scan(&got)
		})
		db.dropIndexes(b, "")
		for _, definition := range ours {
			db.exec(b, definition)
		}
	}
	report(b, "QueueSize-ms", plain, size, want)
	report(b, "Jobs-ms", none, all, noTarget)
}
