package jobshttp_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/everytick/everytick/jobs"
)

// matching returns the runs that match q, in the order of FindRuns.
func (f *full) matching(ctx context.Context, method string, q jobs.RunQuery) ([]jobs.Run, error) {
	if err := f.call(ctx, method, ""); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, q)
	at := func(run jobs.Run) time.Time {
		if run.EndedAt.IsZero() {
			return run.DueAt
		}
		return run.EndedAt
	}
	var found []jobs.Run
	for name, runs := range f.runs {
		for _, run := range runs {
			if len(q.Names) > 0 && !slices.Contains(q.Names, name) || len(q.States) > 0 && !slices.Contains(q.States, run.State) ||
				!q.Since.IsZero() && at(run).Before(q.Since) || !q.Until.IsZero() && !at(run).Before(q.Until) {
				continue
			}
			found = append(found, run)
		}
	}
	slices.SortFunc(found, func(a, b jobs.Run) int { return at(b).Compare(at(a)) })
	return found, nil
}

func (f *full) Run(ctx context.Context, id string) (jobs.Run, error) {
	all, err := f.matching(ctx, "Run", jobs.RunQuery{})
	for _, run := range all {
		if run.ID == id {
			return run, err
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: %q", jobs.ErrUnknownID, id)
	}
	return jobs.Run{}, err
}

// The cursor of FindRuns is the number of runs before the page.
func (f *full) FindRuns(ctx context.Context, q jobs.RunQuery) (page jobs.RunPage, err error) {
	all, err := f.matching(ctx, "FindRuns", q)
	first := 0
	if err == nil && q.After != "" {
		if first, err = strconv.Atoi(q.After); err != nil || first < 0 {
			return page, fmt.Errorf("%w: RunQuery.After", jobs.ErrInvalidOption)
		}
	}
	if limit := q.Limit; err == nil {
		if limit == 0 {
			limit = 100
		}
		end := min(first+limit, len(all))
		if page.Runs = all[min(first, end):end]; end < len(all) {
			page.Next = strconv.Itoa(end)
		}
	}
	return page, err
}

func (f *full) many(ctx context.Context, method string, q jobs.RunQuery, states ...jobs.State) (int, error) {
	all, err := f.matching(ctx, method, q)
	n := 0
	for _, run := range all {
		if slices.Contains(states, run.State) {
			n++
		}
	}
	if err == nil && method[:5] != "Count" {
		err = f.halfway
	}
	return n, err
}

var (
	retryable   = []jobs.State{jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped, jobs.StateRetrying}
	cancellable = []jobs.State{jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying}
)

func (f *full) RetryMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "RetryMany", q, retryable...)
}

func (f *full) CountRetryable(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "CountRetryable", q, retryable...)
}

func (f *full) CancelMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "CancelMany", q, cancellable...)
}

func (f *full) CountCancellable(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "CountCancellable", q, cancellable...)
}

func (f *full) Processes(ctx context.Context) ([]jobs.Process, error) {
	if err := f.call(ctx, "Processes", ""); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.processes != nil {
		return slices.Clone(f.processes), nil
	}
	p := jobs.Process{
		ID: "web-1:abc", Host: "web-1", PID: 812, Version: "v1.2.3", StartedAt: f.began, SeenAt: f.began.Add(48 * time.Hour),
		Alive: true, Leader: true, Self: true, Workers: 100, Busy: 1,
	}
	for _, st := range f.statuses {
		p.Jobs = append(p.Jobs, st.Name)
	}
	return []jobs.Process{p}, nil
}
