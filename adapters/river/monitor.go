package river

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/everytick/everytick/adapters/river/internal/schedule"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// QueueSize implements [jobs.Monitor].
func (s *Scheduler) QueueSize(ctx context.Context, name string) (int, error) {
	if _, err := s.definition(name); err != nil {
		return 0, err
	}
	n, err := s.store.QueueSize(ctx, s.pool, name, s.namesOfAll())
	if err != nil {
		return 0, fmt.Errorf("river: queue size of %q: %w", name, s.unmigrated(err))
	}
	return n, nil
}

// Jobs implements [jobs.Monitor].
func (s *Scheduler) Jobs(ctx context.Context) ([]jobs.Status, error) {
	all, err := s.statuses(ctx)
	if err == nil {
		err = s.countLive(ctx, all)
	}
	if err != nil {
		return nil, fmt.Errorf("river: status of jobs: %w", s.unmigrated(err))
	}
	return all, nil
}

// statuses returns the status of every job, without counts.
func (s *Scheduler) statuses(ctx context.Context) ([]jobs.Status, error) {
	now, err := s.clock.Now(ctx, nil)
	if err != nil {
		return nil, err
	}
	paused, err := s.store.Pauses(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	rows := map[string]*store.Standing{}
	if scheduled := s.schedules(); len(scheduled) > 0 {
		found, err := s.store.Standings(ctx, s.pool, namesOf(scheduled))
		if err != nil {
			return nil, err
		}
		for i := range found {
			rows[found[i].Name] = &found[i]
		}
	}
	defs := s.reg.Jobs()
	all := make([]jobs.Status, len(defs))
	for i, d := range defs {
		st := &all[i]
		st.Name, st.PausedSince, st.Options = d.Name, paused[d.Name], d.Options()
		st.Schedule, st.Zone = d.Describe()
		if d.Schedule == nil {
			continue
		}
		schedule.Describe(st, d, rows[d.Name], s.here(d), now)
		st.Upcoming = d.Upcoming(st.NextTick)
	}
	return all, nil
}

// here returns what this process knows about running a job.
func (s *Scheduler) here(d *provider.Definition) schedule.Here {
	ss := s.session.Load()
	if ss == nil || !s.started.Load() {
		return schedule.Here{Stopped: s.notRunning()}
	}
	slots := ss.workers[s.queues.Of(d)]
	return schedule.Here{Workers: slots.N, Taken: slots.Taken()}
}

// notRunning returns why the scheduler is not running.
func (s *Scheduler) notRunning() string {
	if s.ending.Load() {
		return "being shut down"
	}
	return "not started"
}

// countLive fills in how many jobs are waiting, retrying and running.
func (s *Scheduler) countLive(ctx context.Context, all []jobs.Status) error {
	names := make([]string, len(all))
	byName := make(map[string]*jobs.Status, len(all))
	for i := range all {
		names[i], byName[all[i].Name] = all[i].Name, &all[i]
	}
	counts, err := s.store.CountLive(ctx, s.pool, names, s.namesOfAll())
	for _, c := range counts {
		st := byName[c.Name]
		st.Waiting, st.Retrying, st.Running = st.Waiting+c.Waiting, st.Retrying+c.Retrying, st.Running+c.Running
	}
	return err
}

// healthTimeout bounds how long Health waits for the database.
const healthTimeout = 5 * time.Second

// leaderGrace is how long after a start there may be no leader: an election takes 5 seconds, after a crash 15.
const leaderGrace = 30 * time.Second

// Health implements [jobs.Monitor]. It waits at most 5 seconds for the database, and less if ctx ends sooner: it answers
// before that, with the reason. It counts up to 500 jobs in each of River's states.
func (s *Scheduler) Health(ctx context.Context) (jobs.Health, error) {
	h := jobs.Health{Started: s.started.Load()}
	limit := healthTimeout
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)*9/10) // an answer that comes with the deadline is lost
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ss := s.session.Load()
	working := h.Started && ss != nil
	var stalled map[string]store.Stall
	err := s.examine(bounded, &h)
	if err == nil && working {
		stalled, err = ss.stalls.Find(bounded)
	}
	if working {
		here := ss.stalls.Reasons(stalled)
		if text := ss.process.Reason(time.Now()); text != "" {
			here = append(here, jobs.Reason{Text: text})
		}
		h.Reasons = append(here, h.Reasons...)
	}
	switch {
	case store.IsMissing(err):
		s.migrated.Store(false)
		h.Reasons = append(h.Reasons, jobs.Reason{Text: s.notMigrated()})
	// If the deadline has come nevertheless, on a busy machine, the reason is still the better answer.
	case err != nil && ctx.Err() != nil && (limit <= 0 || errors.Is(ctx.Err(), context.Canceled)):
		return jobs.Health{}, ctx.Err()
	case err != nil:
		h.Reasons = append([]jobs.Reason{{Text: s.noAnswer(err, bounded.Err() != nil, limit)}}, h.Reasons...)
	}
	if !h.Started && !s.cfg.TriggerOnly {
		h.Reasons = append(h.Reasons, jobs.Reason{Text: "the scheduler is " + s.notRunning()})
	}
	h.Healthy = len(h.Reasons) == 0
	return h, nil
}

// noAnswer returns the reason for an error of the database, or that it has not answered within limit.
func (s *Scheduler) noAnswer(err error, late bool, limit time.Duration) string {
	reason := "the database does not answer: "
	if code := store.Code(err); code != "" && !strings.HasPrefix(code, "57") { // those are about its startup and shutdown
		reason = "the database answers with an error: "
	}
	if pool := s.pool.Stat(); pool.AcquiredConns() == pool.MaxConns() {
		reason += fmt.Sprintf("all %d connections of the pool are in use: ", pool.MaxConns())
	}
	if late {
		reason += fmt.Sprintf("no answer within %s: ", limit.Round(100*time.Millisecond))
	}
	return reason + err.Error()
}

func (s *Scheduler) examine(ctx context.Context, h *jobs.Health) error {
	reason, err := s.checkMigrated(ctx)
	if err != nil {
		return err
	}
	if reason != "" {
		h.Reasons = append(h.Reasons, jobs.Reason{Text: reason})
		return nil
	}
	readOnly, leader, err := s.store.ServerState(ctx, s.pool)
	if err != nil {
		return err
	}
	if readOnly {
		h.Reasons = append(h.Reasons, jobs.Reason{Text: "the database is read-only: no job can be stored, started or ended"})
	}
	if h.OldestWaiting, err = s.store.OldestWaiting(ctx, s.pool); err != nil {
		return err
	}
	// A standby does not know who leads.
	if ss := s.session.Load(); h.Started && ss != nil && !leader && !readOnly && time.Since(ss.startedAt) > leaderGrace {
		h.Reasons = append(h.Reasons, jobs.Reason{Text: "no process leads: delayed jobs and retries wait for an election"})
	}
	if err := s.countTotals(ctx, h); err != nil {
		return err
	}
	statuses, err := s.statuses(ctx)
	if err != nil {
		return err
	}
	for _, st := range statuses { // a tick that is due and not inserted yet waits too
		h.OldestWaiting = max(h.OldestWaiting, st.OverdueBy)
	}
	h.Reasons = append(h.Reasons, provider.OverdueReasons(statuses)...)
	abandoned, err := s.abandoned(ctx)
	h.Reasons = append(h.Reasons, abandoned...)
	return err
}

// countedRows bounds how many jobs Health counts in each of River's states.
const countedRows = 500

// ofRiver maps each of River's states to the states of ours that its rows may have.
var ofRiver = map[string][]jobs.State{
	"completed": {jobs.StateCompleted},
	"discarded": {jobs.StateFailed},
	"running":   {jobs.StateRunning},
	"retryable": {jobs.StateRetrying},
	"pending":   {jobs.StateScheduled},
	"available": {jobs.StateWaiting, jobs.StateRetrying, jobs.StateScheduled},
	"scheduled": {jobs.StateScheduled, jobs.StateRetrying},
	"cancelled": {jobs.StateCancelled, jobs.StateFailed, jobs.StateSkipped},
}

func (s *Scheduler) countTotals(ctx context.Context, h *jobs.Health) error {
	totals, err := s.store.CountTotals(ctx, s.pool, countedRows, s.namesOfAll())
	if err != nil {
		return err
	}
	h.Totals = map[jobs.State]jobs.Count{}
	counted := map[string]int{}
	for _, t := range totals {
		h.Totals[t.State] = jobs.Count{N: h.Totals[t.State].N + t.Count}
		counted[t.River] += t.Count
	}
	for river, n := range counted {
		if n == countedRows {
			for _, state := range ofRiver[river] {
				h.Totals[state] = jobs.Count{N: h.Totals[state].N, AtLeast: true}
			}
		}
	}
	return nil
}
