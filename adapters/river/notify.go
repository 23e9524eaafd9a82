package river

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// notifier tells workers of new jobs. River sends one notification at most in each
// fetch cooldown and drops the others, so that a job stored just after another waits
// for a poll. Here what came too early is told when the cooldown has passed.
type notifier struct {
	pool *pgxpool.Pool
	log  *slog.Logger

	mu     sync.Mutex
	last   time.Time
	late   *notification // to be sent when the cooldown has passed, or nil
	queues map[string]struct{}
}

// notification is River's statement, the last argument of which is its payloads.
type notification struct {
	sql  string
	args []any
}

// notifyTimeout bounds a late notification.
const notifyTimeout = 5 * time.Second

// execer is a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// exec runs what River sends after an INSERT: a notification at once if it is the
// first in a while, else later.
func (n *notifier) exec(ctx context.Context, conn execer, sql string, args []any) (pgconn.CommandTag, error) {
	payloads, ok := []string(nil), false
	if len(args) > 0 {
		payloads, ok = args[len(args)-1].([]string)
	}
	if !ok || !strings.Contains(sql, "pg_notify") {
		return conn.Exec(ctx, sql, args...)
	}
	if n.putOff(sql, args[:len(args)-1], payloads) {
		return pgconn.CommandTag{}, nil
	}
	return conn.Exec(ctx, sql, args...)
}

// notify tells the workers of one queue, in River's words.
func (n *notifier) notify(ctx context.Context, conn execer, schema, queue string) error {
	_, err := n.exec(ctx, conn, `SELECT pg_notify($1 || '.river_insert', payload) FROM unnest($2::text[]) AS payload`,
		[]any{schema, []string{`{"queue": "` + queue + `"}`}})
	return err
}

func (n *notifier) putOff(sql string, args []any, payloads []string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	wait := fetchCooldown - time.Since(n.last)
	if wait <= 0 && n.late == nil {
		n.last = time.Now()
		return false
	}
	if n.late == nil {
		n.late, n.queues = &notification{sql, args}, map[string]struct{}{}
		time.AfterFunc(wait, n.sendLate)
	}
	for _, p := range payloads {
		n.queues[p] = struct{}{}
	}
	return true
}

func (n *notifier) sendLate() {
	n.mu.Lock()
	late, payloads := n.late, make([]string, 0, len(n.queues))
	for p := range n.queues {
		payloads = append(payloads, p)
	}
	n.late, n.queues, n.last = nil, nil, time.Now()
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	if _, err := n.pool.Exec(ctx, late.sql, append(late.args, payloads)...); err != nil {
		n.failed(ctx, err)
	}
}

// failed is no reason to tell a caller that the job failed: it is stored, and waits
// for the next poll.
func (n *notifier) failed(ctx context.Context, err error) {
	n.log.DebugContext(ctx, "workers were not notified of a new job and find it at their next poll", "error", err)
}

// notifyingTx is a transaction whose notifications pass through a notifier.
type notifyingTx struct {
	pgx.Tx
	n *notifier
}

// Exec implements [pgx.Tx].
func (t notifyingTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return t.n.exec(ctx, t.Tx, sql, args)
}
