package river

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var (
	_ jobs.RunLister     = (*Scheduler)(nil)
	_ jobs.RunFinder     = (*Scheduler)(nil)
	_ jobs.ProcessLister = (*Scheduler)(nil)
)

// Runs implements [jobs.RunLister].
func (s *Scheduler) Runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	if _, err := s.definition(name); err != nil {
		return nil, err
	}
	if err := provider.CheckRunLimit(limit); err != nil {
		return nil, err
	}
	runs, err := s.store.Runs(ctx, s.pool, name, limit, provider.PageBytes)
	if err != nil {
		return nil, fmt.Errorf("river: runs of %q: %w", name, s.unmigrated(err))
	}
	return runs, nil
}

// Run implements [jobs.RunFinder].
func (s *Scheduler) Run(ctx context.Context, id string) (jobs.Run, error) {
	number, err := parseID(id)
	if err != nil {
		return jobs.Run{}, fmt.Errorf("river: run %.100q: %w", id, err)
	}
	run, errs, ok, err := s.store.Run(ctx, s.pool, number, provider.MaxErrors)
	if err == nil && !ok {
		err = jobs.ErrUnknownID
	}
	if err == nil {
		if _, unknown := s.definition(run.Name); unknown != nil {
			err = fmt.Errorf("%w: its job is not registered", jobs.ErrUnknownID)
		}
	}
	if err != nil {
		return jobs.Run{}, fmt.Errorf("river: run %q: %w", id, s.unmigrated(err))
	}
	if run.State == jobs.StateSkipped { // the last one is the reason
		errs = errs[:max(0, len(errs)-1)]
	}
	for _, e := range errs {
		text := strings.TrimPrefix(e.Error, store.CancelPrefix)
		if e.Trace != "" { // of a plain River client
			text += "\n\n" + e.Trace
		}
		run.Errors = append(run.Errors, jobs.RunError{Attempt: e.Attempt, At: e.At.UTC(), Text: text})
	}
	return run, nil
}

// FindRuns implements [jobs.RunFinder]. For a TriggerOnly scheduler, all registered jobs are those of the live processes.
func (s *Scheduler) FindRuns(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
	f, err := provider.NewRunFilter(q)
	if err != nil {
		return jobs.RunPage{}, err
	}
	filter, err := s.filter(ctx, f)
	if err != nil {
		return jobs.RunPage{}, err
	}
	runs, more, err := s.store.FindRuns(ctx, s.pool, filter, provider.PageBytes)
	if err != nil {
		return jobs.RunPage{}, fmt.Errorf("river: find runs: %w", s.unmigrated(err))
	}
	page := jobs.RunPage{Runs: runs}
	if more {
		last := runs[len(runs)-1]
		number, _ := parseID(last.ID)
		page.Next = provider.RunCursor{At: cmp.Or(last.EndedAt, last.DueAt), ID: number}.String()
	}
	return page, nil
}

// filter adds what the database needs to know, and checks the names.
func (s *Scheduler) filter(ctx context.Context, f provider.RunFilter) (store.Filter, error) {
	for _, name := range f.Names {
		if _, err := s.definition(name); err != nil {
			return store.Filter{}, err
		}
	}
	if len(f.Names) == 0 {
		f.Names = namesOf(s.reg.Jobs())
		if s.cfg.TriggerOnly {
			all, err := s.store.ListProcesses(ctx, s.pool, s.cfg.DeadAfter)
			if err != nil {
				return store.Filter{}, fmt.Errorf("river: the jobs of the live processes: %w", s.unmigrated(err))
			}
			for _, p := range all {
				if p.Alive {
					f.Names = append(f.Names, p.Jobs...)
				}
			}
		}
	}
	filter := store.Filter{RunFilter: f, Live: []string{}, Ended: []string{}} // nil would be NULL
	for river, states := range ofRiver {
		if !slices.ContainsFunc(states, func(state jobs.State) bool { return slices.Contains(f.States, state) }) {
			continue
		}
		if slices.Contains(finalStates, river) {
			filter.Ended = append(filter.Ended, river)
		} else {
			filter.Live = append(filter.Live, river)
		}
	}
	return filter, nil
}

// finalStates are River's states of runs that have ended.
var finalStates = []string{"completed", "discarded", "cancelled"}

// parseID returns [jobs.ErrUnknownID] for an ID that formatID cannot have returned.
func parseID(id string) (int64, error) {
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil || formatID(number) != id {
		return 0, jobs.ErrUnknownID
	}
	return number, nil
}

// Processes implements [jobs.ProcessLister]. A process is alive here if its latest heartbeat is younger than
// [Config].DeadAfter by the database's clock. Processes that rescue jobs are more careful: they watch the heartbeats for
// that long themselves.
func (s *Scheduler) Processes(ctx context.Context) ([]jobs.Process, error) {
	all, err := s.store.ListProcesses(ctx, s.pool, s.cfg.DeadAfter)
	if err != nil {
		return nil, fmt.Errorf("river: processes: %w", s.unmigrated(err))
	}
	if ss := s.session.Load(); ss != nil {
		for i := range all {
			all[i].Self = all[i].ID == ss.client.ID()
		}
	}
	return all, nil
}
