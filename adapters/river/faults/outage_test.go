//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// ended counts the runs that have returned nil, by job.
type ended struct {
	mu   sync.Mutex
	runs map[string]int
}

func (e *ended) handle(ctx context.Context, run *jobs.Job) error {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.runs[run.ID]++
	return nil
}

func (e *ended) count() (jobs, repeated int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.runs {
		if n > 1 {
			repeated++
		}
	}
	return len(e.runs), repeated
}

// While the database is away, results stay in the memory of their processes. However long that takes, no run that
// returned nil runs again or fails, though its timeout has long passed: each process is alive.
func TestOutage_RunsStayEnded(t *testing.T) {
	t.Parallel()
	if provider == native {
		t.Skip("does not apply to native jobs")
	}
	lengths := []time.Duration{time.Second, 10 * time.Second}
	if *faultsFlag {
		lengths = append(lengths, time.Minute, 6*time.Minute)
	}
	for _, length := range lengths {
		t.Run(length.String(), func(t *testing.T) {
			t.Parallel()
			endRunsDuringOutage(t, length)
		})
	}
}

func endRunsDuringOutage(t *testing.T, length time.Duration) {
	c := newCluster(t, newServer(t), false)
	// Each process looks for jobs to rescue every 10 s. Their starts are spread, so that one of them looks soon after
	// the outage, before all results are stored.
	const processes, perSecond, apart = 6, 200, 1500 * time.Millisecond
	all := &ended{runs: map[string]int{}}
	var schedulers []*river.Scheduler
	for range processes {
		url, err := c.server.urlOf(c.database, nil)
		require.NoError(t, err)
		cfg, err := pgxpool.ParseConfig(url)
		require.NoError(t, err)
		cfg.MaxConns, cfg.PingTimeout = 4, time.Second
		pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		s, err := river.New(pool, &river.Config{Logger: quiet, DeadAfter: deadAfter})
		require.NoError(t, err)
		short := []jobs.Option{jobs.Timeout(3 * time.Second), jobs.RetryDelay(time.Second)}
		require.NoError(t, s.RegisterDelayed("jobs.once", 0, all.handle, append(short, jobs.MaxRetries(0))...))
		require.NoError(t, s.RegisterDelayed("jobs.again", 0, all.handle, short...))
		require.NoError(t, s.Start(t.Context()))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			require.NoError(t, s.Shutdown(ctx))
		})
		schedulers = append(schedulers, s)
		pass(t, apart)
	}

	loadCtx, stop := context.WithCancel(t.Context())
	var triggered atomic.Int32
	var load sync.WaitGroup
	for i, s := range schedulers {
		load.Go(func() {
			for n := 0; loadCtx.Err() == nil; n++ {
				name := []string{"jobs.once", "jobs.again"}[(n+i)%2]
				ctx, cancel := context.WithTimeout(loadCtx, time.Second)
				ids, err := s.TriggerMany(ctx, name, make([]any, perSecond/10/processes+1))
				cancel()
				if err == nil {
					triggered.Add(int32(len(ids)))
				}
				pass(t, time.Second/10)
			}
		})
	}
	pass(t, 3*time.Second)
	require.NoError(t, c.server.Kill())
	pass(t, length)
	require.NoError(t, c.server.Restart(t.Context()))
	pass(t, 3*time.Second)
	stop()
	load.Wait()

	states := func() map[string]int {
		rows, err := c.pool.Query(t.Context(), `SELECT kind || ' ' || state || ' ' || attempt, count(*) FROM river.river_job GROUP BY 1`)
		require.NoError(t, err)
		found := map[string]int{}
		var key string
		var n int
		_, err = pgx.ForEachRow(rows, []any{&key, &n}, func() error {
			found[key] = n
			return nil
		})
		require.NoError(t, err)
		return found
	}
	// A job whose fetch was lost on its way is given back after half a minute.
	until(t, 2*time.Minute, "all jobs have ended", func() bool {
		return scalar[int](t, c.pool, `SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL`) == 0
	})
	ran, repeated := all.count()
	t.Logf("database away for %s: %d jobs triggered, %d ran, %d twice; %v", length, triggered.Load(), ran, repeated, states())
	require.Zero(t, repeated, "no run that returned nil runs again")
	require.GreaterOrEqual(t, ran, int(triggered.Load()))
	for state, n := range states() {
		var kind, end string
		var attempt int
		_, err := fmt.Sscan(state, &kind, &end, &attempt)
		require.NoError(t, err)
		require.Equal(t, "completed 1", fmt.Sprint(end, " ", attempt), "%d of %s", n, kind)
		ran -= n
	}
	require.Zero(t, ran, "each job that ran is stored once")
	require.NotZero(t, triggered.Load())
}
