package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"
)

// These tests check what the adapter relies on in River beyond its documented API: the items of the list in
// docs/architecture.md that no other test covers.

func column(t testing.TB, pool *pgxpool.Pool, sql string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

func TestRiver_ColumnsAndTheirTypes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	require.Subset(t, column(t, pool, `SELECT column_name || ' ' || udt_name FROM information_schema.columns
		WHERE table_schema = 'river' AND table_name = 'river_job'`), []string{
		"id int8", "state river_job_state", "attempt int2", "max_attempts int2", "attempted_at timestamptz", "attempted_by _text",
		"created_at timestamptz", "finalized_at timestamptz", "scheduled_at timestamptz", "priority int2", "args jsonb",
		"errors _jsonb", "kind text", "metadata jsonb", "queue text", "unique_key bytea", "unique_states bit",
	})
	require.Subset(t, column(t, pool, `SELECT column_name FROM information_schema.columns
		WHERE table_schema = 'river' AND table_name = 'river_leader'`), []string{"leader_id", "expires_at"})
	require.Equal(t, []string{"river.river_job_id_seq"}, column(t, pool, `SELECT pg_get_serial_sequence('river.river_job', 'id')`))
}

func TestRiver_StatesByName(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, []string{"available", "cancelled", "completed", "discarded", "pending", "retryable", "running", "scheduled"},
		column(t, migrated.Pool(t), `SELECT unnest(enum_range(NULL::river.river_job_state))::text`))
}

func TestRiver_IndexDefinitions(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	require.Subset(t, column(t, pool, `SELECT indexdef FROM pg_indexes WHERE schemaname = 'river' AND tablename = 'river_job'`), []string{
		`CREATE INDEX river_job_prioritized_fetching_index ON river.river_job USING btree (state, queue, priority, scheduled_at, id)`,
		`CREATE INDEX river_job_state_and_finalized_at_index ON river.river_job USING btree (state, finalized_at) WHERE (finalized_at IS NOT NULL)`,
		`CREATE UNIQUE INDEX river_job_unique_idx ON river.river_job USING btree (unique_key) WHERE ((unique_key IS NOT NULL) AND (unique_states IS NOT NULL) AND river.river_job_state_in_bitmask(unique_states, state))`,
	})
}

// some is the args of a job.
type some struct{}

func (some) Kind() string { return "some" }

// client returns a started client whose worker calls work.
func client(
	t testing.TB, pool *pgxpool.Pool, work func(ctx context.Context, job *riverqueue.Job[some]) error,
	change func(*riverqueue.Config),
) *riverqueue.Client[pgx.Tx] {
	t.Helper()
	cfg := &riverqueue.Config{
		Schema: "river", Workers: riverqueue.NewWorkers(), FetchCooldown: 5 * time.Millisecond,
		Queues: map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 10}},
	}
	riverqueue.AddWorker(cfg.Workers, riverqueue.WorkFunc(work))
	if change != nil {
		change(cfg)
	}
	c, err := riverqueue.NewClient(riverpgxv5.New(pool), cfg)
	require.NoError(t, err)
	require.NoError(t, c.Start(context.Background()))
	t.Cleanup(func() { _ = c.StopAndCancel(context.Background()) })
	return c
}

func receive[T any](t testing.TB, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		require.FailNow(t, "no value within a minute")
	}
	return v
}

func eventually(t testing.TB, what string, ask func() bool) {
	t.Helper()
	require.Eventually(t, ask, time.Minute, 20*time.Millisecond, what)
}

func TestRiver_ErrorsHaveAttemptErrorAndTrace(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	c := client(t, pool, func(_ context.Context, job *riverqueue.Job[some]) error {
		if job.Attempt == 1 {
			return errors.New("first")
		}
		return riverqueue.JobCancel(errors.New("second"))
	}, func(cfg *riverqueue.Config) { cfg.RetryPolicy = atOnce{} })
	res, err := c.Insert(t.Context(), some{}, nil)
	require.NoError(t, err)
	eventually(t, "the job is cancelled", func() bool {
		row, err := c.JobGet(t.Context(), res.Job.ID)
		require.NoError(t, err)
		return row.State == rivertype.JobStateCancelled
	})
	var all []map[string]any
	for _, text := range column(t, pool, `SELECT unnest(errors)::text FROM river.river_job`) {
		var e map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &e))
		require.Contains(t, e, "at")
		delete(e, "at")
		all = append(all, e)
	}
	require.Equal(t, []map[string]any{
		{"attempt": 1., "error": "first", "trace": ""},
		{"attempt": 2., "error": "JobCancelError: second", "trace": ""},
	}, all)
}

// atOnce retries without a wait.
type atOnce struct{}

func (atOnce) NextRetry(*rivertype.JobRow) time.Time { return time.Now() }

func TestRiver_SnoozeGivesTheAttemptBack(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	seen := make(chan rivertype.JobRow, 10)
	c := client(t, pool, func(_ context.Context, job *riverqueue.Job[some]) error {
		seen <- *job.JobRow
		if len(job.Metadata) > 2 {
			return nil
		}
		return &riverqueue.JobSnoozeError{Duration: -time.Hour}
	}, nil)
	_, err := c.Insert(t.Context(), some{}, nil)
	require.NoError(t, err)
	first, second := receive(t, seen), receive(t, seen)
	require.Equal(t, [2]int{1, 1}, [2]int{first.Attempt, second.Attempt}, "the attempt does not count")
	require.WithinDuration(t, time.Now().Add(-time.Hour), second.ScheduledAt, time.Minute, "a negative duration moves scheduled_at into the past")
	require.JSONEq(t, `{"snoozes": 1}`, string(second.Metadata))
	require.Empty(t, second.Errors)
}

func TestRiver_CancelSetsCancelAttemptedAt(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	running, release := make(chan struct{}, 1), make(chan struct{})
	c := client(t, pool, func(context.Context, *riverqueue.Job[some]) error {
		running <- struct{}{}
		<-release
		return nil
	}, nil)
	defer close(release)
	res, err := c.Insert(t.Context(), some{}, nil)
	require.NoError(t, err)
	later, err := c.Insert(t.Context(), some{}, &riverqueue.InsertOpts{ScheduledAt: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	receive(t, running)
	for id, state := range map[int64]rivertype.JobState{res.Job.ID: rivertype.JobStateRunning, later.Job.ID: rivertype.JobStateCancelled} {
		row, err := c.JobCancel(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, state, row.State)
		var metadata struct {
			At time.Time `json:"cancel_attempted_at"` // which every Run casts to a time
		}
		require.NoError(t, json.Unmarshal(row.Metadata, &metadata))
		require.WithinDuration(t, time.Now(), metadata.At, time.Minute)
	}
	row, err := c.JobGet(t.Context(), res.Job.ID)
	require.NoError(t, err)
	require.Equal(t, c.ID(), row.AttemptedBy[len(row.AttemptedBy)-1], "the last of attempted_by is the client's ID")
}

func TestRiver_RescuerLeavesRunsYoungerThanItsLimit(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	const columns = `kind, state, attempt, attempted_at`
	insertRows(t, pool, 1, columns, `'some', 'running', 1, now() - interval '50 years'`)
	insertRows(t, pool, 1, columns, `'some', 'running', 2, now() - interval '150 years'`)
	client(t, pool, func(context.Context, *riverqueue.Job[some]) error { return nil }, func(cfg *riverqueue.Config) {
		cfg.RescueStuckJobsAfter = 100 * 365 * 24 * time.Hour
	})
	eventually(t, "the rescuer has run", func() bool {
		return len(column(t, pool, `SELECT kind FROM river.river_job WHERE attempt >= 2 AND state <> 'running'`)) == 1
	})
	require.Equal(t, []string{"running"}, column(t, pool, `SELECT state::text FROM river.river_job WHERE attempt = 1`), "younger runs keep running")
}

func TestRiver_InsertHooksRunInOrder(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	var order []string
	hook := func(name string) rivertype.Hook {
		return riverqueue.HookInsertBeginFunc(func(context.Context, *rivertype.JobInsertParams) error {
			order = append(order, name)
			return nil
		})
	}
	c, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{Schema: "river", Hooks: []rivertype.Hook{hook("first"), hook("second")}})
	require.NoError(t, err)
	_, err = c.Insert(t.Context(), some{}, nil)
	require.NoError(t, err)
	_, err = c.InsertManyFast(t.Context(), []riverqueue.InsertManyParams{{Args: some{}}})
	require.NoError(t, err)
	require.Equal(t, []string{"first", "second", "first", "second"}, order)
}

// recording is a transaction that records which methods are called.
type recording struct {
	pgx.Tx
	pool  *pgxpool.Pool
	calls []string
}

func (r *recording) Config() *pgxpool.Config {
	r.calls = append(r.calls, "Config")
	return r.pool.Config()
}

func (r *recording) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	r.calls = append(r.calls, "Query")
	return r.Tx.Query(ctx, sql, args...)
}

func (r *recording) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r.calls = append(r.calls, "QueryRow")
	return r.Tx.QueryRow(ctx, sql, args...)
}

func (r *recording) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	r.calls = append(r.calls, "Exec")
	return r.Tx.Exec(ctx, sql, args...)
}

func (r *recording) Begin(ctx context.Context) (pgx.Tx, error) {
	r.calls = append(r.calls, "Begin")
	return r.Tx.Begin(ctx)
}

func TestRiver_InsertManyTxCallsOnlyWhatTheStandInSupports(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	c, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{Schema: "river"})
	require.NoError(t, err)
	insert := func() []string {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.Background()) }()
		r := &recording{Tx: tx, pool: pool}
		_, err = c.InsertManyTx(t.Context(), r, []riverqueue.InsertManyParams{{Args: some{}}, {Args: some{}}})
		require.NoError(t, err)
		return r.calls
	}
	require.Equal(t, []string{"Config", "QueryRow", "Config", "Query", "Config", "Exec"}, insert())
	require.Equal(t, []string{"Config", "Query"}, insert(), "River queries server features once and limits notifications")
}

func TestRiver_PeriodicConstructorIsCalledAtTheTick(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	var mu sync.Mutex
	var early []time.Duration
	client(t, pool, func(context.Context, *riverqueue.Job[some]) error { return nil }, func(cfg *riverqueue.Config) {
		cfg.PeriodicJobs = []*riverqueue.PeriodicJob{riverqueue.NewPeriodicJob(seconds{}, func() (riverqueue.JobArgs, *riverqueue.InsertOpts) {
			mu.Lock()
			defer mu.Unlock()
			early = append(early, time.Until(time.Now().Add(500*time.Millisecond).Truncate(time.Second)))
			return nil, nil
		}, nil)}
	})
	eventually(t, "the constructor is called", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(early) >= 3
	})
	mu.Lock()
	defer mu.Unlock()
	for _, d := range early {
		require.Less(t, d, 110*time.Millisecond, "how early it is called")
	}
	require.Empty(t, column(t, pool, `SELECT kind FROM river.river_job`), "nil inserts nothing")
}

// seconds is a schedule with a tick every second.
type seconds struct{}

func (seconds) Next(t time.Time) time.Time { return t.Truncate(time.Second).Add(time.Second) }
