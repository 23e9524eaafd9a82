//go:build unix

package faults_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// callerPatience is how long a caller of Trigger waits at most, whatever happens to the database.
const callerPatience = 10 * time.Second

// callers trigger a job again and again, and remember what was acknowledged.
type callers struct {
	scheduler *river.Scheduler
	stop      context.CancelFunc
	done      sync.WaitGroup

	mu      sync.Mutex
	acked   []int64
	refused int
	longest time.Duration // that a caller waited
	last    time.Time     // of the latest acknowledgement
}

// triggered is the name of the job that callers trigger. Its handler records the run.
const triggered = "caller.job"

// newCallers starts n callers. With work, the job runs in this process too.
func newCallers(t testing.TB, url string, n int, work bool) *callers {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.MaxConns = 30
	cfg.PingTimeout = time.Second
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	c := &callers{}
	c.scheduler, err = river.New(pool, &river.Config{Logger: slog.New(slog.DiscardHandler), DeadAfter: deadAfter})
	require.NoError(t, err)
	require.NoError(t, c.scheduler.RegisterDelayed(triggered, 0, func(ctx context.Context, run *jobs.Job) error {
		_, err := run.DB.Exec(ctx, `INSERT INTO triggered (job, attempt) VALUES ($1, $2)`, run.ID, run.Attempt)
		return err
	}, jobs.RetryDelay(100*time.Millisecond), jobs.MaxRetries(1000)))
	if work {
		require.NoError(t, c.scheduler.Start(t.Context()))
		t.Cleanup(func() { shutdown(t, c.scheduler) })
	}
	ctx, stop := context.WithCancel(t.Context())
	c.stop = stop
	for range n {
		c.done.Go(func() {
			for ctx.Err() == nil {
				c.trigger(ctx)
			}
		})
	}
	t.Cleanup(c.finish)
	return c
}

// trigger triggers once. Callers are not limited by a context of their own.
func (c *callers) trigger(ctx context.Context) {
	began := time.Now()
	id, err := c.scheduler.Trigger(context.WithoutCancel(ctx), triggered, nil)
	number, _ := strconv.ParseInt(id, 10, 64)
	c.mu.Lock()
	c.longest = max(c.longest, time.Since(began))
	if err == nil {
		c.acked, c.last = append(c.acked, number), time.Now()
	} else {
		c.refused++
	}
	c.mu.Unlock()
	if err != nil { // as a client that tries again
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// awaitAck waits until a trigger that began after an instant may have been acknowledged.
func (c *callers) awaitAck(t testing.TB, after time.Time) time.Duration {
	t.Helper()
	var took time.Duration
	until(t, time.Minute, "a trigger is acknowledged again", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		took = c.last.Sub(after)
		return took > 0
	})
	return took
}

// finish stops the callers and waits for them.
func (c *callers) finish() {
	c.stop()
	c.done.Wait()
}

// lost returns how many acknowledged jobs have no row.
func (c *callers) lost(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return scalar[int](t, pool, `SELECT count(*) FROM unnest($1::bigint[]) AS acked (id)
		WHERE NOT EXISTS (SELECT FROM river.river_job WHERE river_job.id = acked.id AND kind = $2)`, c.acked, triggered)
}

// killServer kills all processes of a server at once, as the kernel does when memory runs out. The server's own
// postmaster is stopped first, so that it cannot end the others in an orderly way.
func killServer(t testing.TB, s *server) {
	t.Helper()
	postmaster := s.PID()
	require.NotZero(t, postmaster)
	require.NoError(t, syscall.Kill(postmaster, syscall.SIGSTOP))
	victims := append(childrenOf(t, postmaster), postmaster)
	for _, pid := range victims {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have exited
	}
	until(t, 30*time.Second, "the postmaster is gone", func() bool { return s.PID() == 0 })
}

// childrenOf returns the children of a process, from /proc.
func childrenOf(t testing.TB, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has exited
		}
		// "pid (name) state ppid …"; the name may have spaces.
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	require.NotEmpty(t, pids, "this test needs /proc")
	return pids
}
