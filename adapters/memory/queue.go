package memory

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// row is a stored run.
type row struct {
	id       string
	seq      uint64 // order of insertion
	queue    *queue
	state    jobs.State
	data     []byte
	metadata map[string]string
	priority int
	unique   string // key in queue.unique
	key      string // key of jobs.UniqueWaiting or jobs.Latest
	tick     time.Time
	missed   int             // earlier ticks that the run covers
	begun    bool            // an attempt has started, or Retry was called, so it is never too late
	covered  bool            // another run covered a part of the attempt's window, so it does not count
	aside    bool            // failed before or retried by hand, so it does not hold up the next tick
	due      time.Time       // when the next attempt is due
	attempt  int             // attempts started; an interrupted one does not count
	attempts int             // the most attempts
	err      string          // of the latest attempt, or why the run was skipped
	errs     []jobs.RunError // of the latest attempts that failed
	process  string          // that made the latest attempt

	output []byte // the latest that a handler has set

	snoozes      int    // how often the handler has snoozed the run
	snoozeReason string // the latest reason

	fingerprint string // of a trigger with an idempotency key
	overtakes   []*row // with jobs.Latest, earlier rows of the key that must not start after this one
	overtaken   string // ID of the row that has started with newer data
	held        int    // how many open transactions keep it from starting

	tx      *Tx           // open transaction that inserts the row; nil if none
	settled chan struct{} // closed when tx has ended

	cancel    context.CancelFunc // cancels the running attempt
	cancelled time.Time          // when Cancel was called; zero if it was not

	created, started, ended time.Time
}

// queue is the state of one registered job.
type queue struct {
	def                        *provider.Definition
	slots                      *slots
	unique                     map[string]*row // rows that have not ended or have an idempotency key, by key
	keys                       map[string]*key // of jobs.UniqueWaiting and jobs.Latest
	paused                     time.Time       // when the job was paused; zero if it is not
	back                       []*row          // due rows that wait for the end of the pause
	pending, retrying, running int

	// The schedule. last and prev are kept here after their retention.
	next        time.Time  // next tick; zero if none
	last        *row       // latest tick that was inserted
	prev        *row       // latest tick that started, or was skipped or cancelled
	committing  sync.Mutex // held while a transactional run of a tick commits; taken before the scheduler's
	lastSuccess time.Time  // latest tick whose run succeeded
	stalled     time.Time  // when its code last failed and that was logged; zero if never
}

// plan returns what to do with the next tick of the schedule at now.
func (q *queue) plan(now time.Time) provider.Advance {
	row := provider.Row{Next: q.next, LastJob: q.last.progress()}
	if q.last != nil {
		row.Last, row.LastMissed = q.last.tick, q.last.missed
	}
	return provider.Plan(q.def.Schedule, provider.Policy{CatchUp: q.def.CatchUp, Paused: !q.paused.IsZero()}, row, now)
}

// progress returns the progress of r, the latest tick, which is nil if there is none.
func (r *row) progress() provider.Progress {
	switch {
	case r == nil || r.aside || !r.ended.IsZero():
		return provider.Over
	case r.begun:
		return provider.Going
	default:
		return provider.Waiting
	}
}

// succeeded records that the run of r has succeeded.
func (q *queue) succeeded(r *row) {
	if r.tick.After(q.lastSuccess) {
		q.lastSuccess = r.tick
	}
}

// passed makes r, which no longer waits, the previous tick unless a later one already is.
func (q *queue) passed(r *row) {
	if !r.tick.IsZero() && (q.prev == nil || !r.tick.Before(q.prev.tick)) {
		q.prev = r
	}
}

// slots are the workers of one or several jobs, and the rows that wait for one of them.
type slots struct {
	n     int // workers
	free  int // workers that are not running a handler
	ready rowHeap
}

func newSlots(n int) *slots { return &slots{n: n, free: n, ready: rowHeap{less: mostUrgent}} }

func (s *Scheduler) queue(d *provider.Definition) *queue {
	q := s.queues[d.Name]
	if q == nil {
		q = &queue{def: d, slots: s.general, unique: make(map[string]*row), keys: make(map[string]*key)}
		switch {
		case d.Concurrency > 0:
			q.slots = newSlots(d.Concurrency)
			s.slots = append(s.slots, q.slots)
		case d.Transactional:
			q.slots = s.txSlots
		}
		s.queues[d.Name] = q
	}
	return q
}

// newRow returns r as a new row of q with an ID. It is not stored yet.
func (s *Scheduler) newRow(q *queue, r row, now time.Time) *row {
	s.lastSeq++
	r.seq, r.id, r.queue = s.lastSeq, "memory-"+strconv.FormatUint(s.lastSeq, 10), q
	r.created, r.attempts = now, q.def.MaxAttempts
	return &r
}

// add stores r, a new row.
func (s *Scheduler) add(r *row) *row {
	s.rows[r.id] = r
	s.park(r, jobs.StateScheduled)
	return r
}

// park lets r wait until it is due, which may be now. While r is held, it is not in any list.
func (s *Scheduler) park(r *row, state jobs.State) {
	s.move(r, state)
	if r.held == 0 {
		heap.Push(&s.delayed, r)
	}
}

// snoozedState is the state of r, whose handler has snoozed it, until it is due.
func (r *row) snoozedState() jobs.State {
	if r.attempt > 0 {
		return jobs.StateRetrying
	}
	return jobs.StateScheduled
}

// ready lets r, which is due, start when a worker is free and its job is not paused.
func (s *Scheduler) ready(r *row) {
	if q := r.queue; q.paused.IsZero() {
		heap.Push(&q.slots.ready, r)
	} else {
		q.back = append(q.back, r)
	}
}

// unpark removes rows from wherever they wait.
func (s *Scheduler) unpark(rows ...*row) {
	gone, queues := make(map[*row]bool, len(rows)), make(map[*queue]bool)
	for _, r := range rows {
		gone[r], queues[r.queue] = true, true
	}
	isGone := func(r *row) bool { return gone[r] }
	s.delayed.removeFunc(isGone)
	for q := range queues {
		q.slots.ready.removeFunc(isGone)
		q.back = slices.DeleteFunc(q.back, isGone)
	}
}

// finish ends r. reason is the error of the latest attempt or why the run was skipped; ""
// keeps the error of an earlier attempt.
func (s *Scheduler) finish(r *row, state jobs.State, reason string, now time.Time) {
	s.move(r, state)
	r.ended, r.err = now, cmp.Or(reason, r.err)
	r.queue.passed(r)
	ended := s.ended(r)
	ended.rows = append(ended.rows, r)
	if r.fingerprint == "" {
		r.freeKey()
	}
}

// keyOf returns the key of a request in queue.unique, "" if it has none, and its fingerprint.
func keyOf(req *jobs.Request) (key, fingerprint string) {
	switch {
	case req.IdempotencyKey != "":
		return "once " + req.IdempotencyKey, req.Fingerprint
	case req.Unique != "":
		return "unique " + req.Unique, ""
	}
	return "", ""
}

// freeKey lets another row have the key of r.
func (r *row) freeKey() {
	if r.queue.unique[r.unique] == r {
		delete(r.queue.unique, r.unique)
	}
	r.overtakes = nil
	r.queue.dropKey(r)
}

// finished has ended rows in the order in which they ended.
type finished struct {
	rows []*row
	kept time.Duration // how long they are kept
}

// ended returns where the ended row r is kept.
func (s *Scheduler) ended(r *row) *finished {
	if r.state == jobs.StateFailed || r.state == jobs.StateCancelled {
		return &s.failed
	}
	return &s.finished
}

// claim gives r its key, unless that is of jobs.Unique and not free.
func (q *queue) claim(r *row) {
	if r.unique != "" && q.unique[r.unique] == nil {
		q.unique[r.unique] = r
	}
	if r.key != "" {
		k := q.key(r.key)
		k.live = append(k.live, r)
	}
}

// move changes the state of r and updates the counts. It must be called before r.attempt is
// incremented, and after an interrupted attempt is subtracted: r.attempt > 0 means that an
// attempt has failed.
func (s *Scheduler) move(r *row, to jobs.State) {
	for _, change := range []struct {
		state jobs.State
		by    int
	}{{r.state, -1}, {to, 1}} {
		s.totals[change.state] += change.by
		switch change.state {
		case jobs.StateRunning:
			r.queue.running += change.by
		case jobs.StateScheduled, jobs.StateWaiting, jobs.StateRetrying:
			r.queue.pending += change.by
			if r.attempt > 0 {
				r.queue.retrying += change.by
			}
		}
	}
	r.state = to
}

// job returns the handler's view of the attempt that starts now.
func (r *row) job(now time.Time, db jobs.DB) *jobs.Job {
	return &jobs.Job{
		ID: r.id, Name: r.queue.def.Name, Data: bytes.Clone(r.data),
		Attempt: r.attempt, MaxAttempts: r.attempts,
		Tick: r.tick, Missed: r.missed, Snoozes: r.snoozes, PrevSuccess: provider.PrevSuccess(r.queue.lastSuccess, r.tick), Metadata: maps.Clone(r.metadata), StartedAt: now, DB: db,
	}
}

// rowHeap is a [heap.Interface] ordered by less.
type rowHeap struct {
	rows []*row
	less func(a, b *row) int
}

// dueFirst orders rows by when they are due.
func dueFirst(a, b *row) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.seq, b.seq)) }

// mostUrgent orders due rows by priority, then by when they became due.
func mostUrgent(a, b *row) int { return cmp.Or(cmp.Compare(a.priority, b.priority), dueFirst(a, b)) }

func (h *rowHeap) Len() int           { return len(h.rows) }
func (h *rowHeap) Less(i, j int) bool { return h.less(h.rows[i], h.rows[j]) < 0 }
func (h *rowHeap) Swap(i, j int)      { h.rows[i], h.rows[j] = h.rows[j], h.rows[i] }
func (h *rowHeap) Push(r any)         { h.rows = append(h.rows, r.(*row)) }

func (h *rowHeap) Pop() any {
	last := len(h.rows) - 1
	r := h.rows[last]
	h.rows[last], h.rows = nil, h.rows[:last]
	return r
}

// removeFunc removes the rows for which gone is true.
func (h *rowHeap) removeFunc(gone func(*row) bool) {
	if kept := slices.DeleteFunc(h.rows, gone); len(kept) < len(h.rows) {
		h.rows = kept
		heap.Init(h)
	}
}

// top returns the first row, nil if there is none.
func (h *rowHeap) top() *row {
	if len(h.rows) == 0 {
		return nil
	}
	return h.rows[0]
}
