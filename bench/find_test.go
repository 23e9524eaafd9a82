//go:build unix

package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// BenchmarkFind measures pages of FindRuns and counts of CountRetryable on a table that was just vacuumed and analyzed,
// as medians of 20 calls. Of its rows, spread over 106 jobs, 1 in 101 has failed for good and 1 in 4 waits.
func BenchmarkFind(b *testing.B) {
	const kinds = 106
	db := newServer(b).database(b, typed)
	db.fill(b, scaled(1_000_000), fmt.Sprintf("'%s-' || i %% %d", kind, kinds),
		"CASE WHEN i % 101 = 0 THEN 'discarded' WHEN i % 4 = 1 THEN 'available' ELSE 'completed' END")
	s := monitored(b, db, kinds)
	failed := []jobs.State{jobs.StateFailed}
	var last time.Time
	require.NoError(b, db.admin.QueryRow(b.Context(), `SELECT max(finalized_at) FROM river.river_job`).Scan(&last))
	for _, bench := range []struct {
		name  string
		q     jobs.RunQuery
		count bool
	}{
		{"all", jobs.RunQuery{}, false},
		{"waiting", jobs.RunQuery{States: []jobs.State{jobs.StateWaiting}}, false},
		{"failed", jobs.RunQuery{States: failed}, true},
		{"failed-lately", jobs.RunQuery{States: failed, Since: last.Add(-time.Minute)}, true},
		{"one-job", jobs.RunQuery{Names: []string{kindName(7, kinds)}}, false},
		{"one-job-failed", jobs.RunQuery{Names: []string{kindName(7, kinds)}, States: failed}, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var first, second, count float64
			for b.Loop() {
				q := bench.q
				page, err := s.FindRuns(b.Context(), q)
				require.NoError(b, err)
				require.NotEmpty(b, page.Runs)
				find := func(ctx context.Context) error {
					_, err := s.FindRuns(ctx, q)
					return err
				}
				first = callTime(b, find)
				q.After = page.Next
				second = callTime(b, find)
				count = callTime(b, func(ctx context.Context) error {
					_, err := s.CountRetryable(ctx, bench.q)
					return err
				})
			}
			report(b, "page-ms", none, first, noTarget)
			report(b, "next-ms", none, second, noTarget)
			if bench.count {
				report(b, "count-ms", none, count, noTarget)
			}
		})
	}
}

// BenchmarkRetryMany retries 5,000 failed runs: with RetryMany, and with River's JobRetryTx for each, 500 in a
// transaction.
func BenchmarkRetryMany(b *testing.B) {
	n := scaled(5000)
	db := newServer(b).database(b, typed)
	s := monitored(b, db, 1)
	refill := func() {
		db.exec(b, "TRUNCATE river.river_job")
		db.fill(b, n, "'"+kind+"'", "'discarded'")
	}
	var theirs, ours float64
	for b.Loop() {
		refill()
		start := time.Now()
		got, err := s.RetryMany(b.Context(), jobs.RunQuery{})
		ours = milliseconds(time.Since(start))
		require.NoError(b, err)
		require.Equal(b, n, got)

		refill()
		var ids []int64
		require.NoError(b, db.admin.QueryRow(b.Context(), `SELECT array_agg(id) FROM river.river_job`).Scan(&ids))
		start = time.Now()
		for len(ids) > 0 {
			batch := ids[:min(500, len(ids))]
			ids = ids[len(batch):]
			require.NoError(b, pgx.BeginFunc(b.Context(), db.admin, func(tx pgx.Tx) error {
				for _, id := range batch {
					if _, err := s.Client().JobRetryTx(b.Context(), tx, id); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		theirs = milliseconds(time.Since(start))
	}
	report(b, "retry-ms", theirs, ours, noTarget)
}
