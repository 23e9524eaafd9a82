//go:build unix

package faults_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The server is killed again and again under 50 callers. Each ID that a caller was given has its row, no job has run
// without one, and no tick is lost or doubled.
func TestCrash(t *testing.T) {
	t.Parallel()
	skipNative(t)
	kills := *crashFlag
	s := newServer(t)
	c := newCluster(t, s, false)
	schedule := job{Name: "tick.2s", Every: 2 * time.Second, All: true}
	c.launch([]job{schedule})
	url, err := s.urlOf(c.database, nil)
	require.NoError(t, err)
	from := c.now()
	calls := newCallers(t, url, 50, true)
	calls.awaitAck(t, time.Now())
	var slowest time.Duration
	for range kills {
		pass(t, time.Duration(200+rand.IntN(1500))*time.Millisecond) //nolint:gosec // not a secret
		killServer(t, s)
		require.NoError(t, s.Restart(t.Context()))
		slowest = max(slowest, calls.awaitAck(t, time.Now()))
	}
	calls.finish()
	to := c.now()
	c.settle(to)
	o := c.measure(schedule, from, to)
	lost := calls.lost(t, c.pool)
	orphans := scalar[int](t, c.pool, `SELECT count(*) FROM (SELECT job FROM runs UNION ALL SELECT job FROM triggered) AS ran
		WHERE NOT EXISTS (SELECT FROM river.river_job WHERE id = job)`)
	fmt.Printf("| kills of the server | acknowledged | of these lost | runs without a row | ticks | lost | doubled | "+
		"longest wait of a caller | first acknowledgement after a restart |\n|---|---|---|---|---|---|---|---|---|\n"+
		"| %d | %d | %d | %d | %d | %d | %d | %.1f s | %.1f s |\n", kills, len(calls.acked), lost, orphans,
		o.expected, o.lost, o.doubled, calls.longest.Seconds(), slowest.Seconds())
	require.NotEmpty(t, calls.acked)
	require.Zero(t, lost, "acknowledged jobs without a row")
	require.Zero(t, orphans, "runs without a row")
	require.Zero(t, o.lost, "lost ticks")
	require.Zero(t, o.doubled, "doubled ticks")
	require.Less(t, calls.longest, callerPatience+2*time.Second, "a caller's wait")
	until(t, time.Minute, "all triggered jobs have run", func() bool {
		return scalar[int](t, c.pool, `SELECT count(*) FROM river.river_job WHERE kind = $1 AND finalized_at IS NULL`, triggered) == 0
	})
	twice := scalar[int](t, c.pool, `SELECT count(*) FROM (
		SELECT FROM triggered GROUP BY job, attempt HAVING count(*) > 1) AS twice`)
	require.Zero(t, twice, "attempts that ran twice")
	c.requireNoneDoubled()
}
