//go:build unix

package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// An update is the data of a job that applies the latest version of an input, which it reads when it starts. Version is
// the one that the trigger is about.
type update struct {
	Key     int `json:"key"`
	Version int `json:"version"`
}

// errFlaky is the error of the runs that fail on purpose.
var errFlaky = errors.New("failed on purpose")

// registerUpdates registers the job of an update. It records what it has read, and sometimes fails after that.
func registerUpdates(s *river.Scheduler, j job) error {
	return s.RegisterDelayed(j.Name, 0, func(ctx context.Context, run *jobs.Job) error {
		var data update
		if err := run.Decode(&data); err != nil {
			return err
		}
		_, err := run.DB.Exec(ctx, `INSERT INTO updates (job, attempt, key, version, seen, started)
			SELECT $1::text::bigint, $2, key, $3, version, clock_timestamp() FROM inputs WHERE key = $4`,
			run.ID, run.Attempt, data.Version, data.Key)
		if err != nil {
			return err
		}
		select {
		case <-time.After(rand.N(j.Hold)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if rand.IntN(10) == 0 {
			return errFlaky
		}
		_, err = run.DB.Exec(ctx, `UPDATE updates SET applied = true WHERE job = $1::text::bigint AND attempt = $2`, run.ID, run.Attempt)
		return err
	}, jobs.Timeout(j.timeout()), jobs.RetryDelay(retryDelay), jobs.MaxRetries(1000))
}

// updatesAreApplied changes inputs from many callers at once, each time with a trigger, while processes are killed. Then
// it checks that a run that started after the last change of each input has applied it. In half of the inputs, the
// trigger is UniqueWaiting; in the others Latest, whose data must be applied too. Some transactions are rolled back.
func updatesAreApplied(t *testing.T, full bool) effects {
	const callers, perKey = 50, 10
	n, every := 400, 400*time.Millisecond
	if full {
		n = 10_000
	}
	c := newCluster(t, sharedServer(t), false)
	url, err := c.server.urlOf(c.database, map[string]string{"pool_max_conns": "16"})
	require.NoError(t, err)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	keys := n / perKey
	execSQL(t, c.pool, `INSERT INTO inputs (key, version) SELECT n, 0 FROM generate_series(1, $1) AS n`, keys)
	j := job{Name: "updates.apply", Updates: true, Hold: 20 * time.Millisecond, Timeout: time.Minute}
	s, err := newScheduler(pool, []job{j}, quiet, 0)
	require.NoError(t, err)
	for range 3 {
		c.awaitStart(c.spawn([]job{j}, nil))
	}

	var calls, committed atomic.Int64
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for {
				i := int(calls.Add(1)) - 1
				if i >= n {
					return
				}
				key := min(keys, 1+max(0, i/perKey+rand.IntN(5)-2)) // several callers at once
				ok, err := changeInput(t.Context(), s, pool, j.Name, key)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					committed.Add(1)
				}
			}
		})
	}
	done, kills, most := make(chan struct{}), 0, 0
	go func() { work.Wait(); close(done) }()
	for kill := time.Now().Add(every); ; {
		select {
		case <-done:
		default:
			most = max(most, c.mostWaiting())
			if time.Now().After(kill) {
				c.killOne(j, full)
				kill, kills = time.Now().Add(every/2+rand.N(every)), kills+1
			}
			continue
		}
		break
	}
	c.killOne(j, full) // during the last runs
	until(t, 3*time.Minute, "all runs have ended", func() bool {
		most = max(most, c.mostWaiting())
		return scalar[int](t, c.pool, `SELECT count(*) FROM river.river_job WHERE kind = $1 AND finalized_at IS NULL`, j.Name) == 0
	})
	require.LessOrEqual(t, most, 1, "runs of one key that waited for their first attempt at some instant")

	e := effects{expected: int(committed.Load()), faults: kills + 1}
	var stale int
	err = c.pool.QueryRow(t.Context(), `
		SELECT count(*) FILTER (WHERE seen IS DISTINCT FROM version OR key % 2 = 1 AND data IS DISTINCT FROM version),
			(SELECT count(*) FROM updates AS old JOIN updates AS new ON new.key = old.key AND new.version > old.version
				WHERE old.key % 2 = 1 AND old.started > new.started + interval '1 second')
		FROM inputs LEFT JOIN LATERAL (
			SELECT max(seen) AS seen, max(updates.version) AS data FROM updates WHERE updates.key = inputs.key AND applied
		) AS run ON true WHERE version > 0`).Scan(&e.lost, &stale)
	require.NoError(t, err)
	require.Zero(t, stale, "runs with old data that started after newer data")
	t.Logf("%d updates of %d inputs by %d runs, %d kills", e.expected, keys,
		scalar[int](t, c.pool, `SELECT count(*) FROM river.river_job WHERE kind = $1`, j.Name), kills+1)
	return e
}

// changeInput gives an input its next version and triggers the job, in one transaction or one after the other. It
// reports whether it has; some transactions are rolled back.
func changeInput(ctx context.Context, s *river.Scheduler, pool *pgxpool.Pool, name string, key int) (changed bool, err error) {
	const change = `UPDATE inputs SET version = version + 1 WHERE key = $1 RETURNING version`
	data := update{Key: key}
	unique := jobs.UniqueWaiting(fmt.Sprint(key))
	if key%2 == 1 {
		unique = jobs.Latest(fmt.Sprint(key))
	}
	if key%2 == 0 && rand.IntN(2) == 0 {
		if err := pool.QueryRow(ctx, change, key).Scan(&data.Version); err != nil {
			return false, err
		}
		_, err := s.Trigger(ctx, name, data, unique)
		return true, err
	}
	tx, err := pool.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// The row of the input is locked, so the order of its versions is that of the triggers.
	if err := tx.QueryRow(ctx, change, key).Scan(&data.Version); err != nil {
		return false, err
	}
	if _, err := s.TriggerTx(ctx, tx, name, data, unique); err != nil {
		return false, err
	}
	if rand.IntN(3) == 0 { // the run that was found may be due meanwhile
		select {
		case <-time.After(rand.N(20 * time.Millisecond)):
		case <-ctx.Done():
		}
	}
	if rand.IntN(10) == 0 {
		return false, tx.Rollback(ctx)
	}
	return true, tx.Commit(ctx)
}

// mostWaiting returns how many runs of one key wait that have not started before.
func (c *cluster) mostWaiting() int {
	c.t.Helper()
	return scalar[int](c.t, c.pool, `SELECT coalesce(max(n), 0) FROM (
		SELECT count(*) AS n FROM river.river_job
		WHERE kind = 'updates.apply' AND state IN ('available', 'scheduled', 'retryable') AND attempted_at IS NULL
		GROUP BY (args->>'key')::int
	) AS waiting`)
}

// killOne kills a process and starts another. Unless full is set, others learn at once that it is dead.
func (c *cluster) killOne(j job, full bool) {
	c.t.Helper()
	running := c.living()
	victim := running[rand.IntN(len(running))]
	select {
	case <-victim.started: // it does something
	case <-victim.exited:
	}
	victim.kill()
	if !full {
		execSQL(c.t, c.pool, `UPDATE river.everytick_process SET beat = 0 WHERE pid = $1`, victim.pid())
	}
	c.spawn([]job{j}, nil)
}
