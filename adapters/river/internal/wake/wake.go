// Package wake tells workers of jobs, in River's place: of those that are inserted, that become due, and that go
// back to the queue.
//
// River sends one notification at most in each fetch cooldown and drops the others, also after one that was rolled
// back, so that a job inserted just after another waits for a poll. Here what comes within the cooldown is told
// when it ends. River tells nobody of a scheduled job that becomes due either: workers find it by polling, on
// average half an interval late. Here the leader looks for such jobs, and whoever inserts one that is due so soon
// that the leader might not see it tells of it itself. Where neither can, the poll finds the job.
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

// The timings. interval is shorter than bySelf: of a job that is due before the leader looks again, the process that
// inserts it tells.
const (
	// Cooldown is the least time between two notifications of a process.
	Cooldown = 5 * time.Millisecond
	// margin is how long after an instant workers are told: what asks too early finds nothing.
	margin = 2 * time.Millisecond
	// pause is how soon the leader looks again after jobs were due. It doubles while there are some each time:
	// then they are most likely triggered to run at once, and workers are told of them anyway.
	pause = 25 * time.Millisecond
	// commitTime is what most transactions have committed in after their last statement but one.
	commitTime = 100 * time.Millisecond
	// interval is how often the leader looks, unless it knows of an earlier instant.
	interval = time.Second
	// timeout bounds a notification.
	timeout = 5 * time.Second
	// bySelf is how soon a job is due of which the process that inserts it tells itself.
	bySelf = 5 * time.Second
)

// A Waker tells workers. Make one with [New].
type Waker struct {
	pool     *pgxpool.Pool
	store    *store.Store
	clock    *dbclock.Clock
	log      *slog.Logger
	pollOnly bool

	mu      sync.Mutex
	last    time.Time           // a notification was sent
	lastTx  time.Time           // a transaction was told to send one
	untold  map[string]struct{} // the queues of jobs that are to be told of
	waiting bool                // sendLate is to run, or runs
}

// New returns a waker on pool. With pollOnly it does nothing: nobody may be able to listen.
func New(pool *pgxpool.Pool, s *store.Store, clock *dbclock.Clock, log *slog.Logger, pollOnly bool) *Waker {
	return &Waker{pool: pool, store: s, clock: clock, log: log, pollOnly: pollOnly, untold: map[string]struct{}{}}
}

// Inserted tells of jobs that were inserted and committed.
func (w *Waker) Inserted(ctx context.Context, jobs []*insert.Job) {
	w.whenDue(jobs)
	w.Notify(ctx, immediate(jobs))
}

// InsertedTx has PostgreSQL tell of jobs when tx commits.
func (w *Waker) InsertedTx(ctx context.Context, tx pgx.Tx, jobs ...*insert.Job) error {
	w.whenDue(jobs)
	return w.NotifyTx(ctx, tx, immediate(jobs))
}

// immediate returns the queues whose workers may take one of the jobs now.
func immediate(jobs []*insert.Job) (queues []string) {
	for _, j := range jobs {
		if j.Immediate() && !slices.Contains(queues, j.Queue) {
			queues = append(queues, j.Queue)
		}
	}
	return queues
}

// whenDue tells of those that are due within seconds, when they are.
func (w *Waker) whenDue(jobs []*insert.Job) {
	type due struct {
		queue string
		at    int64
	}
	var last due
	for _, j := range jobs {
		if j.Immediate() {
			continue
		}
		d := due{j.Queue, j.Due.UnixNano()}
		if wait := w.clock.Until(j.Due); d != last && wait < bySelf { // many are due together
			w.later(wait+margin, j.Queue)
			last = d
		}
	}
}

// Notify tells the workers of those queues at once, or when the cooldown ends. That it cannot is no reason to tell
// a caller that the job failed: it is stored, and workers find it at their next poll.
func (w *Waker) Notify(ctx context.Context, queues []string) {
	if w.pollOnly || len(queues) == 0 {
		return
	}
	if queues = w.dueWith(queues); len(queues) > 0 {
		w.send(ctx, w.pool, queues)
	}
}

// later is Notify, so much later.
func (w *Waker) later(d time.Duration, queues ...string) {
	if w.pollOnly {
		return
	}
	time.AfterFunc(max(0, d), func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		w.Notify(ctx, queues)
	})
}

// NotifyTx has PostgreSQL tell the workers of those queues when tx commits, unless another transaction was told to
// within the cooldown: those that notify commit one after the other. They are then told when the cooldown has
// passed, by which time tx may have committed, and once more after a while. With pollOnly nothing is sent: a
// server that knows no notifications would fail tx.
func (w *Waker) NotifyTx(ctx context.Context, tx pgx.Tx, queues []string) error {
	if w.pollOnly || len(queues) == 0 {
		return nil
	}
	w.mu.Lock()
	again := time.Since(w.lastTx) < Cooldown
	if again {
		w.add(queues)
		w.wait(Cooldown)
	} else {
		w.lastTx = time.Now()
	}
	w.mu.Unlock()
	if again {
		w.later(commitTime, queues...)
		return nil
	}
	return w.store.NotifyInsert(ctx, tx, queues)
}

func (w *Waker) send(ctx context.Context, db store.DB, queues []string) {
	if err := w.store.NotifyInsert(ctx, db, queues); err != nil {
		w.log.DebugContext(ctx, "workers were not notified of a job and find it at their next poll", "error", err)
	}
}

// dueWith returns these queues and those that wait to be told, or none within the cooldown.
func (w *Waker) dueWith(queues []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(queues)
	if wait := Cooldown - time.Since(w.last); wait > 0 {
		w.wait(wait)
		return nil
	}
	return w.take()
}

func (w *Waker) add(queues []string) {
	for _, q := range queues {
		w.untold[q] = struct{}{}
	}
}

func (w *Waker) wait(d time.Duration) {
	if !w.waiting {
		w.waiting = true
		time.AfterFunc(d, w.sendLate)
	}
}

func (w *Waker) take() []string {
	queues := slices.Collect(maps.Keys(w.untold))
	clear(w.untold)
	w.last = time.Now()
	return queues
}

func (w *Waker) sendLate() {
	w.mu.Lock()
	queues := w.take()
	w.mu.Unlock()
	if len(queues) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		w.send(ctx, w.pool, queues)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = false
	if len(w.untold) > 0 { // came while we waited for a connection
		w.wait(Cooldown)
	}
}

// Watch tells of jobs that become due. It ends with ctx, which is as long as this process leads, and looks by pool.
func (w *Waker) Watch(ctx context.Context, pool *pgxpool.Pool) {
	if w.pollOnly {
		return
	}
	var since *time.Time // of the database, up to which jobs have been told of
	again := pause
	for wait := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		bounded, cancel := context.WithTimeout(ctx, timeout)
		now, queues, next, err := w.store.BecomingDue(bounded, pool, since)
		cancel()
		wait = interval
		switch {
		case err != nil:
			if ctx.Err() == nil {
				w.log.WarnContext(ctx, "could not look for jobs that become due; workers find them at their next poll", "error", err)
			}
			continue
		case len(queues) > 0:
			w.Notify(ctx, queues)
			since, wait, again = &now, again, min(2*again, interval)
		default:
			since, again = &now, pause
		}
		if next != nil {
			wait = min(wait, max(pause, next.Sub(now)+margin))
		}
	}
}

// Returned tells of jobs that go back to the queue, by River's events that this is stored, until there are no
// more. Of those that a shutdown interrupts it tells by pool before it returns: this process ends.
func (w *Waker) Returned(events <-chan *riverqueue.Event, pool *pgxpool.Pool, each func(*riverqueue.Event)) {
	interrupted := map[string]struct{}{}
	for event := range events {
		each(event)
		job := event.Job
		switch {
		case job.State != rivertype.JobStateAvailable: // it has ended, or River's leader makes it so
		case event.Kind == riverqueue.EventKindJobInterrupted:
			interrupted[job.Queue] = struct{}{}
		default:
			if wait := w.clock.Until(job.ScheduledAt); wait < interval { // of others the leader tells
				w.later(wait+margin, job.Queue)
			}
		}
	}
	if len(interrupted) == 0 || w.pollOnly {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	w.send(ctx, pool, slices.Collect(maps.Keys(interrupted)))
}
