package email

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
)

// repo holds the SQL of the outbox. All times are by the database's clock.
//
// Messages are sent outside any transaction, so a row lock cannot protect them. A claim does: before sending, a
// process writes a random value and an expiry time into the row, and it stores the outcome only if the row still has
// that value. If the process dies, its claim expires and any process may send the message.
type repo struct{ db jobs.DB }

// A claimed message is sent by no other process until the claim expires.
type claimed struct {
	Message
	id        int64
	claim     [16]byte
	attempts  int // including this one
	createdAt time.Time
}

const claimColumns = `id, claim, attempts, created_at, recipients, subject, body_text, body_html`

func (r repo) insert(ctx context.Context, m Message) (id int64, err error) {
	err = r.db.QueryRow(ctx, `
		INSERT INTO email_outbox (recipients, subject, body_text, body_html)
		VALUES ($1, $2, $3, $4)
		RETURNING id`,
		m.To, m.Subject, m.Text, m.HTML).Scan(&id)
	return id, err
}

// claimDue claims the message that has been due longest, or returns nil if there is none. It skips locked rows, which
// others are claiming.
func (r repo) claimDue(ctx context.Context, lease time.Duration) (*claimed, error) {
	return scanClaimed(r.db.QueryRow(ctx, `
		UPDATE email_outbox
		SET claim = gen_random_uuid(), claimed_until = now() + $1::interval, attempts = attempts + 1
		WHERE id = (
			SELECT id FROM email_outbox
			WHERE status = 'pending' AND due_at <= now() AND (claimed_until IS NULL OR claimed_until <= now())
			ORDER BY due_at, id
			LIMIT 1
			FOR UPDATE SKIP LOCKED
		)
		RETURNING `+claimColumns,
		lease))
}

// claimKeyed claims the message with this key, storing it first if needed, whether or not it is due or was given up.
// It returns nil if the message was sent or another process has claimed it.
func (r repo) claimKeyed(ctx context.Context, key string, m Message, lease time.Duration) (*claimed, error) {
	// One statement: ProcessQueue could claim a message that was stored without a claim.
	return scanClaimed(r.db.QueryRow(ctx, `
		INSERT INTO email_outbox AS o (job_key, recipients, subject, body_text, body_html, claim, claimed_until, attempts)
		VALUES ($1, $2, $3, $4, $5, gen_random_uuid(), now() + $6::interval, 1)
		ON CONFLICT (job_key) DO UPDATE
		SET claim = excluded.claim, claimed_until = excluded.claimed_until, status = 'pending', finished_at = NULL,
			attempts = CASE WHEN o.status = 'failed' THEN 1 ELSE o.attempts + 1 END
		WHERE o.status IN ('pending', 'failed') AND (o.claimed_until IS NULL OR o.claimed_until <= now())
		RETURNING `+claimColumns,
		key, m.To, m.Subject, m.Text, m.HTML, lease))
}

func scanClaimed(row pgx.Row) (*claimed, error) {
	var c claimed
	err := row.Scan(&c.id, &c.claim, &c.attempts, &c.createdAt, &c.To, &c.Subject, &c.Text, &c.HTML)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &c, err
}

// statusOfKeyed returns the status of the message with this key, and how long its claim is still valid, 0 if it has
// none.
func (r repo) statusOfKeyed(ctx context.Context, key string) (status, lastError string, left time.Duration, err error) {
	err = r.db.QueryRow(ctx, `
		SELECT status, last_error, greatest(coalesce(claimed_until - now(), '0'), '0')
		FROM email_outbox WHERE job_key = $1`,
		key).Scan(&status, &lastError, &left)
	return status, lastError, left, err
}

// finish marks a message as sent or failed. Like postpone and release it reports whether the claim was still held. If
// not, another process has the row, and it is left unchanged.
func (r repo) finish(ctx context.Context, c *claimed, status, reason string) (held bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE email_outbox
		SET status = $3, last_error = $4, finished_at = now(), claim = NULL, claimed_until = NULL
		WHERE id = $1 AND claim = $2`,
		c.id, c.claim, status, reason)
	return tag.RowsAffected() == 1, err
}

// postpone releases the claim and makes the message due again after delay.
func (r repo) postpone(ctx context.Context, c *claimed, delay time.Duration, reason string) (held bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE email_outbox
		SET due_at = now() + $3::interval, last_error = $4, claim = NULL, claimed_until = NULL
		WHERE id = $1 AND claim = $2`,
		c.id, c.claim, delay, reason)
	return tag.RowsAffected() == 1, err
}

// release releases the claim and does not count the attempt.
func (r repo) release(ctx context.Context, c *claimed) (held bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE email_outbox
		SET attempts = attempts - 1, claim = NULL, claimed_until = NULL
		WHERE id = $1 AND claim = $2`,
		c.id, c.claim)
	return tag.RowsAffected() == 1, err
}

// deleteOld deletes up to limit messages that were sent or given up more than age ago.
func (r repo) deleteOld(ctx context.Context, age time.Duration, limit int) error {
	_, err := r.db.Exec(ctx, `
		WITH old AS MATERIALIZED (
			SELECT id FROM email_outbox
			WHERE finished_at < now() - $1::interval
			ORDER BY finished_at
			LIMIT $2
			FOR UPDATE SKIP LOCKED
		)
		DELETE FROM email_outbox o USING old WHERE o.id = old.id`,
		age, limit)
	return err
}
