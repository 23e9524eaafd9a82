package email

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
)

// repo is the SQL of the outbox. Times are told by the database's clock.
//
// A mail is sent outside any transaction, so no lock can say who is at it. A claim
// does: the one who sends a mail first writes a random value into its row, with the
// time until which it counts, and every later write about the outcome is for that
// value only. A claim that is not released, because its process died, runs out, and
// the mail is anyone's again.
type repo struct{ db jobs.DB }

// A claimed mail is one that nobody else sends until the claim runs out.
type claimed struct {
	Message
	id        int64
	claim     [16]byte
	attempts  int // this one included
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

// claimDue claims the mail that has been due longest, or returns nil when there is
// none. Rows that others are claiming at this moment are skipped.
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

// claimKeyed claims the mail of that key, due, given up or not, storing it first if it is not
// there. It returns nil when the mail is sent or somebody else sends it.
func (r repo) claimKeyed(ctx context.Context, key string, m Message, lease time.Duration) (*claimed, error) {
	// One statement: a mail stored unclaimed could be taken by the queue at once.
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

// statusOfKeyed tells what has become of the mail of that key, and for how long it is
// claimed if it is.
func (r repo) statusOfKeyed(ctx context.Context, key string) (status, lastError string, left time.Duration, err error) {
	err = r.db.QueryRow(ctx, `
		SELECT status, last_error, greatest(coalesce(claimed_until - now(), '0'), '0')
		FROM email_outbox WHERE job_key = $1`,
		key).Scan(&status, &lastError, &left)
	return status, lastError, left, err
}

// finish marks a mail sent or failed. Like postpone and release it reports whether
// the claim still held; if not, the row is another's and stays as it is.
func (r repo) finish(ctx context.Context, c *claimed, status, reason string) (held bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE email_outbox
		SET status = $3, last_error = $4, finished_at = now(), claim = NULL, claimed_until = NULL
		WHERE id = $1 AND claim = $2`,
		c.id, c.claim, status, reason)
	return tag.RowsAffected() == 1, err
}

// postpone gives a mail back, to be tried again after delay.
func (r repo) postpone(ctx context.Context, c *claimed, delay time.Duration, reason string) (held bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE email_outbox
		SET due_at = now() + $3::interval, last_error = $4, claim = NULL, claimed_until = NULL
		WHERE id = $1 AND claim = $2`,
		c.id, c.claim, delay, reason)
	return tag.RowsAffected() == 1, err
}

// release gives a mail back as if it had not been claimed.
func (r repo) release(ctx context.Context, c *claimed) (held bool, err error) {
	tag, err := r.db.Exec(ctx, `
		UPDATE email_outbox
		SET attempts = attempts - 1, claim = NULL, claimed_until = NULL
		WHERE id = $1 AND claim = $2`,
		c.id, c.claim)
	return tag.RowsAffected() == 1, err
}

// deleteOld deletes up to limit mails that were sent or given up longer than age ago.
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
