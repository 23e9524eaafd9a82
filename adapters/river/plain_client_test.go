package river_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

type ReportArgs struct {
	Month string `json:"month"`
}

func (ReportArgs) Kind() string { return "report" }

// newPlainClient returns a River client that shares everytick's schema and works only its own kinds.
func newPlainClient(pool *pgxpool.Pool, workers *riverqueue.Workers) (*riverqueue.Client[pgx.Tx], error) {
	return riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{
		Schema:                 river.DefaultSchema,
		Queues:                 map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 10}},
		Workers:                workers,
		FetchOnlyKnownKinds:    true, // leaves everytick's jobs to everytick
		LeaderElectionDisabled: true, // a leader has to know everytick's jobs and schedules
	})
}

// Each client fetches its own jobs from one queue. The leader, an everytick process, makes the plain client's scheduled
// jobs and retries available when they are due.
func TestPlainClient_SharesASchema(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ours := make(chan jobs.Job, 100)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ours)))
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ours)))
	require.NoError(t, s.Start(t.Context()))

	theirs := make(chan string, 100)
	workers := riverqueue.NewWorkers()
	riverqueue.AddWorker(workers, riverqueue.WorkFunc(func(_ context.Context, job *riverqueue.Job[ReportArgs]) error {
		if job.Args.Month == "fails once" && job.Attempt == 1 {
			return errors.New("on purpose")
		}
		theirs <- job.Args.Month
		return nil
	}))
	client, err := newPlainClient(pool, workers)
	require.NoError(t, err)
	require.NoError(t, client.Start(t.Context()))
	t.Cleanup(func() { _ = client.Stop(context.Background()) })

	const each = 20
	for i := range each {
		_, err := client.Insert(t.Context(), ReportArgs{Month: fmt.Sprint(i)}, nil)
		require.NoError(t, err)
		_, err = s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
	}
	_, err = client.Insert(t.Context(), ReportArgs{Month: "later"}, &riverqueue.InsertOpts{ScheduledAt: time.Now().Add(7 * time.Second)})
	require.NoError(t, err)
	_, err = client.Insert(t.Context(), ReportArgs{Month: "fails once"}, nil)
	require.NoError(t, err)

	got := map[string]bool{}
	for len(got) < each+2 {
		got[receive(t, theirs)] = true
	}
	require.True(t, got["later"] && got["fails once"])
	triggered, ticks := 0, 0
	for triggered < each || ticks < 2 {
		if job := receive(t, ours); job.Tick.IsZero() {
			triggered++
		} else {
			ticks++
		}
	}
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind LIKE 'a.%' AND errors IS NOT NULL`))
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'report' AND errors IS NOT NULL`))
	require.NotEqual(t, client.ID(), scalar[string](t, pool, `SELECT leader_id FROM river.river_leader`))
}

// This is why a plain client has to set FetchOnlyKnownKinds.
func TestPlainClient_FailsJobsOfUnknownKinds(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)

	workers := riverqueue.NewWorkers()
	riverqueue.AddWorker(workers, riverqueue.WorkFunc(func(context.Context, *riverqueue.Job[ReportArgs]) error { return nil }))
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{
		Schema:  river.DefaultSchema,
		Queues:  map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 10}},
		Workers: workers,
		Logger:  quiet(),
	})
	require.NoError(t, err)
	require.NoError(t, client.Start(t.Context()))
	t.Cleanup(func() { _ = client.Stop(context.Background()) })
	eventually(t, "the job fails", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateRetrying })
	require.Contains(t, runOf(t, s, "a.job", id).Error, "kind")
}

// insertSQL inserts a job from another program, as docs/recipes.md shows.
const insertSQL = `BEGIN;
INSERT INTO river.river_job (kind, args, max_attempts) VALUES ('email.send', '{"to": "ann@example.com"}', 3);
SELECT pg_notify('river.river_insert', '{"queue": "default"}');
COMMIT;
`

func TestScheduler_RunsJobsInsertedInSQL(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran := make(chan jobs.Job, 10)
	s := newScheduler(t, pool, river.Config{River: unpolled})
	require.NoError(t, s.RegisterDelayed("email.send", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	page, err := os.ReadFile("../../docs/recipes.md")
	require.NoError(t, err)
	require.Contains(t, string(page), insertSQL)
	_, err = pool.Exec(t.Context(), insertSQL)
	require.NoError(t, err)
	job := receive(t, ran)
	require.JSONEq(t, `{"to": "ann@example.com"}`, string(job.Data))
	require.Equal(t, 3, job.MaxAttempts)
}
