package river_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// PgBouncer in transaction mode needs one of the first two modes.
func TestFindRuns_WorksInEveryQueryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := poolOf(t, 2, mode)
			s := newScheduler(t, pool, river.Config{PollOnly: true})
			require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
			for range 3 {
				insertFailed(t, pool, "a.job")
			}
			q := jobs.RunQuery{
				Names: []string{"a.job"}, States: []jobs.State{jobs.StateFailed, jobs.StateWaiting}, Limit: 2,
				Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour),
			}
			page, err := s.FindRuns(t.Context(), q)
			require.NoError(t, err)
			require.Len(t, page.Runs, 2)
			q.After = page.Next
			rest, err := s.FindRuns(t.Context(), q)
			require.NoError(t, err)
			require.Len(t, rest.Runs, 1)
			require.Empty(t, rest.Next)
			run, err := s.Run(t.Context(), rest.Runs[0].ID)
			require.NoError(t, err)
			require.Equal(t, []jobs.RunError{{Attempt: 1, At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Text: "again"}}, run.Errors)
			runs, err := s.Runs(t.Context(), "a.job", 10)
			require.NoError(t, err)
			require.Len(t, runs, 3)

			q.After, q.Limit = "", 0
			n, err := s.CountRetryable(t.Context(), q)
			require.NoError(t, err)
			require.Equal(t, 3, n)
			n, err = s.RetryMany(t.Context(), q)
			require.NoError(t, err)
			require.Equal(t, 3, n)
			n, err = s.CancelMany(t.Context(), jobs.RunQuery{})
			require.NoError(t, err)
			require.Equal(t, 3, n)
			_, err = s.Processes(t.Context())
			require.NoError(t, err)
		})
	}
}

// 61 runs with a mebibyte of data each made an answer of 64 MB.
func TestFindRuns_ReadsLargeDataOnlyUpToTheLimit(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	execSQL(t, pool, `INSERT INTO river.river_job (kind, args, state, finalized_at, attempt, max_attempts)
		SELECT 'a.job', jsonb_build_object('text', repeat('x', 1000000)), 'completed', now(), 1, 1 FROM generate_series(1, 300)`)
	page, err := s.FindRuns(t.Context(), jobs.RunQuery{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, page.Runs, 4)
	require.NotEmpty(t, page.Next)
	runs, err := s.Runs(t.Context(), "a.job", 1000)
	require.NoError(t, err)
	require.Len(t, runs, 300)
	bytes := 0
	for _, r := range runs {
		bytes += len(r.Data)
	}
	require.Less(t, bytes, 4<<20)
	require.Greater(t, bytes, 3<<20)
}

func TestRun_IsOnlyForRegisteredJobs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	insertFailed(t, pool, "a.job")
	other := insertFailed(t, pool, "another.services-job")
	_, err := s.Run(t.Context(), strconv.FormatInt(other, 10))
	require.ErrorIs(t, err, jobs.ErrUnknownID)
	page, err := s.FindRuns(t.Context(), jobs.RunQuery{})
	require.NoError(t, err)
	require.Len(t, page.Runs, 1)
	require.Equal(t, 1, retryFailed(t, s), "runs of other services are not retried")

	triggers := newScheduler(t, pool, river.Config{TriggerOnly: true}) // accepts every valid name
	run, err := triggers.Run(t.Context(), strconv.FormatInt(other, 10))
	require.NoError(t, err)
	require.Equal(t, "another.services-job", run.Name)
	page, err = triggers.FindRuns(t.Context(), jobs.RunQuery{})
	require.NoError(t, err)
	require.Empty(t, page.Runs, "no live process has registered the jobs")
	require.NoError(t, s.Start(t.Context()))
	page, err = triggers.FindRuns(t.Context(), jobs.RunQuery{})
	require.NoError(t, err)
	require.Len(t, page.Runs, 1, "those of the live process")
	page, err = triggers.FindRuns(t.Context(), jobs.RunQuery{Names: []string{"another.services-job"}})
	require.NoError(t, err)
	require.Len(t, page.Runs, 1)
}

// A plain River client stores the stack of a panic apart from its text.
func TestRun_ShowsTheStackThatRiverStored(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	id := insertFailed(t, pool, "a.job")
	execSQL(t, pool, `UPDATE river.river_job SET errors = ARRAY[
		'{"attempt": 1, "error": "JobCancelError: first", "at": "2026-01-01T00:00:00Z", "trace": ""}',
		'{"attempt": 2, "error": "second", "at": "2026-01-01T00:00:00.5+01:00", "trace": "main.go:1"}']::jsonb[] WHERE id = $1`, id)
	run, err := s.Run(t.Context(), strconv.FormatInt(id, 10))
	require.NoError(t, err)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	require.Equal(t, []jobs.RunError{
		{Attempt: 1, At: at, Text: "first"},
		{Attempt: 2, At: at.Add(500*time.Millisecond - time.Hour), Text: "second\n\nmain.go:1"},
	}, run.Errors)
}

func TestProcesses_ListsTheOthersAndTheDead(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	first := newScheduler(t, pool, river.Config{MaxWorkers: 7})
	require.NoError(t, first.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, first.Start(t.Context()))
	second := newScheduler(t, pool, river.Config{})
	require.NoError(t, second.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, second.RegisterDelayed("a.another", 0, noop, jobs.Concurrency(3)))
	require.NoError(t, second.Start(t.Context()))
	execSQL(t, pool, `INSERT INTO river.everytick_process (id, beat, host, pid, version, registrations, jobs, workers, busy, started_at, seen_at)
		VALUES ('dead', 9, 'host', 5, 'v1.2.3', '', '{b.job,a.job}', 10, 4, now() - interval '2 hours', now() - interval '31 seconds'),
			('gone', 0, 'host', 6, '', '', '{a.job}', 10, 0, now() - interval '2 hours', now())`)
	web := newScheduler(t, pool, river.Config{TriggerOnly: true})
	for name, c := range map[string]struct {
		asked *river.Scheduler
		self  []bool
	}{"first": {first, []bool{false, true, false}}, "second": {second, []bool{false, false, true}}, "web": {web, []bool{false, false, false}}} {
		all, err := c.asked.Processes(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 3, name)
		for i, self := range c.self {
			require.Equal(t, self, all[i].Self, "%s sees %d", name, i)
		}
	}
	eventually(t, "one process leads", func() bool {
		all, err := web.Processes(t.Context())
		require.NoError(t, err)
		return all[1].Leader != all[2].Leader && !all[0].Leader
	})
	all, err := web.Processes(t.Context())
	require.NoError(t, err)
	dead := all[0]
	require.WithinDuration(t, time.Now().Add(-2*time.Hour), dead.StartedAt, time.Minute)
	require.Equal(t, jobs.Process{
		ID: "dead", Host: "host", PID: 5, Version: "v1.2.3", StartedAt: dead.StartedAt, SeenAt: dead.SeenAt,
		Jobs: []string{"a.job", "b.job"}, Workers: 10, Busy: 4,
	}, dead)
	require.True(t, all[1].Alive && all[2].Alive)
	require.Equal(t, [2]int{7, river.DefaultMaxWorkers + 3}, [2]int{all[1].Workers, all[2].Workers})
	require.Equal(t, []string{"a.another", "a.job"}, all[2].Jobs)
	require.NoError(t, shutdown(first))
	all, err = web.Processes(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
}

func TestProcesses_SaysThatTheSchemaIsNotMigrated(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, empty.Pool(t), river.Config{})
	_, err := s.Processes(context.Background())
	require.ErrorContains(t, err, "call river.Migrate")
	require.True(t, strings.HasPrefix(err.Error(), "river: processes: "))
}
