package river_test

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// numbered returns the data of n jobs, each with its index.
func numbered(n int) []any {
	data := make([]any, n)
	for i := range data {
		data[i] = map[string]int{"n": i}
	}
	return data
}

// storedRow is a row of River's table.
type storedRow struct {
	ID          int64
	N           int
	Columns     string // all but ID, args and times
	CreatedAt   time.Time
	ScheduledAt time.Time
}

// storedRows returns the rows with these IDs, in this order.
func storedRows(t testing.TB, pool *pgxpool.Pool, ids []string) []storedRow {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT id, (args->>'n')::int, ((to_jsonb(row) - ARRAY['id', 'created_at', 'scheduled_at']) - 'args')::text, created_at, scheduled_at
		FROM unnest($1::text[]) WITH ORDINALITY AS wanted (wanted, nth) JOIN river.river_job AS row ON id = wanted::bigint ORDER BY nth`, ids)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedRow])
	require.NoError(t, err)
	require.Len(t, all, len(ids))
	return all
}

func TestTriggerMany_StoresManyJobsLikeFew(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.delayed", time.Hour, noop, jobs.MaxRetries(7)))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(3), jobs.Priority(2)))
	require.NoError(t, s.RegisterDelayed("a.traced", 0, noop, jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			for i, req := range reqs {
				req.Metadata = map[string]string{"trace": "ä<" + strconv.Itoa(i)}
			}
			return next(ctx, reqs)
		}
	})))
	at := time.Now().Add(3 * time.Hour).In(time.FixedZone("far", 9*3600)).Truncate(time.Microsecond)
	for name, row := range map[string]struct {
		s    jobs.Triggerer
		job  string
		opts []jobs.TriggerOption
	}{
		"plain":                {s, "a.job", nil},
		"registered delay":     {s, "a.delayed", nil},
		"delay":                {s, "a.job", []jobs.TriggerOption{jobs.Delay(time.Minute)}},
		"due soon":             {s, "a.job", []jobs.TriggerOption{jobs.Delay(4 * time.Second)}},
		"at":                   {s, "a.job", []jobs.TriggerOption{jobs.At(at)}},
		"at a past time":       {s, "a.job", []jobs.TriggerOption{jobs.At(at.AddDate(-1, 0, 0))}},
		"priority":             {s, "a.job", []jobs.TriggerOption{jobs.Priority(4)}},
		"Concurrency":          {s, "a.own", nil},
		"metadata":             {s, "a.traced", nil},
		"TriggerOnly":          {remote, "a.job", nil},
		"TriggerOnly, delayed": {remote, "a.job", []jobs.TriggerOption{jobs.Delay(time.Minute), jobs.Priority(3)}},
	} {
		fewIDs, err := row.s.TriggerMany(t.Context(), row.job, numbered(3), row.opts...)
		require.NoError(t, err, name)
		manyIDs, err := row.s.TriggerMany(t.Context(), row.job, numbered(600), row.opts...)
		require.NoError(t, err, name)
		few, many := storedRows(t, pool, fewIDs), storedRows(t, pool, manyIDs)
		require.True(t, slices.IsSortedFunc(many, func(a, b storedRow) int { return int(a.ID - b.ID) }), "%s: IDs ascend", name)
		for i, r := range many {
			require.Equal(t, i, r.N, "%s: IDs are in the order of the data", name)
		}
		for i, want := range few {
			got := many[i]
			require.Equal(t, want.Columns, got.Columns, name)
			require.WithinDuration(t, want.CreatedAt, got.CreatedAt, time.Minute, name)
			require.WithinDuration(t, want.ScheduledAt, got.ScheduledAt, 10*time.Second, name)
			if name == "at" {
				require.True(t, at.Equal(got.ScheduledAt), name)
			}
		}
	}
}

func TestTriggerMany_IsAllOrNothing(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, 1, pgx.QueryExecModeCacheStatement) // one connection is enough
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	execSQL(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.args->>'n' = '10500' THEN RAISE 'refused'; END IF; RETURN NEW; END $$`)
	execSQL(t, pool, `CREATE TRIGGER refuse BEFORE INSERT ON river.river_job FOR EACH ROW EXECUTE FUNCTION refuse()`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := s.TriggerMany(ctx, "a.job", numbered(10_600))
	require.ErrorContains(t, err, "refused")
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
	ids, err := s.TriggerMany(ctx, "a.job", numbered(10_400), jobs.Delay(time.Hour))
	require.NoError(t, err)
	require.Len(t, ids, 10_400)
	require.Equal(t, 10_400, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestTriggerMany_FailsIfMiddlewareDropsAllJobs(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, _ []*jobs.Request) error { return next(ctx, nil) }
	})))
	for _, n := range []int{2, 600} {
		_, err := s.TriggerMany(t.Context(), "a.job", numbered(n))
		require.ErrorContains(t, err, "has changed the requests")
	}
}

func TestTriggerOnly_JobsRunAtOnceWithTheWorkersOptions(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	ran := make(chan jobs.Job, 10)
	worker := newScheduler(t, pool, river.Config{})
	require.NoError(t, worker.RegisterDelayed("a.job", 0, forward(ran), jobs.MaxRetries(8)))
	require.NoError(t, worker.RegisterDelayed("a.once", 0, func(ctx context.Context, job *jobs.Job) error {
		_ = forward(ran)(ctx, job)
		return errAgain
	}, jobs.MaxRetries(0)))
	require.NoError(t, worker.RegisterDelayed("a.own", 0, forward(ran), jobs.Concurrency(2)))
	require.NoError(t, worker.Start(t.Context()))
	remote := newScheduler(t, pool, river.Config{TriggerOnly: true})
	for name, want := range map[string]int{"a.job": 9, "a.once": 1} {
		id, err := remote.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
		job := receive(t, ran)
		require.Equal(t, [3]any{id, 1, want}, [3]any{job.ID, job.Attempt, job.MaxAttempts}, name)
		eventually(t, name+" has ended", func() bool {
			return scalar[bool](t, pool, `SELECT finalized_at IS NOT NULL FROM river.river_job WHERE id = $1::text::bigint`, id)
		})
		require.Equal(t, want, scalar[int](t, pool, `SELECT max_attempts FROM river.river_job WHERE id = $1::text::bigint`, id), name)
		require.False(t, scalar[bool](t, pool, `SELECT metadata ? 'snoozes' FROM river.river_job WHERE id = $1::text::bigint`, id), "%s was not snoozed", name)
	}
	require.Equal(t, "discarded", scalar[string](t, pool, `SELECT state::text FROM river.river_job WHERE kind = 'a.once'`), "its only attempt failed")
	id, err := remote.Trigger(t.Context(), "a.own", nil)
	require.NoError(t, err)
	job := receive(t, ran)
	require.Equal(t, [3]any{id, 1, 3}, [3]any{job.ID, job.Attempt, job.MaxAttempts})
	require.Regexp(t, `^a-own-`, scalar[string](t, pool, `SELECT queue FROM river.river_job WHERE id = $1::text::bigint`, id), "it ran on its own workers")
}

// The context of a caller ends while its job is being stored, in a statement with others or alone.
func TestTrigger_SaysThatTheJobMayBeStored(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `LOCK TABLE river.river_job IN SHARE MODE`) // INSERTs wait
	require.NoError(t, err)
	errs := make(chan error, 2)
	for range 2 { // the first is alone, the second waits for it and then gets a statement beside it
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := s.Trigger(ctx, "a.job", nil)
			errs <- err
		}()
		pass(t, 100*time.Millisecond)
	}
	first, second := receive(t, errs), receive(t, errs)
	require.NoError(t, tx.Rollback(t.Context()))
	eventually(t, "a job is stored", func() bool { return scalar[int](t, pool, `SELECT count(*) FROM river.river_job`) > 0 })
	require.ErrorContains(t, first, "may or may not have been stored")
	require.ErrorContains(t, second, "may or may not have been stored")
}
