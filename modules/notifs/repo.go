package notifs

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
)

// repo holds the package's SQL. All times are by the database's clock.
type repo struct{ db jobs.DB }

// live is the condition for a notification that has not expired.
const live = `(expires_at IS NULL OR expires_at > now())`

func (r repo) insert(ctx context.Context, n Notification) (id int64, err error) {
	var expires *time.Time
	if !n.ExpiresAt.IsZero() {
		expires = &n.ExpiresAt
	}
	err = r.db.QueryRow(ctx, `
		INSERT INTO notifications (user_id, kind, title, body, expires_at)
		VALUES ($1, $2, $3, $4, $5)
		RETURNING id`,
		n.User, n.Kind, n.Title, n.Body, expires).Scan(&id)
	return id, err
}

func (r repo) list(ctx context.Context, user string, q Query) ([]Notification, error) {
	rows, err := r.db.Query(ctx, `
		SELECT id, user_id, kind, title, body, created_at, read_at, expires_at
		FROM notifications
		WHERE user_id = $1 AND `+live+` AND ($2 = 0 OR id < $2) AND (NOT $3 OR read_at IS NULL)
		ORDER BY id DESC
		LIMIT $4`,
		user, q.Before, q.UnreadOnly, q.Limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Notification, error) {
		var n Notification
		var read, expires *time.Time
		err := row.Scan(&n.ID, &n.User, &n.Kind, &n.Title, &n.Body, &n.CreatedAt, &read, &expires)
		n.CreatedAt, n.ReadAt, n.ExpiresAt = n.CreatedAt.UTC(), orZero(read), orZero(expires)
		return n, err
	})
}

func (r repo) unread(ctx context.Context, user string) (n int, err error) {
	err = r.db.QueryRow(ctx, `
		SELECT count(*) FROM notifications WHERE user_id = $1 AND read_at IS NULL AND `+live,
		user).Scan(&n)
	return n, err
}

// markRead reports whether the notification exists. If it was read before, it keeps the time of the first reading.
func (r repo) markRead(ctx context.Context, user string, id int64) (found bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE notifications SET read_at = coalesce(read_at, now()) WHERE user_id = $1 AND id = $2`,
		user, id)
	return tag.RowsAffected() > 0, err
}

func (r repo) markAllRead(ctx context.Context, user string) (int, error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE notifications SET read_at = now() WHERE user_id = $1 AND read_at IS NULL`,
		user)
	return int(tag.RowsAffected()), err
}

// deleteOld deletes up to limit notifications that have expired or are older than age, and returns how many it
// deleted. It skips locked rows.
func (r repo) deleteOld(ctx context.Context, age time.Duration, limit int) (int, error) {
	tag, err := r.db.Exec(ctx, `
		WITH old AS MATERIALIZED (
			SELECT id FROM notifications
			WHERE expires_at <= now() OR created_at < now() - $1::interval
			LIMIT $2
			FOR UPDATE SKIP LOCKED
		)
		DELETE FROM notifications n USING old WHERE n.id = old.id`,
		age, limit)
	return int(tag.RowsAffected()), err
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
