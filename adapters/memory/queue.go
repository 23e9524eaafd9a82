package memory

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// row is a job as it is stored.
type row struct {
	id       string
	seq      uint64 // order of enqueueing
	queue    *queue
	state    jobs.State
	data     []byte
	metadata map[string]string
	priority int
	unique   string
	tick     time.Time
	missed   int       // earlier ticks this one stands for
	begun    bool      // an attempt was started, or is to be however late
	aside    bool      // has failed before or is retried by hand, and holds no tick up
	due      time.Time // of the next attempt
	attempt  int       // attempts begun and counted
	attempts int       // how many there are at most
	err      string    // of the latest attempt, or why it was skipped

	tx      *Tx           // the open transaction that it is inserted in; nil for none
	settled chan struct{} // closed when that has ended

	cancel    context.CancelFunc // ends the attempt that runs
	cancelled bool               // by somebody, while it ran

	created, started, ended time.Time
}

// queue is all that is known of one registered job.
type queue struct {
	def                        *provider.Definition
	slots                      *slots
	unique                     map[string]*row // live rows by their key
	paused                     time.Time       // zero when it is not
	back                       []*row          // what is due and waits for the end of the pause
	pending, retrying, running int

	// The schedule. What last and prev point to outlives its retention here.
	next        time.Time // its next tick; zero if there is none
	last        *row      // the latest tick that was inserted
	prev        *row      // the latest tick that started, or was skipped or cancelled
	lastSuccess time.Time // the latest tick whose run succeeded
}

// plan says what is to become of the schedule now.
func (q *queue) plan(now time.Time) provider.Advance {
	row := provider.Row{Next: q.next, LastJob: q.last.progress()}
	if q.last != nil {
		row.Last, row.LastMissed = q.last.tick, q.last.missed
	}
	return provider.Plan(q.def.Schedule, provider.Policy{CatchUp: q.def.CatchUp, Paused: !q.paused.IsZero()}, row, now)
}

// progress says how far r, the latest tick, has come; nil means that there is none.
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

// passed notes that r waits no longer, if it is the latest tick of which that is so.
func (q *queue) passed(r *row) {
	if !r.tick.IsZero() && (q.prev == nil || !r.tick.Before(q.prev.tick)) {
		q.prev = r
	}
}

// slots are a number of workers and the rows that wait for one of them.
type slots struct {
	n     int // of workers
	free  int
	ready rowHeap
}

func newSlots(n int) *slots { return &slots{n: n, free: n, ready: rowHeap{less: mostUrgent}} }

func (s *Scheduler) queue(d *provider.Definition) *queue {
	q := s.queues[d.Name]
	if q == nil {
		q = &queue{def: d, slots: s.general, unique: make(map[string]*row)}
		if d.Concurrency > 0 {
			q.slots = newSlots(d.Concurrency)
			s.slots = append(s.slots, q.slots)
		}
		s.queues[d.Name] = q
	}
	return q
}

// draw makes a new job of r, with an ID.
func (s *Scheduler) draw(q *queue, r row, now time.Time) *row {
	s.lastSeq++
	r.seq, r.id, r.queue = s.lastSeq, "memory-"+strconv.FormatUint(s.lastSeq, 10), q
	r.created, r.attempts = now, q.def.MaxAttempts
	return &r
}

// add stores r, a new job.
func (s *Scheduler) add(r *row) *row {
	s.rows[r.id] = r
	s.park(r, jobs.StateScheduled)
	return r
}

// park puts r where it waits for its time, which may have come.
func (s *Scheduler) park(r *row, state jobs.State) {
	s.move(r, state)
	heap.Push(&s.delayed, r)
}

// ready lets r, which is due, run as soon as it can.
func (s *Scheduler) ready(r *row) {
	if q := r.queue; q.paused.IsZero() {
		heap.Push(&q.slots.ready, r)
	} else {
		q.back = append(q.back, r)
	}
}

// unpark takes r out of wherever it waits.
func (s *Scheduler) unpark(r *row) {
	q := r.queue
	s.delayed.remove(r)
	q.slots.ready.remove(r)
	q.back = slices.DeleteFunc(q.back, func(other *row) bool { return other == r })
}

// finish ends r, with the error of its latest attempt or why it was skipped; "" keeps
// the error of an attempt before.
func (s *Scheduler) finish(r *row, state jobs.State, reason string, now time.Time) {
	s.move(r, state)
	r.ended, r.err = now, cmp.Or(reason, r.err)
	r.queue.passed(r)
	s.finished = append(s.finished, r)
	if q := r.queue; q.unique[r.unique] == r {
		delete(q.unique, r.unique)
	}
}

// claim makes r the live row of its key, if that is free.
func (q *queue) claim(r *row) {
	if r.unique != "" && q.unique[r.unique] == nil {
		q.unique[r.unique] = r
	}
}

// move changes the state of r and keeps the counts. It is called before an attempt
// is counted and after one is given back, so that r.attempt tells what failed.
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

// job returns the attempt that starts now, as a handler sees it.
func (r *row) job(now time.Time, db jobs.DB) *jobs.Job {
	return &jobs.Job{
		ID: r.id, Name: r.queue.def.Name, Data: bytes.Clone(r.data),
		Attempt: r.attempt, MaxAttempts: r.attempts,
		Tick: r.tick, Missed: r.missed, Metadata: maps.Clone(r.metadata), StartedAt: now, DB: db,
	}
}

// rowHeap is a [heap.Interface] with the row that comes first on top.
type rowHeap struct {
	rows []*row
	less func(a, b *row) int
}

// dueFirst orders what waits for its time.
func dueFirst(a, b *row) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.seq, b.seq)) }

// mostUrgent orders what is due.
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

// remove takes r out if it is in there.
func (h *rowHeap) remove(r *row) {
	if i := slices.Index(h.rows, r); i >= 0 {
		heap.Remove(h, i)
	}
}

func (h *rowHeap) top() *row {
	if len(h.rows) == 0 {
		return nil
	}
	return h.rows[0]
}
