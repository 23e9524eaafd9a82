package river

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/insert"
)

// notifier tells workers of new jobs, in River's place. River sends one notification at
// most in each fetch cooldown, 1 ms at least, and drops the others, so that a job stored
// just after another waits for a poll. Here what came too early is told when the
// cooldown has passed.
type notifier struct {
	pool   *pgxpool.Pool
	log    *slog.Logger
	schema string
	// pollOnly is set where nobody may be able to listen.
	pollOnly bool

	mu      sync.Mutex
	last    time.Time           // a notification was sent
	lastTx  time.Time           // a transaction was told to
	untold  map[string]struct{} // the queues of jobs that are to be told of
	waiting bool                // sendLate is to run, or runs
}

// commitTime is what most transactions have committed in after their last statement but one.
const commitTime = 100 * time.Millisecond

// notifyTimeout bounds a late notification.
const notifyTimeout = 5 * time.Second

// execer is a connection, a transaction or a pool.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// queuesOf returns the queues whose workers may take one of the rows now.
func queuesOf(stored ...*insert.Job) (queues []string) {
	for _, r := range stored {
		if r.Immediate() && !slices.Contains(queues, r.Queue) {
			queues = append(queues, r.Queue)
		}
	}
	return queues
}

// notify tells the workers of those queues of jobs that are stored, committed: at once if
// it is the first time in a while, else later. That it cannot is no reason to tell a
// caller that the job failed.
func (n *notifier) notify(ctx context.Context, conn execer, queues []string) {
	if n.pollOnly || len(queues) == 0 {
		return
	}
	if queues = n.dueWith(queues); len(queues) == 0 {
		return
	}
	if err := n.send(ctx, conn, queues); err != nil {
		n.failed(ctx, err)
	}
}

// in is like notify, so much later.
func (n *notifier) in(d time.Duration, queues ...string) {
	if n.pollOnly {
		return
	}
	time.AfterFunc(d, func() {
		ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
		defer cancel()
		n.notify(ctx, n.pool, queues)
	})
}

// notifyTx has PostgreSQL tell the workers when tx commits, unless another transaction
// was told to just before: those that notify commit one after the other. It is then told
// when the cooldown has passed, by which time tx may have been committed, and once more
// after a while; else the job waits for a poll, or for the next one that is told of. With PollOnly nobody
// listens, and a server that knows no notifications would fail tx.
func (n *notifier) notifyTx(ctx context.Context, tx pgx.Tx, queues []string) error {
	if n.pollOnly || len(queues) == 0 {
		return nil
	}
	n.mu.Lock()
	again := time.Since(n.lastTx) < fetchCooldown
	if !again {
		n.lastTx = time.Now()
	}
	n.mu.Unlock()
	if again {
		n.tellLate(queues)
		n.in(commitTime, queues...)
		return nil
	}
	return n.send(ctx, tx, queues)
}

func (n *notifier) send(ctx context.Context, conn execer, queues []string) error {
	sql, args := n.sql(queues)
	_, err := conn.Exec(ctx, sql, args...)
	return err
}

// sql says it in River's words.
func (n *notifier) sql(queues []string) (string, []any) {
	return `SELECT pg_notify($1::text || '.river_insert', '{"queue": "' || queue || '"}') FROM unnest($2::text[]) AS queue`,
		[]any{n.schema, queues}
}

// dueWith returns these queues and those that wait to be told, or none when it is too early.
func (n *notifier) dueWith(queues []string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.add(queues)
	if wait := fetchCooldown - time.Since(n.last); wait > 0 {
		n.wait(wait)
		return nil
	}
	return n.take()
}

// tellLate has these queues told when a cooldown has passed.
func (n *notifier) tellLate(queues []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.add(queues)
	n.wait(fetchCooldown)
}

func (n *notifier) add(queues []string) {
	if n.untold == nil {
		n.untold = map[string]struct{}{}
	}
	for _, q := range queues {
		n.untold[q] = struct{}{}
	}
}

func (n *notifier) wait(d time.Duration) {
	if !n.waiting {
		n.waiting = true
		time.AfterFunc(d, n.sendLate)
	}
}

func (n *notifier) take() []string {
	queues := slices.Collect(maps.Keys(n.untold))
	clear(n.untold)
	n.last = time.Now()
	return queues
}

func (n *notifier) sendLate() {
	n.mu.Lock()
	queues := n.take()
	n.mu.Unlock()
	if len(queues) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
		defer cancel()
		if err := n.send(ctx, n.pool, queues); err != nil {
			n.failed(ctx, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting = false
	if len(n.untold) > 0 { // came while we waited for a connection
		n.wait(fetchCooldown)
	}
}

// failed says what follows: the job is stored, and waits for the next poll.
func (n *notifier) failed(ctx context.Context, err error) {
	n.log.DebugContext(ctx, "workers were not notified of a new job and find it at their next poll", "error", err)
}
