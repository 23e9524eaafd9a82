package memory

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
)

// An Event is one line of a job's history.
type Event struct {
	// At is when it happened, in UTC.
	At time.Time
	// State is what the job came to be in.
	State jobs.State
	// Attempt is the attempt that led there, 0 before the first.
	Attempt int
	// Reason tells why, for what failed, was interrupted or was skipped.
	Reason string
}

func (r *row) note(now time.Time, state jobs.State, reason string) {
	r.history = append(r.history, Event{now, state, r.attempt, reason})
}

// History returns what became of the job with that ID, the oldest first: when it
// was enqueued and how each attempt ended. It is empty for a job that is not kept.
func (s *Scheduler) History(id string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promote(clock())
	if r := s.rows[id]; r != nil {
		return slices.Clone(r.history)
	}
	return nil
}

// QueueSize implements [jobs.Monitor].
func (s *Scheduler) QueueSize(ctx context.Context, name string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	d, err := s.registry.Job(name)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promote(clock())
	return s.queue(d).waiting(), nil
}

// waiting counts what waits, without a tick that is not yet due.
func (q *queue) waiting() int {
	if q.next != nil && q.next.state == jobs.StateScheduled {
		return q.pending - 1
	}
	return q.pending
}

// Jobs implements [jobs.Monitor].
func (s *Scheduler) Jobs(ctx context.Context) ([]jobs.Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	s.promote(now)
	return s.statuses(now), nil
}

func (s *Scheduler) statuses(now time.Time) []jobs.Status {
	defs := s.registry.Jobs()
	all := make([]jobs.Status, len(defs))
	for i, d := range defs {
		q := s.queue(d)
		st := jobs.Status{Name: d.Name, Waiting: q.waiting(), Running: q.running, Retrying: q.retrying}
		st.Schedule, st.Zone = d.Describe()
		if d.Schedule != nil {
			if st.NextTick = d.Schedule.Next(now); q.next != nil {
				st.NextTick = q.next.tick
				st.OverdueBy = max(0, now.Sub(q.next.tick))
			}
			if q.prev != nil {
				st.PrevTick, st.PrevState, st.Missed = q.prev.tick, q.prev.state, q.prev.missed
			}
		}
		all[i] = st
	}
	return all
}

// Health implements [jobs.Monitor].
func (s *Scheduler) Health(ctx context.Context) (jobs.Health, error) {
	if err := ctx.Err(); err != nil {
		return jobs.Health{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	s.promote(now)
	h := jobs.Health{Started: s.session != nil && !s.session.stopping, Totals: maps.Clone(s.totals)}
	maps.DeleteFunc(h.Totals, func(state jobs.State, n int) bool { return state == "" || n == 0 })
	for _, group := range s.slots {
		for _, r := range group.ready.rows {
			h.OldestWaiting = max(h.OldestWaiting, now.Sub(r.due))
		}
	}
	switch {
	case s.session == nil:
		h.Reasons = append(h.Reasons, "the scheduler is not started, so jobs wait")
	case s.session.stopping:
		h.Reasons = append(h.Reasons, "the scheduler is being shut down, so no job is started")
	}
	h.Reasons = append(h.Reasons, jobs.OverdueReasons(s.statuses(now))...)
	h.Healthy = len(h.Reasons) == 0
	return h, nil
}
