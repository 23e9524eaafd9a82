package river_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// buffer is a bytes.Buffer that may be read while a logger writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// loud returns a logger of all levels, and its output.
func loud() (*slog.Logger, *buffer) {
	b := &buffer{}
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})), b
}

func logsContain(logged *buffer, text string) bool { return strings.Contains(logged.String(), text) }

func idOf(t testing.TB, id string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(id, 10, 64)
	require.NoError(t, err)
	return n
}

func runOf(t testing.TB, s *river.Scheduler, name, id string) jobs.Run {
	t.Helper()
	runs, err := s.Runs(t.Context(), name, 1000)
	require.NoError(t, err)
	for _, r := range runs {
		if r.ID == id {
			return r
		}
	}
	require.FailNow(t, "no such run", "%s of %s", id, name)
	panic("unreachable")
}

func stateOf(t testing.TB, s *river.Scheduler, name, id string) jobs.State {
	t.Helper()
	return runOf(t, s, name, id).State
}

func TestRetry_WorksIfAnotherJobHasTheKey(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	trigger := func() string {
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"), jobs.Delay(time.Hour))
		require.NoError(t, err)
		return id
	}
	first := trigger()
	require.NoError(t, s.Cancel(t.Context(), "a.job", first))
	require.NoError(t, s.Retry(t.Context(), "a.job", first), "the key is free")
	require.NoError(t, s.Cancel(t.Context(), "a.job", first))
	second := trigger()
	require.NotEqual(t, first, second)
	require.NoError(t, s.Retry(t.Context(), "a.job", first))
	require.Equal(t, second, trigger(), "the key stays with the other job")
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, first, receive(t, ran).ID)
	eventually(t, "the job is completed", func() bool { return stateOf(t, s, "a.job", first) == jobs.StateCompleted })
	require.Equal(t, second, trigger())
}

func TestRedact_KeepsSecretsOutOfRowsAndLogs(t *testing.T) {
	t.Parallel()
	const secret = "hunter2secret"
	pool := migrated.Pool(t)
	log, logged := loud()
	redact := jobs.Redact(func(text string) string { return strings.ReplaceAll(text, secret, "(secret)") })
	s := newScheduler(t, pool, river.Config{Logger: log, Defaults: []jobs.Option{redact, jobs.RetryDelay(0)}})
	for name, handler := range map[string]jobs.Handler{
		"a.fails":  func(context.Context, *jobs.Job) error { return fmt.Errorf("token %s: %w", secret, errAgain) },
		"a.panics": func(context.Context, *jobs.Job) error { panic("token " + secret) },
		"a.error":  func(context.Context, *jobs.Job) error { panic(errors.New("token " + secret)) },
		"a.gives-up": func(context.Context, *jobs.Job) error {
			return jobs.Permanent(errors.New("token " + secret))
		},
		"a.retries": func(_ context.Context, job *jobs.Job) error {
			return jobs.RetryAfter(0, errors.New("token "+secret))
		},
		"a.slow": func(ctx context.Context, _ *jobs.Job) error {
			<-ctx.Done()
			return fmt.Errorf("token %s: %w", secret, ctx.Err())
		},
	} {
		require.NoError(t, s.RegisterDelayed(name, 0, handler, jobs.MaxRetries(1), jobs.Timeout(300*time.Millisecond)))
		_, err := s.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
	}
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "all jobs have failed", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE finalized_at IS NOT NULL`) == 6
	})
	require.NoError(t, shutdown(s))
	require.Equal(t, 6, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE errors::text LIKE '%(secret)%'`))
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job AS row WHERE row::text LIKE '%' || $1 || '%'`, secret))
	require.Contains(t, logged.String(), "token (secret)")
	require.NotContains(t, logged.String(), secret)
}

// PgBouncer needs one of the modes without prepared statements. Two connections are the least that New accepts.
func TestScheduler_OperationsWorkInEveryQueryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			pool := poolOf(t, 2, mode)
			s := newScheduler(t, pool, river.Config{PollOnly: true})
			ran := make(chan jobs.Job, 1000)
			require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
			require.NoError(t, s.RegisterDelayed("a.fails", 0, func(ctx context.Context, job *jobs.Job) error {
				return jobs.Permanent(errors.Join(forward(ran)(ctx, job), errAgain))
			}))
			require.NoError(t, s.Start(ctx))
			id, err := s.Trigger(ctx, "a.fails", nil)
			require.NoError(t, err)
			receive(t, ran)
			eventually(t, "the job has failed", func() bool { return stateOf(t, s, "a.fails", id) == jobs.StateFailed })
			require.NoError(t, s.Retry(ctx, "a.fails", id))
			require.Equal(t, 2, receive(t, ran).Attempt)
			delayed, err := s.Trigger(ctx, "a.job", nil, jobs.Delay(time.Hour))
			require.NoError(t, err)
			require.NoError(t, s.Cancel(ctx, "a.job", delayed))
			require.NoError(t, s.Pause(ctx, "a.job"))
			ids, err := s.TriggerMany(ctx, "a.job", numbered(501))
			require.NoError(t, err)
			eventually(t, "the jobs are set aside", func() bool {
				return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available' AND queue = $1`, river.PausedQueue) == len(ids)
			})
			require.NoError(t, s.Resume(ctx, "a.job"))
			for range ids {
				receive(t, ran)
			}
			eventually(t, "Activity counts the runs", func() bool {
				a, err := s.Activity(ctx, time.Minute, 60)
				require.NoError(t, err)
				sum := jobs.Outcomes{}
				for _, o := range a.Jobs["a.job"] {
					sum.Completed, sum.Failed, sum.Other = sum.Completed+o.Completed, sum.Failed+o.Failed, sum.Other+o.Other
				}
				return sum == jobs.Outcomes{Completed: 501, Other: 1}
			})
			require.NoError(t, river.Migrate(ctx, pool, &river.MigrateOptions{SearchIndexes: river.SearchIndexesDrop}))
		})
	}
}

func TestRetry_WaitsForATransactionThatTakesTheKey(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
	require.NoError(t, err)
	require.NoError(t, s.Cancel(t.Context(), "a.job", id))
	retried := make(chan error, 1)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		other, err := s.TriggerTx(t.Context(), tx, "a.job", nil, jobs.Unique("key"))
		require.NoError(t, err)
		require.NotEqual(t, id, other)
		go func() { retried <- s.Retry(context.Background(), "a.job", id) }()
		awaitLockWait(t, pool)
		return nil
	}))
	require.NoError(t, receive(t, retried))
	require.Equal(t, 2, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'available'`))
}

func TestActivity_CompleteSinceIsTheOldestCountedRun(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	const most = 50_000
	fill := func(n int, ended string) {
		execSQL(t, pool, `INSERT INTO river.river_job (kind, args, state, finalized_at, attempt)
			SELECT 'filler.job', '{}', 'completed', `+ended+`, 1 FROM generate_series(1, $1)`, n)
	}
	fill(most-1, `now() - interval '1 minute'`)
	activity, err := s.Activity(t.Context(), time.Minute, 60)
	require.NoError(t, err)
	require.Equal(t, activity.Start, activity.CompleteSince)
	fill(2, `now() - interval '20 minutes'`)
	activity, err = s.Activity(t.Context(), time.Minute, 60)
	require.NoError(t, err)
	require.Equal(t, scalar[time.Time](t, pool, `SELECT min(finalized_at) FROM river.river_job`).UTC(), activity.CompleteSince,
		"not all runs that ended earlier are counted")
}

func TestRetry_ASkippedJobWaitsForItsFirstAttempt(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.StartWithin(time.Second)))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() - interval '1 hour'`)
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "the job is skipped", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateSkipped })
	require.NoError(t, shutdown(s))
	require.NoError(t, s.Retry(t.Context(), "a.job", id))
	run := runOf(t, s, "a.job", id)
	require.Equal(t, [3]any{jobs.StateWaiting, 0, ""}, [3]any{run.State, run.Attempt, run.Error})
}

func TestRetry_KeepsTheKeyIfItIsFree(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	trigger := func() string {
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Unique("key"))
		require.NoError(t, err)
		return id
	}
	first := trigger()
	require.NoError(t, s.Cancel(t.Context(), "a.job", first))
	require.NoError(t, s.Cancel(t.Context(), "a.job", trigger()))
	require.NoError(t, s.Retry(t.Context(), "a.job", first))
	require.Equal(t, first, trigger(), "it has the key again")
}

func TestRetry_RejectsAJobThatCompletesMeanwhile(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	insertRows(t, pool, 1, `kind, state, scheduled_at, attempt, errors`, `'a.job', 'retryable', now() + interval '1 hour', 1, '{"{}"}'`)
	id := scalar[string](t, pool, `SELECT id::text FROM river.river_job`)
	tx := begin(t, pool) // of a worker that has run the job
	_, err := tx.Exec(t.Context(), `UPDATE river.river_job SET state = 'completed', finalized_at = now()`)
	require.NoError(t, err)
	retried := make(chan error, 1)
	go func() { retried <- s.Retry(context.Background(), "a.job", id) }()
	awaitLockWait(t, pool)
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, receive(t, retried), jobs.ErrNotRetryable)
	require.Equal(t, jobs.StateCompleted, stateOf(t, s, "a.job", id))
}

// Many schedulers keep the machine busy, so that a notification of the cancellation would come late.
func TestRetry_StartsARunThatWasJustCancelled(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 12 {
		s := newScheduler(t, migrated.Pool(t), river.Config{})
		ran := make(chan jobs.Job, 1)
		require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
		require.NoError(t, s.Start(t.Context()))
		wg.Go(func() {
			for range 100 {
				id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Hour))
				if err = errors.Join(err, s.Cancel(t.Context(), "a.job", id), s.Retry(t.Context(), "a.job", id)); err != nil {
					t.Error(err)
					return
				}
				select {
				case job := <-ran:
					if job.ID != id {
						t.Errorf("run %s instead of %s", job.ID, id)
					}
				case <-time.After(30 * time.Second):
					t.Errorf("run %s did not start", id)
					return
				}
			}
		})
	}
	wg.Wait()
}
