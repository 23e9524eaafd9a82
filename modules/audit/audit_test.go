package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
	"github.com/everytick/everytick/migrations"
	"github.com/everytick/everytick/modules/audit"
)

var db = dbtest.New(migrations.Up)

func TestService_RecentReturnsNewestFirst(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), audit.New(db.Pool(t))
	noon := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	older, err := s.Record(ctx, audit.Entry{
		OccurredAt: noon, Actor: "user:7", Action: "invoice.delete", Target: "invoice:1001",
		Detail: json.RawMessage(`{"reason": "dup\"licate", "amount": 12.50}`),
	})
	require.NoError(t, err)
	newer, err := s.Record(ctx, audit.Entry{OccurredAt: noon.Add(time.Second).In(time.FixedZone("", 3600)), Actor: "system", Action: "login.refused"})
	require.NoError(t, err)
	before := time.Now().Add(-time.Minute)
	now, err := s.Record(ctx, audit.Entry{Actor: "user:7", Action: "logout"})
	require.NoError(t, err)

	entries, err := s.Recent(ctx, audit.Filter{})
	require.NoError(t, err)
	require.Equal(t, []int64{now, newer, older}, ids(entries))
	require.WithinRange(t, entries[0].OccurredAt, before, time.Now().Add(time.Minute), "the zero time means now")
	require.JSONEq(t, `{}`, string(entries[0].Detail), "nil Detail means {}")
	require.Equal(t, noon.Add(time.Second), entries[1].OccurredAt, "times are returned in UTC")
	require.JSONEq(t, `{"reason": "dup\"licate", "amount": 12.50}`, string(entries[2].Detail))
	entries[2].Detail = nil
	require.Equal(t, audit.Entry{ID: older, OccurredAt: noon, Actor: "user:7", Action: "invoice.delete", Target: "invoice:1001"}, entries[2])

	for want, filter := range map[*[]int64]audit.Filter{
		{now, older}: {Actor: "user:7"},
		{older}:      {Target: "invoice:1001"},
		{}:           {Actor: "system", Target: "invoice:1001"},
		{now, newer}: {Limit: 2},
	} {
		entries, err := s.Recent(ctx, filter)
		require.NoError(t, err)
		require.ElementsMatch(t, *want, ids(entries), "%+v", filter)
	}
}

func TestService_RecentLimit(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	_, err := pool.Exec(ctx, `INSERT INTO audit_entries (actor, action) SELECT 'a', 'b' FROM generate_series(1, 1200)`)
	require.NoError(t, err)
	for limit, want := range map[int]int{0: audit.DefaultLimit, -1: audit.DefaultLimit, 3: 3, 5000: audit.MaxLimit} {
		entries, err := audit.New(pool).Recent(ctx, audit.Filter{Limit: limit})
		require.NoError(t, err)
		require.Len(t, entries, want, "limit %d", limit)
	}
}

func TestService_RecordIsPartOfTheTransaction(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	for _, commit := range []bool{false, true} {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		_, err = audit.New(tx).Record(ctx, audit.Entry{Actor: "user:7", Action: "login"})
		require.NoError(t, err)
		entries, err := audit.New(pool).Recent(ctx, audit.Filter{})
		require.NoError(t, err)
		require.Empty(t, entries, "the entry is visible before its transaction commits")
		if !commit {
			require.NoError(t, tx.Rollback(ctx))
			continue
		}
		require.NoError(t, tx.Commit(ctx))
	}
	require.Equal(t, 1, count(t, pool, `audit_entries`))
}

func TestService_RecordInvalidEntryLeavesTransactionUsable(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	for _, row := range []struct {
		want  string
		entry audit.Entry
	}{
		{"no actor", audit.Entry{Action: "login"}},
		{"no action", audit.Entry{Actor: "user:7"}},
		{"not valid UTF-8", audit.Entry{Actor: "user:7\xff", Action: "login"}},
		{"target of 1001 bytes, at most 1000 are allowed", audit.Entry{Actor: "user:7", Action: "login", Target: strings.Repeat("x", 1001)}},
		{"contains a NUL byte", audit.Entry{Actor: "user:7", Action: "login", Target: "a\x00b"}},
		{"not a JSON object", audit.Entry{Actor: "user:7", Action: "login", Detail: json.RawMessage(`{"a":`)}},
		{"not a JSON object", audit.Entry{Actor: "user:7", Action: "login", Detail: json.RawMessage(`[1]`)}},
		{"not a JSON object", audit.Entry{Actor: "user:7", Action: "login", Detail: json.RawMessage{}}},
	} {
		_, err := audit.New(tx).Record(ctx, row.entry)
		require.ErrorIs(t, err, audit.ErrInvalidEntry, "%+v", row.entry)
		require.ErrorContains(t, err, row.want)
	}
	_, err = audit.New(tx).Record(ctx, audit.Entry{Actor: "user:7", Action: "login"})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
}

// Within one transaction the database's clock stands still, so ages are exact.
func TestService_RetainAges(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		age              string // of an entry, or of one already archived
		inArchive        bool
		wantIn           string // "" for nowhere
		archived, purged int
	}{
		"entry a second younger than 365 days stays":                  {age: "365 days - 1 second", wantIn: "audit_entries"},
		"entry of exactly 365 days stays":                             {age: "365 days", wantIn: "audit_entries"},
		"entry a second older than 365 days is archived":              {age: "365 days + 1 second", wantIn: "audit_archive", archived: 1},
		"archived entry a second younger than 2,555 days stays":       {age: "2555 days - 1 second", inArchive: true, wantIn: "audit_archive"},
		"archived entry of exactly 2,555 days stays":                  {age: "2555 days", inArchive: true, wantIn: "audit_archive"},
		"archived entry a second older than 2,555 days is purged":     {age: "2555 days + 1 second", inArchive: true, purged: 1},
		"entry a second older than 2,555 days is archived and purged": {age: "2555 days + 1 second", archived: 1, purged: 1},
		"entry in the future stays":                                   {age: "-1 day", wantIn: "audit_entries"},
		"entry of exactly 2,555 days is archived and not purged":      {age: "2555 days", wantIn: "audit_archive", archived: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, pool := t.Context(), db.Pool(t)
			tx, err := pool.Begin(ctx)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(ctx) }()
			// Daylight saving time must not change an age.
			_, err = tx.Exec(ctx, `SET LOCAL TimeZone = 'Europe/Berlin'`)
			require.NoError(t, err)
			const columns = ` (id, occurred_at, actor, action, target, detail) `
			const values = ` VALUES (1, (now() AT TIME ZONE 'UTC' - $1::text::interval) AT TIME ZONE 'UTC', 'user:7', 'login', 'x', '{"a": 1}')`
			insert := `INSERT INTO audit_entries` + columns + `OVERRIDING SYSTEM VALUE` + values
			if row.inArchive {
				insert = `INSERT INTO audit_archive` + columns + values
			}
			_, err = tx.Exec(ctx, insert, row.age)
			require.NoError(t, err)

			archived, purged, err := audit.New(tx).Retain(ctx)
			require.NoError(t, err)
			require.Equal(t, [2]int{row.archived, row.purged}, [2]int{archived, purged}, "archived, purged")
			for _, table := range []string{"audit_entries", "audit_archive"} {
				var n int
				require.NoError(t, tx.QueryRow(ctx, `SELECT count(*) FROM `+table+
					` WHERE id = 1 AND actor = 'user:7' AND action = 'login' AND target = 'x' AND detail = '{"a": 1}'
					  AND occurred_at = (now() AT TIME ZONE 'UTC' - $1::text::interval) AT TIME ZONE 'UTC'`, row.age).Scan(&n))
				require.Equal(t, table == row.wantIn, n == 1, "unchanged in %s", table)
			}
		})
	}
}

func TestService_ConcurrentRetainsHandleEachRowOnce(t *testing.T) {
	t.Parallel()
	pool := db.Pool(t)
	fill(t, pool, 10_000, 0)
	handler := retention(t)
	var logs [2]bytes.Buffer
	var group errgroup.Group
	for i := range logs {
		group.Go(func() error { return handler(t.Context(), pool, &logs[i]) })
	}
	require.NoError(t, group.Wait())

	// Either may have skipped the other's last batch because it was locked.
	a, b := counts(t, &logs[0]), counts(t, &logs[1])
	require.Equal(t, 10_000, a.Archived+b.Archived, "an entry was counted twice or not at all")
	require.Equal(t, 0, count(t, pool, `audit_entries`))
	require.Equal(t, 10_000, a.Purged+b.Purged+count(t, pool, `audit_archive`))
	require.NoError(t, handler(t.Context(), pool, io.Discard))
	require.Equal(t, 5_000, count(t, pool, `audit_archive`))
}

func TestService_InterruptedRetainKeepsItsBatchesAndTheNextContinues(t *testing.T) {
	t.Parallel()
	pool := db.Pool(t)
	fill(t, pool, 5_000, 100)
	handler := retention(t)

	for statements := 1; ; statements++ {
		ctx, cancel := context.WithCancel(t.Context())
		var log bytes.Buffer
		before := [2]int{count(t, pool, `audit_entries`), count(t, pool, `audit_archive`)}
		err := handler(ctx, cancelling{pool, cancel}, &log)
		cancel()
		logged := counts(t, &log)
		after := [2]int{count(t, pool, `audit_entries`), count(t, pool, `audit_archive`)}
		require.Equal(t, before[0]-logged.Archived, after[0], "the log and the table differ")
		require.Equal(t, before[1]+logged.Archived-logged.Purged, after[1], "the log and the archive differ")
		require.ErrorIs(t, err, context.Canceled, "the interrupted handler returned no error")
		if after[0] == 100 {
			require.Greater(t, statements, 1, "one statement moved all rows")
			break
		}
	}
	require.NoError(t, handler(t.Context(), pool, io.Discard))
	require.Equal(t, 100, count(t, pool, `audit_entries`))
	require.Equal(t, 2_500, count(t, pool, `audit_archive`))
}

func TestService_RetainSkipsLockedRows(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	fill(t, pool, 10, 0)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT FROM audit_entries WHERE actor = 'user:1' FOR UPDATE`)
	require.NoError(t, err)
	soon, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	archived, _, err := audit.New(pool).Retain(soon)
	require.NoError(t, err, "Retain waited for a lock")
	require.Equal(t, 9, archived)
	require.NoError(t, tx.Rollback(ctx))
	archived, _, err = audit.New(pool).Retain(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, archived)
}

func TestRegisterAuditJobs(t *testing.T) {
	t.Parallel()
	registry, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, audit.RegisterAuditJobs(registry))
	require.Len(t, registry.Jobs(), 1)
	job, err := registry.Job("audit.retention")
	require.NoError(t, err)
	require.Equal(t, "0 3 * * *", job.Schedule.String())
	require.ErrorIs(t, audit.RegisterAuditJobs(registry), jobs.ErrDuplicate)
}

// fill stores old entries, every second one old enough to be purged, and young ones.
func fill(t *testing.T, db jobs.DB, old, young int) {
	t.Helper()
	_, err := db.Exec(t.Context(), `
		INSERT INTO audit_entries (occurred_at, actor, action)
		SELECT now() - interval '1 hour' * 24 * (CASE WHEN i > $1 THEN 1 WHEN i % 2 = 0 THEN 400 ELSE 2600 END), 'user:' || i, 'login'
		FROM generate_series(1, $1::int + $2::int) i`, old, young)
	require.NoError(t, err)
}

func count(t *testing.T, db jobs.DB, table string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(context.Background(), `SELECT count(*) FROM `+table).Scan(&n))
	return n
}

func ids(entries []audit.Entry) []int64 {
	ids := []int64{}
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// retention returns a function that runs the registered handler as a scheduler does.
func retention(t *testing.T) func(ctx context.Context, db jobs.DB, log io.Writer) error {
	t.Helper()
	registry, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, audit.RegisterAuditJobs(registry))
	definition, err := registry.Job("audit.retention")
	require.NoError(t, err)
	return func(ctx context.Context, db jobs.DB, log io.Writer) error {
		job := &jobs.Job{ID: "1", Name: definition.Name, Attempt: 1, MaxAttempts: 3, DB: db}
		return definition.Run(ctx, job, slog.New(slog.NewJSONHandler(log, nil)))
	}
}

type logged struct{ Archived, Purged int }

func counts(t *testing.T, log *bytes.Buffer) (l logged) {
	t.Helper()
	line := strings.TrimSpace(log.String())
	require.NotContains(t, line, "\n", "one line per run")
	require.Contains(t, line, `"archived":`)
	require.Contains(t, line, `"purged":`)
	require.NoError(t, json.Unmarshal([]byte(line), &l))
	return l
}

// cancelling cancels a context after the first statement.
type cancelling struct {
	jobs.DB
	cancel func()
}

func (c cancelling) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	defer c.cancel()
	return c.DB.Exec(ctx, sql, args...)
}
