package audit

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
)

// repo holds the package's SQL. Ages are measured by the database's clock, which also stamps the entries.
type repo struct{ db jobs.DB }

func (r repo) insert(ctx context.Context, e Entry) (id int64, err error) {
	err = r.db.QueryRow(ctx, `
		INSERT INTO audit_entries (occurred_at, actor, action, target, detail)
		VALUES (coalesce($1, now()), $2, $3, $4, $5)
		RETURNING id`,
		nullTime(e.OccurredAt), e.Actor, e.Action, e.Target, e.Detail).Scan(&id)
	return id, err
}

func (r repo) recent(ctx context.Context, f Filter) ([]Entry, error) {
	rows, err := r.db.Query(ctx, `
		SELECT id, occurred_at, actor, action, target, detail
		FROM audit_entries
		WHERE ($1 = '' OR actor = $1) AND ($2 = '' OR target = $2)
		ORDER BY occurred_at DESC, id DESC
		LIMIT $3`,
		f.Actor, f.Target, f.Limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Entry, error) {
		var e Entry
		err := row.Scan(&e.ID, &e.OccurredAt, &e.Actor, &e.Action, &e.Target, &e.Detail)
		e.OccurredAt = e.OccurredAt.UTC()
		return e, err
	})
}

// archive moves up to limit entries older than age to the archive, oldest first, and returns how many it moved. It is
// a single statement, so each entry is always in exactly one table. It skips rows that another run has locked.
func (r repo) archive(ctx context.Context, age time.Duration, limit int) (int, error) {
	tag, err := r.db.Exec(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM audit_entries
			WHERE occurred_at < now() - $1::interval
			ORDER BY occurred_at, id
			LIMIT $2
			FOR UPDATE SKIP LOCKED
		), moved AS (
			DELETE FROM audit_entries e USING due WHERE e.id = due.id
			RETURNING e.id, e.occurred_at, e.actor, e.action, e.target, e.detail
		)
		INSERT INTO audit_archive (id, occurred_at, actor, action, target, detail)
		SELECT id, occurred_at, actor, action, target, detail FROM moved`,
		age, limit)
	return int(tag.RowsAffected()), err
}

// purge deletes up to limit archived entries older than age, oldest first, and returns how many it deleted. Like
// archive it skips locked rows.
func (r repo) purge(ctx context.Context, age time.Duration, limit int) (int, error) {
	tag, err := r.db.Exec(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM audit_archive
			WHERE occurred_at < now() - $1::interval
			ORDER BY occurred_at, id
			LIMIT $2
			FOR UPDATE SKIP LOCKED
		)
		DELETE FROM audit_archive a USING due WHERE a.id = due.id`,
		age, limit)
	return int(tag.RowsAffected()), err
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
