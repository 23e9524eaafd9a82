package river

import (
	"context"
	"time"

	"github.com/everytick/everytick/adapters/river/internal/pause"
	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/schedule"
	"github.com/everytick/everytick/adapters/river/internal/stall"
	"github.com/everytick/everytick/adapters/river/internal/store"
)

// The pace of maintenance. upkeepEvery is longer than pause.Every, and shorter than the least Retention, so that the
// outcomes of ticks are copied before their rows are deleted. stepTimeout bounds one step.
const (
	upkeepEvery = 10 * time.Second
	stepTimeout = 10 * time.Second
)

// A step is a part of maintenance.
type step struct {
	name string
	run  func(ctx context.Context) error
}

// maintain looks after the jobs of this process until ctx ends, whether it leads or not: the leader may belong to a
// service that has not registered them.
func (s *Scheduler) maintain(ctx context.Context, ss *session) {
	names, queues := s.queues.Homes(s.reg.Jobs())
	pauses := step{"pauses", func(ctx context.Context) error { return s.pauses.Refresh(ctx, ss.pool, names, queues) }}
	rescue := step{"rescue", func(ctx context.Context) error { return s.rescue(ctx, ss, ss.process.Dead()) }}
	// Those of River's cancelled jobs that it keeps too long: skipped ones, or otherwise all but these.
	sweep := &store.Sweep{Skipped: s.cfg.Retention < s.cfg.FailedRetention}
	age := min(s.cfg.Retention, s.cfg.FailedRetention)
	upkeep := []step{
		// Statistics come first: with poor ones the other steps may be slow.
		{"statistics", func(ctx context.Context) error { return s.store.AnalyzeGrown(ctx, ss.pool) }},
		rescue,
		{"queues", func(ctx context.Context) error { return s.rehome(ctx, false) }},
		{"outcomes of schedules", func(ctx context.Context) error { return s.store.CopyOutcomes(ctx, ss.pool, namesOf(s.schedules())) }},
		{"retention", func(ctx context.Context) error { return sweep.Run(ctx, s.store, ss.pool, names, age) }},
		{"calls of OnFailed", func(ctx context.Context) error { return s.store.ForgetFailed(ctx, ss.pool) }},
		{"lost fetches", func(ctx context.Context) error { return ss.stalls.GiveBack(ctx, stall.LostAfter) }},
		// So that the next Health need not wait until it has seen a job twice.
		{"stalled jobs", func(ctx context.Context) error { _, err := ss.stalls.Find(ctx); return err }},
		{"processes", func(ctx context.Context) error { return s.store.ForgetProcesses(ctx, ss.pool) }},
	}
	// Jobs left in queues by earlier versions.
	ss.runSteps(ctx, step{"queues", func(ctx context.Context) error { return s.rehome(ctx, true) }})
	ss.runSteps(ctx, upkeep...)
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ss.died:
			ss.runSteps(ctx, rescue)
			continue
		case <-time.After(schedule.Jitter(pause.Every)):
		}
		ss.runSteps(ctx, pauses)
		if time.Since(last) >= upkeepEvery {
			ss.runSteps(ctx, upkeep...)
			last = time.Now()
		}
	}
}

func (ss *session) runSteps(ctx context.Context, steps ...step) {
	for _, step := range steps { // each has its own timeout
		bounded, cancel := context.WithTimeout(ctx, stepTimeout)
		if err := step.run(bounded); err != nil && ctx.Err() == nil {
			ss.log.WarnContext(ctx, "maintenance step failed; retrying within seconds", "step", step.name, "error", err)
		}
		cancel()
	}
}

// rescue gives the jobs of dead processes another attempt.
func (s *Scheduler) rescue(ctx context.Context, ss *session, dead []string) error {
	var own []store.Rescuable
	for _, d := range s.reg.Jobs() {
		own = append(own, store.Rescuable{
			Name: d.Name, Queue: s.queues.Of(d), RetryDelay: d.RetryDelay, After: min(d.Timeout, 1<<61) + process.SilentAfter,
			MaxAttempts: d.MaxAttempts, OnFailed: d.CallsOnFailed(),
		})
	}
	n, err := process.Rescue(ctx, s.store, ss.pool, s.log, own, dead)
	if n > 0 {
		ss.ticker.CheckNow() // ticks may have waited for them
		ss.failed.Wake()     // some may have failed for good
	}
	return err
}

// unworkedAfter is how late a job must be to be moved out of a queue that seems to have no workers.
const unworkedAfter = 10 * time.Second

// rehome moves waiting jobs of this process to their queues, out of queues that it does not work: after Concurrency or
// Transactional was added to or removed from a job, the old queue may have no workers, and processes of an older version
// may still insert into it. Unless all is set it leaves jobs alone that are not late: another version may work that queue.
func (s *Scheduler) rehome(ctx context.Context, all bool) error {
	names, queues := s.queues.Homes(s.reg.Jobs())
	worked := append([]string{s.cfg.Queue, store.PausedQueue}, queues...)
	return s.store.Rehome(ctx, s.ownPool(), names, queues, worked, all, unworkedAfter)
}
