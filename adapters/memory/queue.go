package memory

import (
	"bytes"
	"cmp"
	"container/heap"
	"strconv"
	"time"

	"github.com/everytick/everytick/jobs"
)

// row is a job as it is stored.
type row struct {
	id       string
	seq      uint64 // order of enqueueing
	queue    *queue
	state    jobs.State
	data     []byte
	priority int
	unique   string
	tick     time.Time
	missed   int       // later ticks this one stands for
	begun    bool      // an attempt was started
	due      time.Time // of the next attempt
	attempt  int       // attempts begun and counted
	ended    time.Time
	history  []Event
}

// queue is all that is known of one registered job.
type queue struct {
	def                        *jobs.Definition
	slots                      *slots
	unique                     map[string]*row // live rows by their key
	next                       *row            // the stored tick that has not been started
	prev                       *row            // the latest tick that was
	held                       *row            // next, due, when it waits for the run before it
	pending, retrying, running int
	ticking                    int // the ticks among running
}

// slots are a number of workers and the rows that wait for one of them.
type slots struct {
	free  int
	ready rowHeap
}

func newSlots(n int) *slots { return &slots{free: n, ready: rowHeap{less: mostUrgent}} }

func (s *Scheduler) queue(d *jobs.Definition) *queue {
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

// insert stores r as a new job.
func (s *Scheduler) insert(q *queue, r row, now time.Time) *row {
	s.lastSeq++
	r.seq, r.id, r.queue = s.lastSeq, "memory-"+strconv.FormatUint(s.lastSeq, 10), q
	s.rows[r.id] = &r
	r.note(now, jobs.StateScheduled, "")
	s.park(&r, jobs.StateScheduled)
	return &r
}

// insertTick stores the next tick of a schedule. The zero time stands for none.
func (s *Scheduler) insertTick(q *queue, tick, now time.Time) {
	if !tick.IsZero() {
		q.next = s.insert(q, row{data: []byte("{}"), priority: q.def.Priority, due: tick, tick: tick}, now)
	}
}

// park puts r where it waits for its time, which may have come.
func (s *Scheduler) park(r *row, state jobs.State) {
	s.move(r, state)
	heap.Push(&s.delayed, r)
}

// finish ends r for good.
func (s *Scheduler) finish(r *row, state jobs.State, reason string, now time.Time) {
	s.move(r, state)
	r.note(now, state, reason)
	r.ended, r.data = now, nil
	s.finished = append(s.finished, r)
	if r.unique != "" {
		delete(r.queue.unique, r.unique)
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
			if !r.tick.IsZero() {
				r.queue.ticking += change.by
			}
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
		Attempt: r.attempt, MaxAttempts: r.queue.def.MaxAttempts,
		Tick: r.tick, StartedAt: now, DB: db,
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

func (h *rowHeap) top() *row {
	if len(h.rows) == 0 {
		return nil
	}
	return h.rows[0]
}
