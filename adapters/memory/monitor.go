package memory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

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
	now := clock()
	s.promote(now)
	return s.queue(d).waiting(now), nil
}

// waiting counts the runs that wait, including a tick that is due but not inserted yet.
func (q *queue) waiting(now time.Time) int {
	if q.due(now) {
		return q.pending + 1
	}
	return q.pending
}

// due reports whether a tick is due but not inserted yet.
func (q *queue) due(now time.Time) bool {
	action := q.plan(now).Action
	return action == provider.Insert || action == provider.Hold || action == provider.Stall
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
		st := jobs.Status{Name: d.Name, Waiting: q.waiting(now), Running: q.running, Retrying: q.retrying, PausedSince: q.paused, Options: d.Options()}
		st.Schedule, st.Zone = d.Describe()
		if d.Schedule != nil {
			st.NextTick = cmp.Or(q.next, provider.Next(d.Schedule, now))
			if q.paused.IsZero() {
				due := st.NextTick
				if q.last.progress() == provider.Waiting {
					st.NextTick, due = q.last.tick, q.last.due
				}
				if !due.IsZero() && due.Before(now) {
					st.OverdueBy, st.OverdueReason = now.Sub(due), s.overdueReason(q)
				}
			}
			if err := q.stall(now); err != nil {
				st.OverdueReason = "its schedule has a bug: " + err.Error()
			}
			st.Upcoming = d.Upcoming(st.NextTick)
			if q.prev != nil {
				st.PrevTick, st.PrevState, st.Missed = q.prev.tick, q.prev.state, q.prev.missed
			}
			st.LastSuccess = q.lastSuccess
		}
		all[i] = st
	}
	return all
}

// stall returns what the code of the schedule does wrong, or nil.
func (q *queue) stall(now time.Time) error {
	if a := q.plan(now); a.Action == provider.Stall {
		return a.Err
	}
	_, err := provider.CheckedNext(q.def.Schedule, now)
	return err
}

// overdueReason returns why the due tick of q has not started.
func (s *Scheduler) overdueReason(q *queue) string {
	switch reason := s.stopped(); {
	case reason != "":
		return reason
	case q.def.CatchUp == jobs.CatchUpAll && q.last.progress() == provider.Going:
		return "the run of the previous tick has not ended"
	case q.slots.free == 0 && q.def.Concurrency > 0:
		return fmt.Sprintf("all %d worker slots of the job are taken", q.def.Concurrency)
	case q.slots.free == 0:
		return "all workers are taken"
	default:
		return "it is about to start"
	}
}

// stopped returns why no run can start, or "".
func (s *Scheduler) stopped() string {
	switch {
	case s.session == nil:
		return "the scheduler is not started"
	case s.session.stopping:
		return "the scheduler is being shut down"
	default:
		return ""
	}
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
	h := jobs.Health{Started: s.session != nil && !s.session.stopping, Totals: map[jobs.State]jobs.Count{}}
	totals := maps.Clone(s.totals)
	for _, group := range s.slots {
		for _, r := range group.ready.rows {
			h.OldestWaiting = max(h.OldestWaiting, now.Sub(r.due))
		}
	}
	for _, q := range s.queues {
		for _, r := range q.back {
			h.OldestWaiting = max(h.OldestWaiting, now.Sub(r.due))
		}
		if q.due(now) {
			h.OldestWaiting = max(h.OldestWaiting, now.Sub(q.next))
			totals[jobs.StateWaiting]++
		}
	}
	for state, n := range totals {
		if state != "" && n > 0 {
			h.Totals[state] = jobs.Count{N: n}
		}
	}
	if reason := s.stopped(); reason != "" {
		h.Reasons = append(h.Reasons, jobs.Reason{Text: reason})
	}
	h.Reasons = append(h.Reasons, provider.OverdueReasons(s.statuses(now))...)
	h.Healthy = len(h.Reasons) == 0
	return h, nil
}

// Runs implements [jobs.RunLister]. The runs are in reverse order of insertion.
func (s *Scheduler) Runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	if err := cmp.Or(ctx.Err(), provider.CheckRunLimit(limit)); err != nil {
		return nil, err
	}
	d, err := s.registry.Job(name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promote(clock())
	q := s.queue(d)
	var rows []*row
	for _, r := range s.rows {
		if r.queue == q {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Compare(b.seq, a.seq) })
	rows = rows[:min(limit, len(rows))]
	runs, whole := make([]jobs.Run, len(rows)), fitting(rows)
	for i, r := range rows {
		if runs[i] = r.run(); i >= whole {
			runs[i].Data, runs[i].Output = nil, nil
		}
	}
	return runs, nil
}

func (r *row) run() jobs.Run {
	run := jobs.Run{
		ID: r.id, Name: r.queue.def.Name, State: r.shown(), Tick: r.tick, Attempt: r.attempt, MaxAttempts: r.attempts,
		CreatedAt: r.created, DueAt: r.due, EndedAt: r.ended, CancelledAt: r.cancelled,
		Error: r.err, Data: bytes.Clone(r.data),
		Snoozes: r.snoozes, SnoozeReason: r.snoozeReason, Output: bytes.Clone(r.output),
	}
	if r.attempt > 0 { // otherwise no attempt has started, or the only one was interrupted
		run.StartedAt, run.Process = r.started, r.process
	}
	return run
}

// Activity implements [jobs.ActivityReporter]. Runs that ended longer than [Config].Retention
// ago (or FailedRetention, if that is shorter) may be missing; CompleteSince says so.
func (s *Scheduler) Activity(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
	if err := ctx.Err(); err != nil {
		return jobs.Activity{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	s.promote(now)
	a, err := provider.NewActivity(now, step, n)
	if err != nil {
		return a, err
	}
	if kept := now.Add(-min(s.finished.kept, s.failed.kept)); kept.After(a.Start) {
		a.CompleteSince = kept
	}
	for _, r := range slices.Concat(s.finished.rows, s.failed.rows) {
		if !r.ended.Before(a.Start) {
			provider.AddEnded(a, r.queue.def.Name, int(r.ended.Sub(a.Start)/step), n, r.state, 1)
		}
	}
	return a, nil
}
