package river_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// failuresTo returns an option that sends failed runs to ch.
func failuresTo(ch chan<- jobs.Run) jobs.Option {
	return jobs.OnFailed(func(_ context.Context, run jobs.Run) { ch <- run })
}

func noCallIsDue(t testing.TB, s *river.Scheduler) {
	t.Helper()
	eventually(t, "no call is due", func() bool {
		return scalar[int](t, s.Pool(), `SELECT count(*) FROM river.everytick_failed`) == 0
	})
}

func TestOnFailed_IsCalledByTheProcessThatRescues(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	failed := make(chan jobs.Run, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, failuresTo(failed)))
	require.NoError(t, s.RegisterDelayed("a.quiet", 0, noop))
	stopped(t, s, "dead")
	last := abandoned(t, s, "a.job", "dead", 3, "")
	abandoned(t, s, "a.job", "dead", 1, "") // gets another attempt
	abandoned(t, s, "a.job", "dead", 3, `, metadata = metadata || '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`)
	quiet := abandoned(t, s, "a.quiet", "dead", 3, "")
	require.NoError(t, s.Start(t.Context()))
	run := receive(t, failed)
	require.Equal(t, last, run.ID)
	require.Equal(t, "a.job", run.Name)
	require.Equal(t, jobs.StateFailed, run.State)
	require.Equal(t, "the process that ran the job is dead", run.Error)
	require.Equal(t, "dead", run.Process)
	noCallIsDue(t, s)
	require.Equal(t, jobs.StateFailed, stateOf(t, s, "a.quiet", quiet))
	require.Empty(t, failed)
}

func TestOnFailed_IsCalledAgainIfItsProcessDied(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	other := newScheduler(t, pool, river.Config{})
	failed := make(chan jobs.Run, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, failuresTo(failed)))
	require.NoError(t, other.RegisterDelayed("b.job", 0, noop))
	require.NoError(t, other.Start(t.Context()))
	stopped(t, s, "dead")
	calls := map[string]string{}
	for _, claimed := range []string{"NULL", "'dead'", "'forgotten'", "'" + other.Client().ID() + "'"} {
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Hour))
		require.NoError(t, err)
		execSQL(t, pool, `UPDATE river.river_job SET state = 'discarded', finalized_at = now(), attempt = 3 WHERE id = $1::text::bigint`, id)
		execSQL(t, pool, `INSERT INTO river.everytick_failed (job_id, name, claimed_by) VALUES ($1::text::bigint, 'a.job', `+claimed+`)`, id)
		calls[id] = claimed
	}
	require.NoError(t, s.Start(t.Context()))
	for range 3 {
		delete(calls, receive(t, failed).ID)
	}
	eventually(t, "one call is left", func() bool { return scalar[int](t, pool, `SELECT count(*) FROM river.everytick_failed`) == 1 })
	require.Len(t, calls, 1)
	for _, claimed := range calls {
		require.Contains(t, claimed, other.Client().ID(), "a living process makes the call")
	}
	require.Empty(t, failed)
	// Once that process has stopped, the call is made here.
	require.NoError(t, shutdown(other))
	receive(t, failed)
	noCallIsDue(t, s)
}

func TestOnFailed_OneOfSeveralProcessesCallsIt(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	failed := make(chan jobs.Run, 1000)
	var first *river.Scheduler
	for range 3 {
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return errors.New("no") },
			jobs.MaxRetries(0), failuresTo(failed)))
		require.NoError(t, s.Start(t.Context()))
		first = s
	}
	const n = 60
	ids, err := first.TriggerMany(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	called := map[string]int{}
	for range n {
		called[receive(t, failed).ID]++
	}
	require.Len(t, called, len(ids), "each run once")
	noCallIsDue(t, first)
	require.Empty(t, failed)
}

// The call is stored before the failure, so no crash in between loses it.
func TestOnFailed_TheRunDoesNotFailBeforeTheCallIsStored(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	failed := make(chan jobs.Run, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return jobs.Permanent(errors.New("no")) }, failuresTo(failed)))
	require.NoError(t, s.Start(t.Context()))
	execSQL(t, pool, `ALTER TABLE river.everytick_failed RENAME TO gone`)
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "storing has failed", func() bool { return logsContain(logged, "could not store that OnFailed is to be called") })
	require.Equal(t, jobs.StateRunning, stateOf(t, s, "a.job", id))
	execSQL(t, pool, `ALTER TABLE river.gone RENAME TO everytick_failed`)
	run := receive(t, failed)
	require.Equal(t, id, run.ID)
	require.Equal(t, "no", run.Error)
	noCallIsDue(t, s)
}

func TestOnFailed_IsNotCalledForARunThatEndedOtherwise(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	failed := make(chan jobs.Run, 10)
	require.NoError(t, s.RegisterDelayed("a.job", time.Hour, noop, failuresTo(failed)))
	// A process stored that calls are due and died before it stored the failures. Its runs then ended otherwise.
	for _, set := range []string{`state = 'completed', finalized_at = now()`, `state = 'cancelled', finalized_at = now()`, `state = 'scheduled'`} {
		id, err := s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
		execSQL(t, pool, `UPDATE river.river_job SET `+set+` WHERE id = $1::text::bigint`, id)
		execSQL(t, pool, `INSERT INTO river.everytick_failed (job_id, name) VALUES ($1::text::bigint, 'a.job')`, id)
	}
	execSQL(t, pool, `INSERT INTO river.everytick_failed (job_id, name) VALUES (0, 'a.job')`) // its run was deleted
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "calls that are no longer due are forgotten", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.everytick_failed`) == 1
	})
	require.Equal(t, "scheduled", scalar[string](t, pool, `SELECT state::text FROM river.river_job JOIN river.everytick_failed ON id = job_id`))
	require.Empty(t, failed)
}

// The database has stored that this process makes the call of OnFailed, but the answer is lost with the connection. The
// process lives, so no other process makes the call, and this one has to.
func TestOnFailed_IsCalledThoughTheAnswerToItsClaimWasLost(t *testing.T) {
	t.Parallel()
	var armed, lost atomic.Bool
	pool := wired(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // each statement is sent with its text
	}, func(w *wire) {
		var claiming atomic.Bool
		w.onWrite = func(p []byte) { claiming.Store(bytes.Contains(p, []byte("SET claimed_by = $2 FROM found"))) }
		w.onRead = func(p []byte, n int) (int, error) {
			if claiming.Load() && bytes.Contains(p[:n], []byte("a.job")) && armed.CompareAndSwap(true, false) {
				lost.Store(true)
				_ = w.Close()
				return 0, errors.New("the connection is lost")
			}
			return n, nil
		}
	})
	s := newScheduler(t, pool, river.Config{})
	failed := make(chan jobs.Run, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return errors.New("no") },
		jobs.MaxRetries(0), failuresTo(failed)))
	require.NoError(t, s.Start(t.Context()))
	armed.Store(true)
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "the answer to the claim is lost", lost.Load)
	receive(t, failed)
}

// During a gap in the heartbeats of a process, another one has ended its run for good, and OnFailed has been called. Then
// the handler fails here.
func TestOnFailed_IsNotCalledAgainForARunGivenToAnotherProcess(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{DeadAfter: 10 * time.Second, Logger: log})
	failed := make(chan jobs.Run, 10)
	id, release, end := inAGap(t, s, errors.New("no"), jobs.MaxRetries(0), failuresTo(failed))
	// What the rescue of another process does.
	execSQL(t, pool, `INSERT INTO river.everytick_failed (job_id, name) VALUES ($1::text::bigint, 'a.job')`, id)
	execSQL(t, pool, `UPDATE river.river_job SET state = 'discarded', finalized_at = now(),
		errors = ARRAY['{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "the process that ran the job is dead", "trace": ""}'::jsonb] WHERE id = $1::text::bigint`, id)
	end()
	require.Equal(t, id, receive(t, failed).ID)
	noCallIsDue(t, s)
	release()
	eventually(t, "the unreported run is logged", func() bool { return logsContain(logged, `its result is not stored" job=a.job job_id=`+id) })
	select {
	case <-failed:
		t.Fatal("OnFailed was called again")
	case <-time.After(15 * time.Second):
	}
}

// A handler has run and failed, but its failure is not reported, because a hard stop came while the call of OnFailed
// could not be stored. The attempt was made, so it counts: a job without retries is not run again.
func TestShutdown_AnAttemptThatIsNotReportedCounts(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	var calls atomic.Int32
	failed := make(chan jobs.Run, 10)
	start := func() *river.Scheduler {
		s := newScheduler(t, pool, river.Config{Logger: log})
		require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error {
			calls.Add(1)
			return errors.New("no")
		}, jobs.MaxRetries(0), failuresTo(failed)))
		require.NoError(t, s.Start(t.Context()))
		return s
	}
	s := start()
	execSQL(t, pool, `ALTER TABLE river.everytick_failed RENAME TO gone`)
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "storing has failed", func() bool { return logsContain(logged, "could not store that OnFailed is to be called") })
	require.ErrorContains(t, interrupt(s), "the results of 1 jobs could not be stored")
	execSQL(t, pool, `ALTER TABLE river.gone RENAME TO everytick_failed`)
	start()
	require.Equal(t, id, receive(t, failed).ID)
	require.EqualValues(t, 1, calls.Load(), "the handler of a job without retries was called again")
}

func TestShutdown_MakesAllCallsOfOnFailed(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	const n = 25 // more than are made at once
	var called atomic.Int32
	release := make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return errors.New("no") },
		jobs.MaxRetries(0), jobs.OnFailed(func(context.Context, jobs.Run) {
			<-release
			called.Add(1)
		})))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.TriggerMany(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	eventually(t, "all have failed", func() bool {
		return scalar[int](t, s.Pool(), `SELECT count(*) FROM river.river_job WHERE state = 'discarded'`) == n
	})
	time.AfterFunc(time.Second, func() { close(release) })
	require.NoError(t, shutdown(s))
	require.EqualValues(t, n, called.Load())
	noCallIsDue(t, s)
}
