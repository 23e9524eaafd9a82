package store_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// rowOf returns all columns of a row. Times are replaced by how far they are from now, in minutes, and the time in
// cancel_attempted_at by its form.
func rowOf(t *testing.T, pool *pgxpool.Pool, id int64) map[string]any {
	t.Helper()
	var text []byte
	err := pool.QueryRow(t.Context(), `SELECT to_jsonb(row) - 'id' - 'args' FROM river.river_job AS row WHERE id = $1`, id).Scan(&text)
	require.NoError(t, err)
	row := map[string]any{}
	require.NoError(t, json.Unmarshal(text, &row))
	for column, value := range row {
		if at, err := time.Parse(time.RFC3339Nano, asText(value)); err == nil {
			row[column] = time.Until(at).Round(time.Minute).String()
		}
	}
	if meta := row["metadata"].(map[string]any); meta["cancel_attempted_at"] != nil {
		at := meta["cancel_attempted_at"].(string)
		when, err := time.Parse(time.RFC3339Nano, at)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(at, "Z"), "%s is in UTC", at)
		meta["cancel_attempted_at"] = time.Until(when).Round(time.Minute).String()
	}
	return row
}

func asText(v any) string {
	text, _ := v.(string)
	return text
}

// twins inserts two rows with the same values, one for River's client and one for us.
func twins(t *testing.T, pool *pgxpool.Pool, columns, values string) (river, ours int64) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `INSERT INTO river.river_job (`+columns+`, kind, args, max_attempts, created_at)
		SELECT `+values+`, 'a.job', '{}', 3, now() - interval '1 day' FROM generate_series(1, 2) RETURNING id`)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	require.NoError(t, err)
	require.Equal(t, rowOf(t, pool, ids[0]), rowOf(t, pool, ids[1]))
	return ids[0], ids[1]
}

func TestStore_RetryRunsDoesWhatJobRetryTxDoes(t *testing.T) {
	t.Parallel()
	requireTwins(t, (*store.Store).RetryRuns, (*riverqueue.Client[pgx.Tx]).JobRetry, map[string][2]string{
		"last attempt": {
			`state, attempt, finalized_at, scheduled_at, errors, metadata, priority, tags`,
			`'discarded', 3, now(), now() - interval '1 hour', ARRAY['{"attempt": 3}'::jsonb], '{"everytick_tick": "x"}', 2, ARRAY['a']`,
		},
		"permanent": {`state, attempt, finalized_at, scheduled_at, errors`, `'cancelled', 1, now(), now() - interval '1 hour', ARRAY['{}'::jsonb]`},
		"cancelled": {`state, attempt, finalized_at, scheduled_at, metadata`, `'cancelled', 0, now(), now() + interval '1 hour', '{"cancel_attempted_at": "2026-01-01T00:00:00Z", "a": 1}'`},
		"retryable": {`state, attempt, attempted_at, attempted_by, scheduled_at`, `'retryable', 1, now(), ARRAY['a'], now() + interval '1 hour'`},
		"delayed":   {`state, attempt, scheduled_at`, `'scheduled', 1, now() + interval '1 hour'`},
		"available": {`state, attempt, scheduled_at`, `'available', 1, now() + interval '1 hour'`},
	})
}

func TestStore_CancelRunsDoesWhatJobCancelTxDoes(t *testing.T) {
	t.Parallel()
	requireTwins(t, (*store.Store).CancelRuns, (*riverqueue.Client[pgx.Tx]).JobCancel, map[string][2]string{
		"due":       {`state, attempt, scheduled_at, metadata`, `'available', 0, now() - interval '1 hour', '{"a": 1}'`},
		"delayed":   {`state, attempt, scheduled_at`, `'scheduled', 0, now() + interval '1 hour'`},
		"retryable": {`state, attempt, scheduled_at, errors`, `'retryable', 1, now() + interval '1 hour', ARRAY['{"attempt": 1}'::jsonb]`},
		"pending":   {`state, attempt, scheduled_at`, `'pending', 0, now()`},
	})
}

// requireTwins has both ours and River's treat a row of each kind, given as columns and values, and compares the results.
func requireTwins(t *testing.T, ours func(*store.Store, context.Context, store.DB, []int64) error,
	rivers func(*riverqueue.Client[pgx.Tx], context.Context, int64) (*rivertype.JobRow, error), rows map[string][2]string,
) {
	t.Helper()
	pool := migrated.Pool(t)
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{Schema: "river"})
	require.NoError(t, err)
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs, own := twins(t, pool, row[0], row[1])
			_, err := rivers(client, t.Context(), theirs)
			require.NoError(t, err)
			require.NoError(t, ours(store.New("river"), t.Context(), pool, []int64{own}))
			require.Equal(t, rowOf(t, pool, theirs), rowOf(t, pool, own))
		})
	}
}

// A page and a count must not read a table of a million rows from its start to its end.
func TestStore_FindingRunsUsesIndexes(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := store.New("river")
	insertRows(t, pool, 40_000, `kind, state, attempt, finalized_at`, `'a.job', 'completed', 1, now() - random() * interval '1 day'`)
	insertRows(t, pool, 10_000, `kind, state, scheduled_at, queue`, `'a.job', 'available', now(), 'q' || (random() * 5)::int`)
	insertRows(t, pool, 200, `kind, state, attempt, finalized_at`, `'a.job', 'discarded', 3, now() - random() * interval '1 day'`)
	insertRows(t, pool, 20, `kind, state, attempt, finalized_at`, `'a.rare', 'completed', 3, now() - interval '1 day'`)
	execSQL(t, pool, `ANALYZE river.river_job`)
	live, ended := []string{"available", "retryable", "running", "scheduled"}, []string{"cancelled", "completed", "discarded"}
	all := []jobs.State{
		jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying,
		jobs.StateCompleted, jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped,
	}
	hourAgo := time.Now().Add(-time.Hour)
	names := []string{"a.job", "a.rare"}
	for name, c := range map[string]struct {
		live, ended []string
		names       []string
		states      []jobs.State
		since       *time.Time
	}{
		"all":          {live, ended, names, all, nil},
		"failed":       {[]string{}, []string{"cancelled", "discarded"}, names, []jobs.State{jobs.StateFailed}, nil},
		"failed since": {[]string{}, []string{"cancelled", "discarded"}, names, []jobs.State{jobs.StateFailed}, &hourAgo},
		"waiting":      {[]string{"available"}, []string{}, names, []jobs.State{jobs.StateWaiting}, nil},
		"a rare job":   {live, ended, names[1:], all, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := explain(t, pool, s.SQL("FindRuns"), c.live, c.ended, provider.PageBytes, c.names, c.states, c.since, nil, 101, nil, 0)
			require.NotContains(t, plan, "Seq Scan on river_job")
			if name == "all" || name == "waiting" { // they count a large part of the table
				return
			}
			plan = explain(t, pool, s.SQL("CountMatching"), c.live, c.ended, false, c.names, c.states, c.since, nil)
			require.NotContains(t, plan, "Seq Scan on river_job")
		})
	}
}

// A transaction that retries 500 runs must not read all runs that have failed.
func TestStore_BulkStatementsReadOnlyTheirRuns(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := store.New("river")
	insertRows(t, pool, 60_000, `kind, state, attempt, finalized_at`, `'a.job', 'discarded', 3, now() - random() * interval '1 day'`)
	ids, times := make([]int64, 500), make([]time.Time, 500)
	for i := range ids {
		ids[i], times[i] = int64(i*100), time.Now()
	}
	execSQL(t, pool, `ANALYZE river.river_job`)
	for statement, args := range map[string][]any{
		"LockFreeRetryable": {ids, times}, "LockRetryable": {ids, times}, "ReadRetryable": {ids, times},
		"LockFreeLive": {ids, times}, "LockLive": {ids, times}, "ReadLive": {ids, times},
		"PrepareRetry": {ids, false}, "RetryRuns": {ids}, "CancelRuns": {ids},
	} {
		plan := explain(t, pool, s.SQL(statement), args...)
		require.NotContains(t, plan, "Seq Scan on river_job", statement)
		require.NotContains(t, plan, "fetching_index", statement)
	}
}

func explain(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), store.New("river").SQL("SetPlanning"))
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), "EXPLAIN "+sql, args...)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}
