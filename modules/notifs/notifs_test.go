package notifs_test

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
	"github.com/everytick/everytick/modules/notifs"
)

var db = dbtest.New(migrations.Up)

func TestService_ListReturnsTheUsersOwnNewestFirst(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), notifs.New(db.Pool(t))
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	first := create(t, s, notifs.Notification{User: "ann", Kind: "invoice.paid", Title: "Paid", Body: "Thank you", ExpiresAt: expires})
	create(t, s, notifs.Notification{User: "bob", Title: "Not hers"})
	second := create(t, s, notifs.Notification{User: "ann", Title: "Second"})

	list, err := s.List(ctx, "ann", notifs.Query{})
	require.NoError(t, err)
	require.Equal(t, []int64{second, first}, ids(list))
	require.WithinDuration(t, time.Now(), list[1].CreatedAt, time.Minute)
	list[1].CreatedAt = time.Time{}
	require.Equal(t, notifs.Notification{ID: first, User: "ann", Kind: "invoice.paid", Title: "Paid", Body: "Thank you", ExpiresAt: expires}, list[1])
}

func TestService_ListPagesHaveNoGapOrOverlap(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), notifs.New(db.Pool(t))
	var want []int64
	for range 7 {
		want = append([]int64{create(t, s, notifs.Notification{User: "ann", Title: "x"})}, want...)
	}
	var got []int64
	for before := int64(0); ; {
		page, err := s.List(ctx, "ann", notifs.Query{Before: before, Limit: 3})
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), 3)
		if len(page) == 0 {
			break
		}
		got, before = append(got, ids(page)...), page[len(page)-1].ID
	}
	require.Equal(t, want, got)
}

func TestService_ListLimit(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	_, err := pool.Exec(ctx, `INSERT INTO notifications (user_id, title) SELECT 'ann', 'x' FROM generate_series(1, 1200)`)
	require.NoError(t, err)
	for limit, want := range map[int]int{0: notifs.DefaultLimit, -1: notifs.DefaultLimit, 3: 3, 5000: notifs.MaxLimit} {
		list, err := notifs.New(pool).List(ctx, "ann", notifs.Query{Limit: limit})
		require.NoError(t, err)
		require.Len(t, list, want, "limit %d", limit)
	}
}

func TestService_MarkReadOnlyMarksTheUsersOwn(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), notifs.New(db.Pool(t))
	hers := create(t, s, notifs.Notification{User: "ann", Title: "x"})
	other := create(t, s, notifs.Notification{User: "ann", Title: "y"})

	require.ErrorIs(t, s.MarkRead(ctx, "bob", hers), notifs.ErrNotFound)
	require.ErrorIs(t, s.MarkRead(ctx, "ann", other+1), notifs.ErrNotFound)
	unread, err := s.UnreadCount(ctx, "ann")
	require.NoError(t, err)
	require.Equal(t, 2, unread, "another user marked it read")

	require.NoError(t, s.MarkRead(ctx, "ann", hers))
	list, err := s.List(ctx, "ann", notifs.Query{})
	require.NoError(t, err)
	readAt := list[1].ReadAt
	require.WithinDuration(t, time.Now(), readAt, time.Minute)
	require.Zero(t, list[0].ReadAt)

	require.NoError(t, s.MarkRead(ctx, "ann", hers), "marking it twice is not an error")
	list, err = s.List(ctx, "ann", notifs.Query{})
	require.NoError(t, err)
	require.Equal(t, readAt, list[1].ReadAt, "ReadAt is the time of the first reading")

	list, err = s.List(ctx, "ann", notifs.Query{UnreadOnly: true})
	require.NoError(t, err)
	require.Equal(t, []int64{other}, ids(list))
	unread, err = s.UnreadCount(ctx, "ann")
	require.NoError(t, err)
	require.Equal(t, 1, unread)
}

func TestService_MarkAllReadOnlyMarksTheUsersOwn(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), notifs.New(db.Pool(t))
	for _, user := range []string{"ann", "bob", "ann"} {
		create(t, s, notifs.Notification{User: user, Title: "x"})
	}
	for _, want := range []int{2, 0} {
		n, err := s.MarkAllRead(ctx, "ann")
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	unread, err := s.UnreadCount(ctx, "bob")
	require.NoError(t, err)
	require.Equal(t, 1, unread)
}

func TestService_ListAndUnreadCountLeaveOutExpired(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), notifs.New(db.Pool(t))
	create(t, s, notifs.Notification{User: "ann", Title: "x", ExpiresAt: time.Now().Add(-time.Minute)})
	list, err := s.List(ctx, "ann", notifs.Query{})
	require.NoError(t, err)
	require.Empty(t, list)
	unread, err := s.UnreadCount(ctx, "ann")
	require.NoError(t, err)
	require.Zero(t, unread, "UnreadCount must agree with List")
}

func TestService_CreateIsPartOfTheTransaction(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	create(t, notifs.New(tx), notifs.Notification{User: "ann", Title: "x"})
	require.NoError(t, tx.Rollback(ctx))
	require.Zero(t, count(t, pool))
}

func TestService_CreateInvalidLeavesTransactionUsable(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	for want, n := range map[string]notifs.Notification{
		"no user":  {Title: "x"},
		"no title": {User: "ann"},
		"user of 1001 bytes, at most 1000 are allowed": {User: strings.Repeat("x", 1001), Title: "x"},
		"not valid UTF-8":     {User: "ann", Title: "\xff"},
		"contains a NUL byte": {User: "ann", Title: "x", Body: "a\x00b"},
	} {
		_, err := notifs.New(tx).Create(ctx, n)
		require.ErrorIs(t, err, notifs.ErrInvalid, want)
		require.ErrorContains(t, err, want)
	}
	create(t, notifs.New(tx), notifs.Notification{User: "ann", Title: "x"})
	require.NoError(t, tx.Commit(ctx))
}

// Within one transaction the database's clock stands still, so ages are exact.
func TestService_CleanUpAges(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		age, expiresIn string
		read, deleted  bool
	}{
		"a second younger than 90 days stays":             {age: "90 days - 1 second"},
		"exactly 90 days old stays":                       {age: "90 days"},
		"a second older than 90 days is deleted":          {age: "90 days + 1 second", deleted: true},
		"read and older than 90 days is deleted":          {age: "91 days", read: true, deleted: true},
		"read and young stays":                            {age: "1 day", read: true},
		"expired a second ago is deleted":                 {age: "1 day", expiresIn: "-1 second", deleted: true},
		"expired this instant is deleted":                 {age: "1 day", expiresIn: "0", deleted: true},
		"expires in a second stays":                       {age: "1 day", expiresIn: "1 second"},
		"older than 90 days is deleted before it expires": {age: "91 days", expiresIn: "1 year", deleted: true},
		"89 days old and not expired stays":               {age: "89 days", expiresIn: "1 year"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, pool := t.Context(), db.Pool(t)
			tx, err := pool.Begin(ctx)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(ctx) }()
			_, err = tx.Exec(ctx, `SET LOCAL TimeZone = 'UTC'`)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, `
				INSERT INTO notifications (user_id, title, created_at, read_at, expires_at)
				VALUES ('ann', 'x', now() - $1::text::interval, CASE WHEN $2 THEN now() END, now() + nullif($3::text, '')::interval)`,
				row.age, row.read, row.expiresIn)
			require.NoError(t, err)
			// Daylight saving time must not change an age.
			_, err = tx.Exec(ctx, `SET LOCAL TimeZone = 'Europe/Berlin'`)
			require.NoError(t, err)
			deleted, err := notifs.New(tx).CleanUp(ctx)
			require.NoError(t, err)
			require.Equal(t, row.deleted, deleted == 1)
			require.Equal(t, row.deleted, count(t, tx) == 0)
		})
	}
}

func TestService_ConcurrentCleanUpsCountEachRowOnce(t *testing.T) {
	t.Parallel()
	pool := db.Pool(t)
	fill(t, pool, 7_000, 100)
	handler := cleanUp(t)
	var logs [2]bytes.Buffer
	var group errgroup.Group
	for i := range logs {
		group.Go(func() error { return handler(t.Context(), pool, &logs[i]) })
	}
	require.NoError(t, group.Wait())
	require.Equal(t, 7_000, logged(t, &logs[0])+logged(t, &logs[1]))
	require.Equal(t, 100, count(t, pool))
}

func TestService_InterruptedCleanUpKeepsItsBatchesAndTheNextContinues(t *testing.T) {
	t.Parallel()
	pool := db.Pool(t)
	fill(t, pool, 5_000, 100)
	handler := cleanUp(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log bytes.Buffer
	require.ErrorIs(t, handler(ctx, cancelling{pool, cancel}, &log), context.Canceled)
	n := logged(t, &log)
	require.Positive(t, n)
	require.Less(t, n, 5_000, "one statement deleted all rows")
	require.Equal(t, 5_100-n, count(t, pool), "the log and the table differ")
	require.NoError(t, handler(t.Context(), pool, io.Discard))
	require.Equal(t, 100, count(t, pool))
}

func TestService_CleanUpSkipsLockedRows(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), db.Pool(t)
	fill(t, pool, 10, 0)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT FROM notifications WHERE id = 1 FOR UPDATE`)
	require.NoError(t, err)
	soon, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	deleted, err := notifs.New(pool).CleanUp(soon)
	require.NoError(t, err, "CleanUp waited for a lock")
	require.Equal(t, 9, deleted)
	require.NoError(t, tx.Rollback(ctx))
	deleted, err = notifs.New(pool).CleanUp(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, deleted)
}

func TestRegisterNotifsJobs(t *testing.T) {
	t.Parallel()
	registry, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, notifs.RegisterNotifsJobs(registry))
	require.Len(t, registry.Jobs(), 1)
	job, err := registry.Job("notifs.cleanup")
	require.NoError(t, err)
	require.Equal(t, "every 1h0m0s", job.Schedule.String())
	require.ErrorIs(t, notifs.RegisterNotifsJobs(registry), jobs.ErrDuplicate)
}

func create(t *testing.T, s *notifs.Service, n notifs.Notification) int64 {
	t.Helper()
	id, err := s.Create(t.Context(), n)
	require.NoError(t, err)
	return id
}

func ids(list []notifs.Notification) (ids []int64) {
	for _, n := range list {
		ids = append(ids, n.ID)
	}
	return ids
}

func count(t *testing.T, db jobs.DB) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(context.Background(), `SELECT count(*) FROM notifications`).Scan(&n))
	return n
}

// fill stores notifications to be deleted, half of them old and half expired, and young ones.
func fill(t *testing.T, db jobs.DB, old, young int) {
	t.Helper()
	_, err := db.Exec(t.Context(), `
		INSERT INTO notifications (user_id, title, created_at, expires_at)
		SELECT 'ann', 'x',
			CASE WHEN i <= $1 AND i % 2 = 0 THEN now() - interval '100 days' ELSE now() END,
			CASE WHEN i <= $1 AND i % 2 = 1 THEN now() - interval '1 hour' END
		FROM generate_series(1, $1::int + $2::int) i`, old, young)
	require.NoError(t, err)
}

// cleanUp returns a function that runs the registered handler as a scheduler does.
func cleanUp(t *testing.T) func(ctx context.Context, db jobs.DB, log io.Writer) error {
	t.Helper()
	registry, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, notifs.RegisterNotifsJobs(registry))
	definition, err := registry.Job("notifs.cleanup")
	require.NoError(t, err)
	return func(ctx context.Context, db jobs.DB, log io.Writer) error {
		job := &jobs.Job{ID: "1", Name: definition.Name, Attempt: 1, MaxAttempts: 3, DB: db}
		return definition.Run(ctx, job, slog.New(slog.NewJSONHandler(log, nil)))
	}
}

func logged(t *testing.T, log *bytes.Buffer) int {
	t.Helper()
	var line struct{ Deleted *int }
	require.NotContains(t, strings.TrimSpace(log.String()), "\n", "one line per run")
	require.NoError(t, json.Unmarshal(log.Bytes(), &line))
	require.NotNil(t, line.Deleted, "the count is logged as deleted")
	return *line.Deleted
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
