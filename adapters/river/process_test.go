package river_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// abandoned inserts a job that the given process was running when it died, and returns the job's ID.
func abandoned(t testing.TB, s *river.Scheduler, name, process string, attempt int, set string) (id string) {
	t.Helper()
	id, err := s.Trigger(t.Context(), name, nil, jobs.Delay(time.Hour)) // so that no worker takes it first
	require.NoError(t, err)
	execSQL(t, s.Pool(), `UPDATE river.river_job SET state = 'running', attempt = $2, attempted_at = now() - interval '7 minutes', attempted_by = ARRAY[$3]`+set+`
		WHERE id = $1::text::bigint`, id, attempt, process)
	return id
}

// stopped inserts the row of a process that has stopped.
func stopped(t testing.TB, s *river.Scheduler, process string) {
	t.Helper()
	execSQL(t, s.Pool(), `INSERT INTO river.everytick_process (id, beat, host, pid, version, registrations, jobs, workers, busy, started_at, seen_at)
		VALUES ($1, 0, '', 0, '', '', '{}', 1, 0, now(), now())`, process)
}

func TestRescue_RetriesFailsOrCancelsJobsOfADeadProcess(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	other := newScheduler(t, pool, river.Config{}) // another service, which never starts
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(time.Hour), jobs.RetryDelay(0)))
	require.NoError(t, s.RegisterDelayed("a.tough", 0, noop, jobs.MaxRetries(30_000)))
	require.NoError(t, s.RegisterDelayed("a.late", 0, noop, jobs.RetryDelay(time.Hour)))
	require.NoError(t, other.RegisterDelayed("b.job", 0, noop))
	stopped(t, s, "dead")
	again := abandoned(t, s, "a.job", "dead", 1, "")
	last := abandoned(t, s, "a.job", "dead", 3, "")
	cancelled := abandoned(t, s, "a.job", "dead", 1, `, metadata = metadata || '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`)
	// Its next wait, doubled this often, would overflow.
	tough := abandoned(t, s, "a.tough", "dead", 20_000, "")
	late := abandoned(t, s, "a.late", "dead", 2, "")
	aside := abandoned(t, s, "a.job", "dead", 2, `, queue = '`+river.PausedQueue+`'`) // set aside for a pause that has ended
	unknown := abandoned(t, other, "b.job", "dead", 1, "")
	require.NoError(t, s.Start(t.Context()))

	got := map[string]int{}
	for range 2 {
		job := receive(t, ran)
		got[job.ID] = job.Attempt
	}
	require.Equal(t, map[string]int{again: 2, aside: 3}, got)
	eventually(t, "the job is completed", func() bool { return stateOf(t, s, "a.job", again) == jobs.StateCompleted })
	row, err := s.Client().JobGet(t.Context(), idOf(t, again))
	require.NoError(t, err)
	require.Len(t, row.Errors, 1)
	require.Equal(t, 1, row.Errors[0].Attempt)
	require.Equal(t, "the process that ran the job is dead", row.Errors[0].Error)

	require.Equal(t, jobs.StateFailed, stateOf(t, s, "a.job", last))
	require.Equal(t, jobs.StateCancelled, stateOf(t, s, "a.job", cancelled))
	wait := func(d time.Duration, id string, attempt int) time.Time { // the same as after a failure
		return time.Now().Add(time.Duration(float64(d) * provider.Jitter(id, attempt)))
	}
	require.WithinDuration(t, wait(24*time.Hour, tough, 20_000), runOf(t, s, "a.tough", tough).DueAt, time.Minute)
	require.WithinDuration(t, wait(2*time.Hour, late, 2), runOf(t, s, "a.late", late).DueAt, time.Minute)
	require.Equal(t, jobs.StateRunning, stateOf(t, other, "b.job", unknown), "only its own service rescues it")
	require.Empty(t, ran)

	// Alerts match these messages, whether a worker or the rescue logs them.
	require.Contains(t, logged.String(), `level=ERROR msg="job failed for good" job=a.job job_id=`+last+
		` attempt=3 error="the process that ran the job is dead" max_attempts=3`)
	require.Contains(t, logged.String(), `level=WARN msg="job was cancelled" job=a.job job_id=`+cancelled+` `)
	require.Contains(t, logged.String(), `level=WARN msg="jobs of a dead process get another attempt" job=a.job jobs=2`)
	require.NotContains(t, logged.String(), "job_id="+again+" ")
}

func TestRescue_GoesByTheTimeoutIfThereIsNoHeartbeat(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(time.Minute), jobs.RetryDelay(0)))
	require.NoError(t, s.RegisterDelayed("a.patient", 0, noop, jobs.Timeout(3*time.Minute)))
	require.NoError(t, s.RegisterDelayed("a.endless", 0, noop, jobs.Timeout(1<<63-1)))
	again := abandoned(t, s, "a.job", "plain", 1, "")
	patient := abandoned(t, s, "a.patient", "plain", 1, "")
	endless := abandoned(t, s, "a.endless", "plain", 1, "")
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, again, receive(t, ran).ID)
	require.Equal(t, jobs.StateRunning, stateOf(t, s, "a.patient", patient), "it may still run")
	require.Equal(t, jobs.StateRunning, stateOf(t, s, "a.endless", endless))
}

// The attempt's age and timeout do not matter.
func TestRescue_LeavesJobsOfALivingProcess(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(_ context.Context, job *jobs.Job) error {
		ran <- *job
		<-t.Context().Done()
		return nil
	}, jobs.Timeout(time.Second)))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
	execSQL(t, pool, `UPDATE river.river_job SET attempted_at = now() - interval '1 hour'`)
	plain := abandoned(t, s, "a.job", "plain", 1, "")
	require.NoError(t, s.GiveBack(t.Context()))
	eventually(t, "the job of a process without a heartbeat is rescued", func() bool { return stateOf(t, s, "a.job", plain) != jobs.StateRunning })
	require.Equal(t, jobs.StateRunning, stateOf(t, s, "a.job", id))
}

func TestRescue_TakesASilentProcessForDead(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{DeadAfter: 10 * time.Second})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Timeout(time.Hour), jobs.RetryDelay(0)))
	stopped(t, s, "silent")
	execSQL(t, pool, `UPDATE river.everytick_process SET beat = 77`)
	id := abandoned(t, s, "a.job", "silent", 1, "")
	require.NoError(t, s.Start(t.Context()))
	began := time.Now()
	require.Equal(t, id, receive(t, ran).ID)
	require.GreaterOrEqual(t, time.Since(began), 9*time.Second)
}

// A table has such statistics if it was analyzed while a transaction inserted its first jobs.
func TestRescue_IsQuickWithPoorStatistics(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.RetryDelay(0)))
	stopped(t, s, "dead")
	id := abandoned(t, s, "a.job", "dead", 1, "")
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, state, finalized_at)
			SELECT 'filler.job', '{}', 'completed', now() FROM generate_series(1, 20000)`)
		require.NoError(t, err)
		execSQL(t, pool, `ANALYZE river.river_job`)
		return nil
	}))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, id, receive(t, ran).ID)
}

// inAGap starts s, registered with a.job, whose handler returns result when release is called, and waits until its process
// may have been given up while the handler runs. Until end is called, no heartbeat can be stored.
func inAGap(t *testing.T, s *river.Scheduler, result error, opts ...jobs.Option) (id string, release, end func()) {
	t.Helper()
	running, released := make(chan struct{}, 10), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, _ *jobs.Job) error {
		running <- struct{}{}
		select {
		case <-released:
		case <-ctx.Done():
		}
		return result
	}, opts...))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, running)
	tx := begin(t, s.Pool())
	_, err = tx.Exec(t.Context(), `LOCK TABLE river.everytick_process IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	pass(t, 9*time.Second)
	return id, sync.OnceFunc(func() { close(released) }), func() { require.NoError(t, tx.Rollback(t.Context())) }
}

// wrapErrors adds a hook that wraps the errors of runs.
func wrapErrors(cfg *riverqueue.Config) {
	cfg.Hooks = append(cfg.Hooks, riverqueue.HookWorkEndFunc(func(_ context.Context, job *rivertype.JobRow, err error) error {
		if err != nil {
			return fmt.Errorf("job %d: %w", job.ID, err)
		}
		return nil
	}))
}

// During a gap in the heartbeats of a process, another may have been given its job.
func TestScheduler_DoesNotReportARunGivenToAnotherProcess(t *testing.T) {
	t.Parallel()
	for name, configure := range map[string]func(*riverqueue.Config){"by itself": nil, "through a hook that wraps errors": wrapErrors} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			log, logged := loud()
			s := newScheduler(t, pool, river.Config{DeadAfter: 10 * time.Second, Logger: log, River: configure})
			id, release, end := inAGap(t, s, nil)
			execSQL(t, pool, `UPDATE river.river_job SET attempt = 2, attempted_by = array_append(attempted_by, 'another') WHERE id = $1::text::bigint`, id)
			release()
			eventually(t, "the unreported run is logged", func() bool {
				return logsContain(logged, `msg="run ended after its job was given to another process: its result is not stored" job=a.job job_id=`+id)
			})
			end()
			// Its other runs are reported.
			second, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			eventually(t, "the second job completes", func() bool { return stateOf(t, s, "a.job", second) == jobs.StateCompleted })
			require.Equal(t, "running 2 another", scalar[string](t, pool, `SELECT state || ' ' || attempt || ' ' ||
				attempted_by[cardinality(attempted_by)] || coalesce(' ' || errors::text, '') FROM river.river_job WHERE id = $1::text::bigint`, id))
		})
	}
}

// Its handler never runs, so only the log can show it.
func TestScheduler_LogsAJobWithUnreadableMetadata(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	execSQL(t, s.Pool(), `UPDATE river.river_job SET metadata = '{"everytick_open": "no boolean"}'`)
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "the job fails at its first attempt", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateFailed })
	require.Contains(t, logged.String(), `level=ERROR msg="job failed for good" job=a.job job_id=`+id+` `)
}

func TestScheduler_StoresItsProcessAndThatItStopped(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{MaxWorkers: 7})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(3)))
	require.NoError(t, s.Start(t.Context()))
	require.True(t, scalar[bool](t, pool, `SELECT id = $1 AND beat > 0 AND jobs = '{a.job,a.own}' AND workers = 10 AND pid > 0
		FROM river.everytick_process`, s.Client().ID()))
	require.NoError(t, shutdown(s))
	require.Zero(t, scalar[int](t, pool, `SELECT beat::int FROM river.everytick_process`))
}

// A TriggerOnly process does not know that the job has no retries. The first process that fetches it dies before it has
// stored that.
func TestRescue_KnowsTheRegisteredAttempts(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	client, s := newScheduler(t, pool, river.Config{TriggerOnly: true}), newScheduler(t, pool, river.Config{})
	var calls atomic.Int32
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error {
		calls.Add(1)
		return errors.New("no")
	}, jobs.MaxRetries(0), jobs.RetryDelay(0)))
	stopped(t, s, "dead")
	id := abandoned(t, client, "a.job", "dead", 1, "")
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "it has failed", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateFailed })
	require.Equal(t, 1, runOf(t, s, "a.job", id).MaxAttempts)
	require.Zero(t, calls.Load(), "calls of the handler")
}

// A shutdown that comes during a heartbeat cancels it, which closes its connection.
func TestShutdown_EndsTheProcessDuringAHeartbeat(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	id := s.Client().ID()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM river.everytick_process FOR UPDATE`)
	require.NoError(t, err)
	awaitLockWait(t, pool)
	released := make(chan error, 1)
	time.AfterFunc(time.Second, func() { released <- tx.Rollback(context.Background()) })
	require.NoError(t, shutdown(s))
	require.NoError(t, <-released)
	require.Zero(t, scalar[int](t, pool, `SELECT beat::int FROM river.everytick_process WHERE id = $1`, id))
}
