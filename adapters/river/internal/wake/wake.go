// Package wake notifies workers in River's place: of jobs that are inserted, that become due, and that return to
// the queue.
//
// River sends at most one notification per fetch cooldown and drops the rest, so a job inserted just after another
// waits for a poll; a notification that was rolled back counts too. Here, notifications inside the cooldown are sent
// when it ends. River doesn't notify workers when a scheduled job becomes due either; they find it by polling, on
// average half an interval late. Here the leader watches for such jobs, and the process that inserts a job that is
// due within seconds notifies for it itself. If a notification is lost, the poll finds the job.
package wake

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
)

// The timings. watchEvery is shorter than bySelf: the process that inserts a job notifies for it if the leader might
// not see it in time.
const (
	// Cooldown is the least time between two notifications of a process.
	Cooldown = 5 * time.Millisecond
	// margin is how long after a job is due workers are notified. A fetch before that would find nothing.
	margin = 2 * time.Millisecond
	// watchAgain is how soon the leader checks again after jobs were due. It doubles while each check finds some:
	// those are most likely triggered to run at once, and notified for anyway.
	watchAgain = 25 * time.Millisecond
	// commitTime is how long most transactions take from TriggerTx to their commit.
	commitTime = 100 * time.Millisecond
	// watchEvery is how often the leader checks, unless it knows of an earlier instant.
	watchEvery = time.Second
	// timeout bounds a notification.
	timeout = 5 * time.Second
	// bySelf is how soon a job is due for which the process that inserts it notifies itself.
	bySelf = 5 * time.Second
)

// A Waker notifies workers. Make one with [New].
type Waker struct {
	pool     *pgxpool.Pool
	store    *store.Store
	clock    *dbclock.Clock
	log      *slog.Logger
	pollOnly bool

	mu     sync.Mutex
	last   time.Time           // when a notification was last sent
	lastTx time.Time           // when one was last sent in a caller's transaction
	held   map[string]struct{} // queues to notify when the cooldown ends
	armed  bool                // sendHeld will run, or is running
}

// New returns a waker on pool. With pollOnly it does nothing.
func New(pool *pgxpool.Pool, s *store.Store, clock *dbclock.Clock, log *slog.Logger, pollOnly bool) *Waker {
	return &Waker{pool: pool, store: s, clock: clock, log: log, pollOnly: pollOnly, held: map[string]struct{}{}}
}

// Attach adds the notification for jobs to the batch that inserts them, which saves a round trip, and reports whether
// it did. It does not inside the cooldown.
func (w *Waker) Attach(batch *pgx.Batch, jobs []*insert.Job) bool {
	queues := immediate(jobs)
	if w.pollOnly || len(queues) == 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.armed || time.Since(w.last) < Cooldown {
		return false
	}
	w.last = time.Now()
	w.store.QueueNotify(batch, queues)
	return true
}

// Inserted notifies for jobs that were inserted and committed, unless [Waker.Attach] has.
func (w *Waker) Inserted(ctx context.Context, jobs []*insert.Job, attached bool) {
	w.notifyWhenDue(jobs)
	if !attached {
		w.Notify(ctx, immediate(jobs))
	}
}

// InsertedTx notifies for jobs when tx commits.
func (w *Waker) InsertedTx(ctx context.Context, tx pgx.Tx, jobs ...*insert.Job) error {
	w.notifyWhenDue(jobs)
	return w.NotifyTx(ctx, tx, immediate(jobs))
}

// immediate returns the queues of jobs that are due now.
func immediate(jobs []*insert.Job) (queues []string) {
	for _, j := range jobs {
		if j.Immediate() && !slices.Contains(queues, j.Queue) {
			queues = append(queues, j.Queue)
		}
	}
	return queues
}

// notifyWhenDue notifies for jobs that are due within seconds, when they are.
func (w *Waker) notifyWhenDue(jobs []*insert.Job) {
	var last *insert.Job
	for _, j := range jobs {
		if j.Immediate() || last != nil && last.Queue == j.Queue && last.Due.Equal(j.Due) { // many are due together
			continue
		}
		last = j
		if wait := w.clock.Until(j.Due); wait < bySelf {
			w.notifyAfter(wait+margin, j.Queue)
		}
	}
}

// Notify notifies the workers of these queues, at once or when the cooldown ends, and once for a queue that occurs
// several times. A failure is only logged: the jobs are stored, and workers find them at their next poll.
func (w *Waker) Notify(ctx context.Context, queues []string) {
	if w.pollOnly || len(queues) == 0 {
		return
	}
	w.mu.Lock()
	w.hold(queues)
	if wait := Cooldown - time.Since(w.last); wait > 0 {
		w.arm(wait)
		queues = nil
	} else {
		queues = w.release()
	}
	w.mu.Unlock()
	w.send(ctx, w.pool, queues)
}

func (w *Waker) notifyAfter(d time.Duration, queue string) {
	if w.pollOnly {
		return
	}
	time.AfterFunc(max(0, d), func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		w.Notify(ctx, []string{queue})
	})
}

// NotifyTx notifies the workers of these queues when tx commits. PostgreSQL lets transactions that notify commit only
// one after the other, so within the cooldown of another the notification is sent outside of tx instead: when the
// cooldown ends, by when tx may have committed, and once more a little later. With pollOnly nothing is sent: a
// server without NOTIFY would fail tx.
func (w *Waker) NotifyTx(ctx context.Context, tx pgx.Tx, queues []string) error {
	if w.pollOnly || len(queues) == 0 {
		return nil
	}
	w.mu.Lock()
	within := time.Since(w.lastTx) < Cooldown
	if within {
		w.hold(queues)
		w.arm(Cooldown)
	} else {
		w.lastTx = time.Now()
	}
	w.mu.Unlock()
	if !within {
		return w.store.NotifyInsert(ctx, tx, queues)
	}
	for _, queue := range queues {
		w.notifyAfter(commitTime, queue)
	}
	return nil
}

func (w *Waker) send(ctx context.Context, db store.DB, queues []string) {
	if len(queues) == 0 {
		return
	}
	if err := w.store.NotifyInsert(ctx, db, queues); err != nil {
		w.log.DebugContext(ctx, "could not notify workers of a job; they find it at their next poll", "error", err)
	}
}

// hold, arm and release are called with w.mu locked.
func (w *Waker) hold(queues []string) {
	for _, q := range queues {
		w.held[q] = struct{}{}
	}
}

func (w *Waker) arm(d time.Duration) {
	if !w.armed {
		w.armed = true
		time.AfterFunc(d, w.sendHeld)
	}
}

func (w *Waker) release() []string {
	queues := slices.Collect(maps.Keys(w.held))
	clear(w.held)
	w.last = time.Now()
	return queues
}

func (w *Waker) sendHeld() {
	w.mu.Lock()
	queues := w.release()
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	w.send(ctx, w.pool, queues)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	if len(w.held) > 0 { // came while this one waited for a connection
		w.arm(Cooldown)
	}
}

// Watch notifies for jobs that become due, until ctx ends. It runs in the leader, and reads by pool.
func (w *Waker) Watch(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	if w.pollOnly {
		return
	}
	var since *time.Time // by the database's clock; jobs due before it have been notified for
	again := watchAgain
	for wait := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		bounded, cancel := context.WithTimeout(ctx, timeout)
		now, queues, next, err := w.store.BecomingDue(bounded, pool, since)
		cancel()
		wait = watchEvery
		switch {
		case err != nil:
			if ctx.Err() == nil {
				log.WarnContext(ctx, "could not check for jobs that become due; workers find them at their next poll", "error", err)
			}
			continue
		case len(queues) > 0:
			w.Notify(ctx, queues)
			since, wait, again = &now, again, min(2*again, watchEvery)
		default:
			since, again = &now, watchAgain
		}
		if next != nil {
			wait = min(wait, max(watchAgain, next.Sub(now)+margin))
		}
	}
}

// Returned notifies for jobs that return to the queue, by River's events that their rows are stored, until events is
// closed. Then the process is about to end, and it notifies by pool for the jobs that its shutdown interrupted.
func (w *Waker) Returned(events <-chan *riverqueue.Event, pool *pgxpool.Pool, each func(*riverqueue.Event)) {
	interrupted := map[string]struct{}{}
	for event := range events {
		each(event)
		job := event.Job
		switch {
		case job.State != rivertype.JobStateAvailable: // it has ended, or River's leader will make it available
		case event.Kind == riverqueue.EventKindJobInterrupted:
			interrupted[job.Queue] = struct{}{}
		default:
			if wait := w.clock.Until(job.ScheduledAt); wait < watchEvery { // later ones the leader watches for
				w.notifyAfter(wait+margin, job.Queue)
			}
		}
	}
	if w.pollOnly {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	w.send(ctx, pool, slices.Collect(maps.Keys(interrupted)))
}
