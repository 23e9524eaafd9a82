package river_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

var keyedOptions = map[string]func(key string) jobs.TriggerOption{"UniqueWaiting": jobs.UniqueWaiting, "Latest": jobs.Latest}

func TestKeyed_HoldsAmongConcurrentTriggers(t *testing.T) {
	t.Parallel()
	for name, pool := range map[string]*pgxpool.Pool{
		"cached statements": poolOf(t, 20, pgx.QueryExecModeCacheStatement),
		"simple protocol":   poolOf(t, 20, pgx.QueryExecModeSimpleProtocol),
		"repeatable read by default": poolWith(t, func(cfg *pgxpool.Config) {
			cfg.MaxConns, cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = 20, "repeatable read"
		}),
	} {
		for option, keyed := range keyedOptions {
			s := newScheduler(t, pool, river.Config{})
			require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
			execSQL(t, pool, `TRUNCATE river.river_job`)
			release := stalled(t, s)
			var wg sync.WaitGroup
			var ids sync.Map
			for range 15 { // fewer than connections
				wg.Go(func() {
					id, err := s.Trigger(context.Background(), "a.job", nil, keyed("key"))
					if err != nil {
						t.Errorf("%s, %s: %s", name, option, err)
					}
					ids.Store(id, true)
				})
			}
			eventually(t, "callers wait for each other", func() bool {
				return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 15
			})
			release()
			wg.Wait()
			n := 0
			ids.Range(func(any, any) bool { n++; return true })
			require.Equal(t, 1, n, "all callers got one job: %s, %s", name, option)
			require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
		}
	}
}

// River stores the results of many runs in one statement, and makes many available in another. A conflict of unique
// keys would fail the first for all of them, and in the second River discards the runs that conflict.
func TestKeyed_RunsReturnToTheQueueBesideWaitingOnes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	const failing = 20
	running, release := make(chan jobs.Job, 1000), make(chan struct{})
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(_ context.Context, job *jobs.Job) error {
		if job.Attempt > 1 {
			ran <- *job
			return nil
		}
		running <- *job
		<-release
		return jobs.RetryAfter(time.Millisecond, errAgain)
	}))
	require.NoError(t, s.RegisterDelayed("a.other", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	for i := range failing {
		_, err := s.Trigger(t.Context(), "a.job", nil, jobs.UniqueWaiting(fmt.Sprint(i)))
		require.NoError(t, err)
		receive(t, running)
		_, err = s.Trigger(t.Context(), "a.job", nil, jobs.UniqueWaiting(fmt.Sprint(i)), jobs.Delay(time.Hour))
		require.NoError(t, err)
	}
	others, err := s.TriggerMany(t.Context(), "a.other", make([]any, failing))
	require.NoError(t, err)
	close(release)
	for range failing {
		receive(t, ran)
	}
	eventually(t, "all results are stored", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'completed'`) == failing+len(others)
	})
	require.Equal(t, failing, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'scheduled'`))

	// Two runs of each key are scheduled, as after failures with a longer wait, and become due together.
	execSQL(t, pool, `UPDATE river.river_job SET state = 'retryable', finalized_at = NULL, scheduled_at = now() WHERE kind = 'a.job'`)
	for range failing {
		receive(t, ran) // the ones that ran before
	}
	eventually(t, "River made all runs available", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'a.job' AND state = 'completed'`) == 2*failing
	})
}

// Programs that encrypt their data depend on it.
func TestLatest_ReplacesThroughHooks(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: func(cfg *riverqueue.Config) {
		cfg.Hooks = append(cfg.Hooks,
			riverqueue.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) (err error) {
				p.EncodedArgs, err = seal(p.EncodedArgs)
				return err
			}),
			riverqueue.HookWorkBeginFunc(func(_ context.Context, job *rivertype.JobRow) (err error) {
				job.EncodedArgs, err = unseal(job.EncodedArgs)
				return err
			}))
	}})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	for _, card := range []string{"1", "4711"} {
		_, err := s.Trigger(t.Context(), "a.job", map[string]string{"card": card}, jobs.Latest("key"))
		require.NoError(t, err)
	}
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE args ? 'sealed'`))
	require.NoError(t, s.Start(t.Context()))
	require.JSONEq(t, `{"card": "4711"}`, string(receive(t, ran).Data))
}

func TestLatest_ARunBroughtForwardStartsWithoutPolling(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "a process leads", func() bool { return scalar[int](t, pool, `SELECT count(*) FROM river.river_leader`) == 1 })
	in := map[string]func(opts ...jobs.TriggerOption) error{
		"Trigger": func(opts ...jobs.TriggerOption) error {
			_, err := s.Trigger(t.Context(), "a.job", nil, opts...)
			return err
		},
		"TriggerTx": func(opts ...jobs.TriggerOption) error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := s.TriggerTx(t.Context(), tx, "a.job", nil, opts...)
				return err
			})
		},
	}
	for name, trigger := range in {
		for _, delay := range []time.Duration{0, 300 * time.Millisecond} {
			require.NoError(t, trigger(jobs.Latest("key"), jobs.Delay(time.Hour)))
			from := time.Now()
			require.NoError(t, trigger(jobs.Latest("key"), jobs.Delay(delay)))
			job := receive(t, ran)
			require.GreaterOrEqual(t, job.StartedAt.Sub(from), delay-20*time.Millisecond, name)
			require.Less(t, time.Since(from), delay+5*time.Second, name)
		}
	}
	// Held by a transaction beyond its due time.
	require.NoError(t, in["Trigger"](jobs.UniqueWaiting("key"), jobs.Delay(3*time.Second)))
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.UniqueWaiting("key"))
		pass(t, 4*time.Second)
		require.Empty(t, ran)
		return err
	}))
	receive(t, ran)
}

// River's scheduler waits for locked rows, and all runs that it makes available wait with it.
func TestTriggerTx_KeyedHoldsNoRunThatRiversSchedulerWants(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	for option, keyed := range keyedOptions {
		for state, due := range map[string]time.Duration{"scheduled": 20 * time.Second, "retryable": -time.Second} {
			execSQL(t, pool, `TRUNCATE river.river_job`)
			id, err := s.Trigger(t.Context(), "a.job", nil, keyed("key"), jobs.Delay(time.Hour))
			require.NoError(t, err)
			execSQL(t, pool, `UPDATE river.river_job SET state = $1::text::river.river_job_state, scheduled_at = now() + $2`, state, due)
			require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				for range 2 {
					found, err := s.TriggerTx(t.Context(), tx, "a.job", nil, keyed("key"), jobs.Delay(30*time.Second))
					require.NoError(t, err)
					require.Equal(t, id, found, option)
				}
				require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state IN ('scheduled', 'retryable')`),
					"%s of a %s run", option, state)
				return nil
			}))
		}
	}
}

func TestTriggerTx_KeyedNeedsNoSecondConnection(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 1, pgx.QueryExecModeCacheStatement)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		var first string
		for range 3 {
			id, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Latest("key"), jobs.Delay(20*time.Second))
			require.NoError(t, err)
			require.Contains(t, []string{"", id}, first)
			first = id
		}
		return nil
	}))
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestLatest_LeavesAPausedRunAside(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Latest("key"))
	require.NoError(t, err)
	require.NoError(t, s.Pause(t.Context(), "a.job"))
	again, err := s.Trigger(t.Context(), "a.job", map[string]int{"n": 2}, jobs.Latest("key"))
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.Equal(t, 1, parked(t, pool, "a.job"))
	require.NoError(t, s.Resume(t.Context(), "a.job"))
	require.NoError(t, s.Start(t.Context()))
	require.JSONEq(t, `{"n": 2}`, string(receive(t, ran).Data))
}

// A process that does not know the job may have inserted the run, or replace it.
func TestLatest_GivesARunTheAttemptsOfItsJob(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	s := newScheduler(t, pool, river.Config{})
	failed := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(_ context.Context, job *jobs.Job) error {
		failed <- *job
		return errAgain
	}, jobs.MaxRetries(1), jobs.RetryDelay(0)))
	order := map[string][]*river.Scheduler{"remote last": {s, remote}, "remote first": {remote, s}}
	for key, by := range order {
		for _, each := range by {
			_, err := each.Trigger(t.Context(), "a.job", nil, jobs.Latest(key))
			require.NoError(t, err)
		}
	}
	require.NoError(t, s.Start(t.Context()))
	for range 4 {
		require.Equal(t, 2, receive(t, failed).MaxAttempts)
	}
	eventually(t, "both runs have failed", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'discarded'`) == 2
	})
}

func TestKeyed_FindsRunsByTheIndex(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", time.Hour, noop))
	fillTable(t, pool, 20_000)
	insertRows(t, pool, 2_000, `kind, state, scheduled_at, unique_key, unique_states`,
		`'filler.job', 'scheduled', now() + interval '1 hour', decode(md5(random()::text) || md5(random()::text), 'hex'), B'11110001'`)
	execSQL(t, pool, `VACUUM ANALYZE river.river_job`)
	const index = "river_job_unique_idx"
	before := scans(t, pool, index)
	var first string
	eventually(t, "the index is used", func() bool {
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.UniqueWaiting("key"))
		require.NoError(t, err)
		require.Contains(t, []string{"", id}, first)
		first = id
		return scans(t, pool, index) > before+5
	})
}

func TestKeyed_AnOvertakenRunOfADeadProcessDoesNotStart(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.RetryDelay(time.Second)))
	old, err := s.Trigger(t.Context(), "a.job", map[string]int{"n": 1}, jobs.Latest("key"))
	require.NoError(t, err)
	execSQL(t, pool, `UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = '{dead}'`)
	_, err = s.Trigger(t.Context(), "a.job", map[string]int{"n": 2}, jobs.Latest("key"))
	require.NoError(t, err)
	stopped(t, s, "dead")
	require.NoError(t, s.Start(t.Context()))
	require.JSONEq(t, `{"n": 2}`, string(receive(t, ran).Data))
	eventually(t, "the rescued run is skipped", func() bool { return stateOf(t, s, "a.job", old) == jobs.StateSkipped })
	require.Empty(t, ran)
	require.Contains(t, runOf(t, s, "a.job", old).Error, "has started with newer data for the same key")
}

func TestKeyed_TransactionsInDifferentOrdersDoNotHang(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", time.Hour, noop))
	one, two := begin(t, pool), begin(t, pool)
	trigger := func(tx pgx.Tx, key string) error {
		_, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Latest(key))
		return err
	}
	require.NoError(t, trigger(one, "a"))
	require.NoError(t, trigger(two, "b"))
	other := make(chan error, 1)
	go func() { other <- trigger(one, "b") }()
	awaitLockWait(t, pool)
	err := trigger(two, "a")
	require.NoError(t, two.Rollback(t.Context()))
	if err = errors.Join(err, receive(t, other)); err == nil {
		t.Fatal("neither was refused")
	}
	require.ErrorContains(t, err, "deadlock detected")
}

// A worker fetches a run of a paused job, or of one with worker slots of its own that a process inserted which does not
// know the job, to move it to another queue. It has not started then.
func TestKeyed_ARunThatAWorkerMovesStillWaits(t *testing.T) {
	t.Parallel()
	for option, keyed := range keyedOptions {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			s := newScheduler(t, pool, river.Config{})
			require.NoError(t, s.RegisterDelayed("a.paused", 0, noop))
			started, release := make(chan struct{}), make(chan struct{})
			t.Cleanup(func() { close(release) })
			require.NoError(t, s.RegisterDelayed("an.own", 0, func(context.Context, *jobs.Job) error {
				started <- struct{}{}
				<-release
				return nil
			}, jobs.Concurrency(1)))
			require.NoError(t, s.Start(t.Context()))
			require.NoError(t, s.Pause(t.Context(), "a.paused"))
			triggerOnly := newScheduler(t, pool, river.Config{TriggerOnly: true})
			_, err := triggerOnly.Trigger(t.Context(), "an.own", nil) // takes the slot
			require.NoError(t, err)
			receive(t, started)
			for name, by := range map[string]jobs.Triggerer{"a.paused": s, "an.own": triggerOnly} {
				for i := range 20 {
					key := keyed(fmt.Sprint(i))
					first, err := by.Trigger(t.Context(), name, nil, key)
					require.NoError(t, err)
					pass(t, time.Duration(i)*10*time.Millisecond)
					second, err := by.Trigger(t.Context(), name, nil, key)
					require.NoError(t, err)
					require.Equal(t, first, second, "%s, after %d ms", name, 10*i)
				}
			}
		})
	}
}
