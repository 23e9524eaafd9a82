package jobshttp_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// The roles of full that find runs of all jobs and list processes.
var (
	_ jobs.RunFinder     = (*full)(nil)
	_ jobs.BulkRetrier   = (*full)(nil)
	_ jobs.BulkCanceller = (*full)(nil)
	_ jobs.ProcessLister = (*full)(nil)
)

func (f *full) Run(ctx context.Context, id string) (jobs.Run, error) {
	if err := f.call(ctx, "Run", ""); err != nil {
		return jobs.Run{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, runs := range f.runs {
		for _, run := range runs {
			if run.ID == id {
				return run, nil
			}
		}
	}
	return jobs.Run{}, fmt.Errorf("%w: %q", jobs.ErrUnknownID, id)
}

func (f *full) FindRuns(ctx context.Context, q jobs.RunQuery) (page jobs.RunPage, err error) {
	if err := f.call(ctx, "FindRuns", ""); err != nil {
		return page, err
	}
	filter, err := provider.NewRunFilter(q)
	if err != nil {
		return page, err
	}
	for _, run := range f.match(filter) {
		if filter.After.ID != 0 && f.cursor(run).Compare(filter.After) <= 0 {
			continue
		}
		if len(page.Runs) == filter.Limit {
			page.Next = f.cursor(page.Runs[filter.Limit-1]).String()
			break
		}
		page.Runs = append(page.Runs, run)
	}
	return page, nil
}

// match returns the runs that match the filter, in order. It remembers the filter.
func (f *full) match(filter provider.RunFilter) (all []jobs.Run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, filter)
	for name, runs := range f.runs {
		if len(filter.Names) > 0 && !slices.Contains(filter.Names, name) {
			continue
		}
		for _, run := range runs {
			if filter.Match(run.State, timeOf(run)) {
				all = append(all, run)
			}
		}
	}
	slices.SortFunc(all, func(a, b jobs.Run) int { return f.cursor(a).Compare(f.cursor(b)) })
	return all
}

func timeOf(run jobs.Run) time.Time {
	if !run.EndedAt.IsZero() {
		return run.EndedAt
	}
	return run.DueAt
}

func (f *full) cursor(run jobs.Run) (c provider.RunCursor) {
	_, _ = fmt.Sscan(run.ID, &c.ID)
	c.At = timeOf(run)
	return c
}

func (f *full) RetryMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "RetryMany", q, provider.NewRetryFilter)
}

func (f *full) CountRetryable(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "CountRetryable", q, provider.NewRetryFilter)
}

func (f *full) CancelMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "CancelMany", q, provider.NewCancelFilter)
}

func (f *full) CountCancellable(ctx context.Context, q jobs.RunQuery) (int, error) {
	return f.many(ctx, "CountCancellable", q, provider.NewCancelFilter)
}

func (f *full) many(
	ctx context.Context, method string, q jobs.RunQuery, valid func(jobs.RunQuery) (provider.RunFilter, error),
) (int, error) {
	if err := f.call(ctx, method, ""); err != nil {
		return 0, err
	}
	filter, err := valid(q)
	if err != nil {
		return 0, err
	}
	n := len(f.match(filter))
	return min(n, cmp.Or(f.most, n)), f.halfway
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
		ID: "web-1:abc", Host: "web-1", PID: 812, Version: "v1.2.3", StartedAt: f.began, SeenAt: time.Now(),
		Alive: true, Leader: true, Self: true, Workers: 100, Busy: 1,
	}
	for _, st := range f.statuses {
		p.Jobs = append(p.Jobs, st.Name)
	}
	return []jobs.Process{p}, nil
}
