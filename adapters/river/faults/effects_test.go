//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// A property is a promise about what jobs do to the database. Its check injects faults, and is shorter unless full is
// set.
type property struct {
	name  string
	check func(t *testing.T, full bool) effects
}

// properties are checked by TestEffects, and their results are the rows of its report.
var properties = []property{
	{"SIGKILL at random instants", killAtRandom},
	{"connections cut at commits", cutAtCommits},
	{"frozen during a run, woken while another process runs it", func(t *testing.T, full bool) effects {
		return frozenInHandler(t, full, true)
	}},
	{"frozen during a run, woken after another process has run it", func(t *testing.T, full bool) effects {
		return frozenInHandler(t, full, false)
	}},
	{"frozen before the COMMIT, until after the rescue", frozenAtCommit},
	{"updates with UniqueWaiting and Latest, SIGKILL at random instants", updatesAreApplied},
}

// effects counts what became of the effects of a property.
type effects struct {
	expected      int
	lost, doubled int
	faults        int // that hit something
}

// TestEffects checks that effects of transactional jobs exist exactly once.
func TestEffects(t *testing.T) {
	t.Parallel()
	skipNative(t)
	var mu sync.Mutex
	rows := make([]string, len(properties))
	t.Cleanup(func() {
		if *effectsFlag {
			fmt.Printf("\n| fault | hits | effects expected | lost | doubled |\n|---|---:|---:|---:|---:|\n%s\n", strings.Join(rows, ""))
		}
	})
	for i, p := range properties {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := p.check(t, *effectsFlag)
			mu.Lock()
			defer mu.Unlock()
			rows[i] = fmt.Sprintf("| %s | %d | %d | %d | %d |\n", p.name, e.faults, e.expected, e.lost, e.doubled)
			t.Log(rows[i])
			require.Positive(t, e.expected)
			require.Positive(t, e.faults, "no fault has hit a run")
			require.Zero(t, e.lost, "lost")
			require.Zero(t, e.doubled, "doubled")
		})
	}
}

// afterEffects is the job that each effect triggers, in the transaction.
const afterEffects = "effects.after"

func registerEffects(s *river.Scheduler, pool *pgxpool.Pool, j job) error {
	if err := s.RegisterDelayed(afterEffects, 24*time.Hour, func(context.Context, *jobs.Job) error { return nil }); err != nil {
		return err
	}
	return s.RegisterDelayed(j.Name, 0, func(ctx context.Context, run *jobs.Job) error {
		return j.addEffects(ctx, s, pool, run)
	}, jobs.Transactional(), jobs.Timeout(j.timeout()), jobs.RetryDelay(retryDelay), jobs.MaxRetries(1000))
}

// addEffects is the handler of a transactional job. It records the attempt at once, in the table runs. It writes a row
// and triggers a job in its transaction, and takes up to Hold, at least half of it.
func (j job) addEffects(ctx context.Context, t jobs.Triggerer, pool *pgxpool.Pool, run *jobs.Job) error {
	_, err := pool.Exec(ctx, `INSERT INTO runs (job, name, tick, missed, started, pid, attempt) VALUES ($1::text::bigint, $2, $3, 0, clock_timestamp(), $4, $5)`,
		run.ID, run.Name, run.StartedAt, os.Getpid(), run.Attempt)
	if err != nil {
		return err
	}
	if _, err := run.DB.Exec(ctx, `INSERT INTO effects (job, attempt) VALUES ($1::text::bigint, $2)`, run.ID, run.Attempt); err != nil {
		return err
	}
	if _, err := jobs.TriggerTx(ctx, t, run.Tx, afterEffects, map[string]string{"job": run.ID}); err != nil {
		return err
	}
	select {
	case <-time.After(j.Hold/2 + rand.N(j.Hold/2)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newEffects returns a cluster for a transactional job.
func newEffects(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, sharedServer(t), false)
	c.params = map[string]string{"pool_max_conns": "6"} // four runs at once in a process
	return c
}

// triggerEffects triggers n runs.
func (c *cluster) triggerEffects(j job, n int) {
	c.t.Helper()
	s, err := newScheduler(c.pool, []job{j}, quiet, 0)
	require.NoError(c.t, err)
	_, err = s.TriggerMany(c.t.Context(), j.Name, make([]any, n))
	require.NoError(c.t, err)
}

// live returns how many runs have not ended.
func (c *cluster) live(j job) int {
	c.t.Helper()
	return scalar[int](c.t, c.pool, `SELECT count(*) FROM river.river_job WHERE kind = $1 AND finalized_at IS NULL`, j.Name)
}

// waiting returns how many runs no process has taken.
func (c *cluster) waiting(j job) int {
	c.t.Helper()
	return scalar[int](c.t, c.pool, `SELECT count(*) FROM river.river_job
		WHERE kind = $1 AND finalized_at IS NULL AND state <> 'running'`, j.Name)
}

// measureEffects waits until all runs have ended, and counts their effects: the rows that they wrote, and the jobs that
// they triggered.
func (c *cluster) measureEffects(j job, n int) (e effects) {
	c.t.Helper()
	until(c.t, 3*time.Minute, "all runs have ended", func() bool { return c.live(j) == 0 })
	pass(c.t, time.Second) // for what might still come
	var wrong int
	err := c.pool.QueryRow(c.t.Context(), `
		WITH row AS (SELECT job, count(*) AS n, max(attempt) AS attempt FROM effects GROUP BY job),
		after AS (SELECT (args->>'job')::bigint AS job, count(*) AS n FROM river.river_job WHERE kind = $2 GROUP BY 1)
		SELECT count(*) FILTER (WHERE row.n IS NULL) + count(*) FILTER (WHERE after.n IS NULL),
			coalesce(sum(row.n - 1), 0) + coalesce(sum(after.n - 1), 0),
			count(*) FILTER (WHERE run.state <> 'completed' OR run.attempt <> row.attempt),
			count(*) FILTER (WHERE run.errors IS NOT NULL)
		FROM river.river_job AS run
		LEFT JOIN row ON row.job = run.id LEFT JOIN after ON after.job = run.id WHERE run.kind = $1`, j.Name, afterEffects).
		Scan(&e.lost, &e.doubled, &wrong, &e.faults)
	require.NoError(c.t, err)
	e.expected = 2 * n
	require.Equal(c.t, n, scalar[int](c.t, c.pool, `SELECT count(*) FROM river.river_job WHERE kind = $1`, j.Name))
	require.Zero(c.t, wrong, "runs that did not complete, or whose effect is not of the attempt that completed")
	return e
}

// killAtRandom kills processes at random instants while they work off runs.
func killAtRandom(t *testing.T, full bool) effects {
	n, every := 1000, 700*time.Millisecond
	if full {
		n, every = 10_000, time.Second
	}
	c := newEffects(t)
	j := job{Name: "effects.add", Effects: true, Hold: 10 * time.Millisecond, Timeout: time.Minute}
	c.triggerEffects(j, n)
	for range 3 {
		c.spawn([]job{j}, nil)
	}
	kills := 0
	// What a dead process was running waits until one that lives for deadAfter rescues it, after the last kill.
	for c.waiting(j) > n/50 {
		pass(t, every/2+rand.N(every))
		running := c.living()
		victim := running[rand.N(len(running))]
		select {
		case <-victim.started: // it does something
		default:
			continue
		}
		victim.kill()
		kills++
		c.spawn([]job{j}, nil)
	}
	e := c.measureEffects(j, n)
	t.Logf("%d kills, %d runs lost their process", kills, e.faults)
	return e
}

// cutAtCommits breaks connections at commits, before or after the server gets them.
func cutAtCommits(t *testing.T, full bool) effects {
	n := 100
	if full {
		n = 2000
	}
	c := newEffects(t)
	c.proxied = true
	j := job{Name: "effects.add", Effects: true, Hold: 10 * time.Millisecond, Timeout: time.Minute}
	var hits atomic.Int64
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	var mu sync.Mutex // hooks of all processes share random
	for range 2 {
		c.launch([]job{j}).proxy.setHook(func(at moment) fate {
			if at != committing && at != otherCommit {
				return passes
			}
			mu.Lock()
			defer mu.Unlock()
			f := []fate{passes, passes, passes, cut, answerLost}[random.IntN(5)]
			if f != passes {
				hits.Add(1)
			}
			return f
		})
	}
	c.triggerEffects(j, n)
	e := c.measureEffects(j, n)
	e.faults = int(hits.Load())
	return e
}

// frozenInHandler freezes a process during a run, until the run has been given to another process. It wakes the process
// while the other runs it, or after that has run it. Then the first attempt tries to commit.
func frozenInHandler(t *testing.T, full, during bool) (sum effects) {
	rounds := 1
	if full {
		rounds = 4
	}
	c := newEffects(t)
	j := job{Name: "effects.held", Effects: true, Hold: 4 * time.Second, Timeout: 2 * time.Minute}
	for range 2 {
		c.launch([]job{j})
	}
	for round := range rounds {
		since := c.now()
		c.triggerEffects(j, 1)
		id, _, victim := c.awaitRun(j.Name, since, anyNode)
		victim.freeze()
		c.requireRunAgain(id, c.now())
		if !during {
			until(t, time.Minute, "the other process has completed the run", func() bool { return c.live(j) == 0 })
		}
		victim.thaw()
		until(t, time.Minute, "the first attempt was refused", func() bool {
			return strings.Contains(victim.readLog(t), "run ended after its job was given to another process: its transaction is rolled back") &&
				strings.Contains(victim.readLog(t), "job_id="+strconv.FormatInt(id, 10))
		})
		sum = c.measureEffects(j, round+1)
		require.Equal(t, 2, scalar[int](t, c.pool, `SELECT attempt FROM effects WHERE job = $1`, id), "the effect is of the second attempt")
		require.Equal(t, 2, scalar[int](t, c.pool, `SELECT count(*) FROM runs WHERE started > $1`, since))
	}
	return sum
}

// frozenAtCommit freezes a process when it has sent the COMMIT of a run, which is lost on its way. The server ends the
// transaction, another process runs the job, and then the process wakes.
func frozenAtCommit(t *testing.T, full bool) (sum effects) {
	rounds := 1
	if full {
		rounds = 3
	}
	c := newEffects(t)
	c.proxied = true
	j := job{Name: "effects.add", Effects: true, Hold: 10 * time.Millisecond, Timeout: time.Minute}
	for range 2 {
		c.launch([]job{j})
	}
	pass(t, time.Second) // until the processes have made their own first commits
	for round := range rounds {
		lost := make(chan *node, 1)
		var once sync.Once
		for _, n := range c.living() {
			n.proxy.setHook(func(at moment) (f fate) {
				var open bool // is it the COMMIT of a run?
				if at == otherCommit {
					err := c.pool.QueryRow(context.Background(), `SELECT EXISTS (SELECT FROM pg_stat_activity
						WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%JobSetStateIfRunningMany%')`).Scan(&open)
					open = open && err == nil
				}
				if open {
					once.Do(func() {
						n.signal(syscall.SIGSTOP)
						f = nowhere
						lost <- n
					})
				}
				return f
			})
		}
		c.triggerEffects(j, 1)
		var victim *node
		select {
		case victim = <-lost:
		case <-time.After(time.Minute):
			t.Fatal("no run was about to commit")
		}
		for _, n := range c.living() {
			n.proxy.setHook(nil)
		}
		until(t, time.Minute, "another process has completed the run", func() bool { return c.live(j) == 0 })
		victim.thaw()
		until(t, 2*time.Minute, "the first attempt was refused", func() bool {
			return strings.Count(victim.readLog(t), "its transaction is rolled back") > 0
		})
		sum = c.measureEffects(j, round+1)
		require.Equal(t, 2, scalar[int](t, c.pool, `SELECT max(attempt) FROM effects WHERE job = (SELECT max(job) FROM effects)`))
	}
	return sum
}
