package providertest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/providertest"
)

// finding has the functions of a faulty scheduler that find runs and act on many.
type finding struct {
	run              func(ctx context.Context, id string) (jobs.Run, error)
	find             func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error)
	retryMany        func(ctx context.Context, q jobs.RunQuery) (int, error)
	countRetryable   func(ctx context.Context, q jobs.RunQuery) (int, error)
	cancelMany       func(ctx context.Context, q jobs.RunQuery) (int, error)
	countCancellable func(ctx context.Context, q jobs.RunQuery) (int, error)
	processes        func(ctx context.Context) ([]jobs.Process, error)
}

func (f *faulty) Run(ctx context.Context, id string) (jobs.Run, error) {
	if f.run != nil {
		return f.run(ctx, id)
	}
	return f.Scheduler.Run(ctx, id)
}

func (f *faulty) FindRuns(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
	if f.find != nil {
		return f.find(ctx, q)
	}
	return f.Scheduler.FindRuns(ctx, q)
}

func (f *faulty) RetryMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	if f.retryMany != nil {
		return f.retryMany(ctx, q)
	}
	return f.Scheduler.RetryMany(ctx, q)
}

func (f *faulty) CountRetryable(ctx context.Context, q jobs.RunQuery) (int, error) {
	if f.countRetryable != nil {
		return f.countRetryable(ctx, q)
	}
	return f.Scheduler.CountRetryable(ctx, q)
}

func (f *faulty) CancelMany(ctx context.Context, q jobs.RunQuery) (int, error) {
	if f.cancelMany != nil {
		return f.cancelMany(ctx, q)
	}
	return f.Scheduler.CancelMany(ctx, q)
}

func (f *faulty) CountCancellable(ctx context.Context, q jobs.RunQuery) (int, error) {
	if f.countCancellable != nil {
		return f.countCancellable(ctx, q)
	}
	return f.Scheduler.CountCancellable(ctx, q)
}

func (f *faulty) Processes(ctx context.Context) ([]jobs.Process, error) {
	if f.processes != nil {
		return f.processes(ctx)
	}
	return f.Scheduler.Processes(ctx)
}

// asking changes the queries of FindRuns.
func asking(change func(*jobs.RunQuery)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			change(&q)
			return f.Scheduler.FindRuns(ctx, q)
		}
	}
}

// changingPages changes the pages that FindRuns returns.
func changingPages(change func(*jobs.RunPage)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			page, err := f.Scheduler.FindRuns(ctx, q)
			change(&page)
			return page, err
		}
	}
}

// changingRun changes the runs that Run returns.
func changingRun(change func(*jobs.Run)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.run = func(ctx context.Context, id string) (jobs.Run, error) {
			r, err := f.Scheduler.Run(ctx, id)
			change(&r)
			return r, err
		}
	}
}

// retrying changes the queries of RetryMany and CountRetryable.
func retrying(change func(*jobs.RunQuery)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.retryMany = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			change(&q)
			return f.Scheduler.RetryMany(ctx, q)
		}
		f.countRetryable = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			change(&q)
			return f.Scheduler.CountRetryable(ctx, q)
		}
	}
}

// cancelling changes the queries of CancelMany and CountCancellable.
func cancelling(change func(*jobs.RunQuery)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.cancelMany = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			change(&q)
			return f.Scheduler.CancelMany(ctx, q)
		}
		f.countCancellable = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			change(&q)
			return f.Scheduler.CountCancellable(ctx, q)
		}
	}
}

// changingProcesses changes what Processes returns.
func changingProcesses(change func([]jobs.Process) []jobs.Process) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.processes = func(ctx context.Context) ([]jobs.Process, error) {
			all, err := f.Scheduler.Processes(ctx)
			if err != nil {
				return nil, err
			}
			return change(all), nil
		}
	}
}

// Rules that several of these faults break.
const (
	findsMatches     = "FindRuns returns the runs of all jobs that match, latest first"
	findsByTime      = "FindRuns selects by when runs ended or are due"
	everyRunOnce     = "the pages of FindRuns have every matching run once, while others begin to match"
	boundedLists     = "lists of runs with very large data are bounded"
	checkedQueries   = "FindRuns and the calls for many runs refuse bad queries"
	errorsOfAttempts = "Run returns a run with the errors of its attempts"
	retriesMatches   = "RetryMany retries every run that matches and can be retried"
	retriesOnce      = "RetryMany retries each run once, even if it fails again meanwhile"
	uniqueKeys       = "RetryMany keeps the keys of unique runs unique"
	cancelsMatches   = "CancelMany cancels every run that matches and has not ended"
	listsProcesses   = "Processes lists the process while it is started, and its runs name it"
)

// findFaults lists schedulers with one fault each in what they find, or do to what they find.
var findFaults = []struct {
	fault, rule string
	seed        func(f *faulty, cfg providertest.Config)
}{
	{"FindRuns ignores names", findsMatches, asking(func(q *jobs.RunQuery) { q.Names = nil })},
	{"FindRuns knows only one name", findsMatches, asking(func(q *jobs.RunQuery) { q.Names = q.Names[:min(1, len(q.Names))] })},
	{"FindRuns ignores states", findsMatches, asking(func(q *jobs.RunQuery) { q.States = nil })},
	{"FindRuns ignores names if there are states", findsMatches, asking(func(q *jobs.RunQuery) {
		if len(q.States) > 0 {
			q.Names = nil
		}
	})},
	{"FindRuns returns the earliest first", findsMatches, changingPages(func(p *jobs.RunPage) { slices.Reverse(p.Runs) })},
	{"FindRuns leaves out ended runs", findsMatches, changingPages(func(p *jobs.RunPage) {
		p.Runs = slices.DeleteFunc(p.Runs, func(r jobs.Run) bool { return !r.EndedAt.IsZero() })
	})},
	{"FindRuns returns runs without their process", findsMatches, changingPages(func(p *jobs.RunPage) {
		for i := range p.Runs {
			p.Runs[i].Process = ""
		}
	})},
	{"FindRuns ignores Since", findsByTime, asking(func(q *jobs.RunQuery) { q.Since = time.Time{} })},
	{"FindRuns ignores Until", findsByTime, asking(func(q *jobs.RunQuery) { q.Until = time.Time{} })},
	{"Since is exclusive", findsByTime, asking(func(q *jobs.RunQuery) {
		if !q.Since.IsZero() {
			q.Since = q.Since.Add(1)
		}
	})},
	{"Until is inclusive", findsByTime, asking(func(q *jobs.RunQuery) {
		if !q.Until.IsZero() {
			q.Until = q.Until.Add(1)
		}
	})},
	{"Since is about when runs were inserted", findsByTime, func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			since := q.Since
			q.Since = time.Time{}
			page, err := f.Scheduler.FindRuns(ctx, q)
			page.Runs = slices.DeleteFunc(page.Runs, func(r jobs.Run) bool { return r.CreatedAt.Before(since) })
			return page, err
		}
	}},
	{"the second page begins with the last run of the first", everyRunOnce, func(f *faulty, _ providertest.Config) {
		var last jobs.Run
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			page, err := f.Scheduler.FindRuns(ctx, q)
			if q.After != "" && len(page.Runs) > 0 {
				page.Runs[0] = last
			}
			if len(page.Runs) > 0 {
				last = page.Runs[len(page.Runs)-1]
			}
			return page, err
		}
	}},
	{"pages are counted from the latest run", everyRunOnce, func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			limit, skip := q.Limit, len(q.After)
			q.After, q.Limit = "", 1000
			page, err := f.Scheduler.FindRuns(ctx, q)
			page.Runs = page.Runs[min(skip, len(page.Runs)):]
			if page.Next = ""; len(page.Runs) > limit {
				page.Runs, page.Next = page.Runs[:limit], strings.Repeat("*", skip+limit)
			}
			return page, err
		}
	}},
	{"there is only one page", everyRunOnce, changingPages(func(p *jobs.RunPage) { p.Next = "" })},
	{"a page ignores its limit", everyRunOnce, asking(func(q *jobs.RunQuery) { q.Limit = 0 })},
	{"pages are as large as their runs", boundedLists, func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (all jobs.RunPage, err error) {
			for more := true; more && err == nil; {
				var page jobs.RunPage
				page, err = f.Scheduler.FindRuns(ctx, q)
				all.Runs = append(all.Runs, page.Runs...)
				q.After, more = page.Next, page.Next != ""
			}
			return all, err
		}
	}},
	{"runs that do not fit on a page are lost", boundedLists, changingPages(func(p *jobs.RunPage) {
		if len(p.Runs) < 5 {
			p.Next = ""
		}
	})},
	{"runs that do not fit on a page come without data", boundedLists, changingPages(func(p *jobs.RunPage) {
		p.Runs[len(p.Runs)-1].Data = nil
	})},
	{"Runs ends early", boundedLists, func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			return slices.DeleteFunc(runs, func(r jobs.Run) bool { return r.Data == nil }), err
		}
	}},
	{"Runs returns all data", boundedLists, func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			for i := range runs {
				r, _ := f.Scheduler.Run(ctx, runs[i].ID)
				runs[i].Data = r.Data
			}
			return runs, err
		}
	}},
	{"FindRuns of an unknown job is empty", checkedQueries, func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			page, err := f.Scheduler.FindRuns(ctx, q)
			return page, accepting(jobs.ErrUnknownJob)(err)
		}
	}},
	{"FindRuns starts over after a cursor that it does not know", checkedQueries, func(f *faulty, _ providertest.Config) {
		f.find = func(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
			page, err := f.Scheduler.FindRuns(ctx, q)
			if err != nil && strings.Contains(err.Error(), "After") {
				return f.Scheduler.FindRuns(ctx, jobs.RunQuery{})
			}
			return page, err
		}
	}},
	{"CancelMany ignores Limit", checkedQueries, cancelling(func(q *jobs.RunQuery) { q.Limit = 0 })},
	{"RetryMany ignores After", checkedQueries, retrying(func(q *jobs.RunQuery) { q.After = "" })},
	{"RetryMany ignores its context", checkedQueries, func(f *faulty, _ providertest.Config) {
		f.retryMany = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			return f.Scheduler.RetryMany(context.WithoutCancel(ctx), q)
		}
	}},
	{"CancelMany cancels before it checks the states", checkedQueries, func(f *faulty, _ providertest.Config) {
		f.cancelMany = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			if len(q.States) > 0 {
				_, _ = f.Scheduler.CancelMany(ctx, jobs.RunQuery{})
			}
			return f.Scheduler.CancelMany(ctx, q)
		}
	}},
	{"Run returns only the latest error", errorsOfAttempts, changingRun(func(r *jobs.Run) { r.Errors = r.Errors[max(0, len(r.Errors)-1):] })},
	{"Run returns the latest error first", errorsOfAttempts, changingRun(func(r *jobs.Run) { slices.Reverse(r.Errors) })},
	{"Run counts errors from 0", errorsOfAttempts, changingRun(func(r *jobs.Run) {
		for i := range r.Errors {
			r.Errors[i].Attempt--
		}
	})},
	{"an error has no time", errorsOfAttempts, changingRun(func(r *jobs.Run) {
		for i := range r.Errors {
			r.Errors[i].At = time.Time{}
		}
	})},
	{"the reason for skipping is an error of an attempt", errorsOfAttempts, changingRun(func(r *jobs.Run) {
		if r.State == jobs.StateSkipped {
			r.Errors = append(r.Errors, jobs.RunError{Text: r.Error})
		}
	})},
	{"a run that waits has a process", errorsOfAttempts, changingRun(func(r *jobs.Run) { r.Process = "process" })},
	{"Run returns no data", errorsOfAttempts, changingRun(func(r *jobs.Run) { r.Data = nil })},
	{"an unknown ID is an empty run", errorsOfAttempts, func(f *faulty, _ providertest.Config) {
		f.run = func(ctx context.Context, id string) (jobs.Run, error) {
			r, err := f.Scheduler.Run(ctx, id)
			return r, accepting(jobs.ErrUnknownID)(err)
		}
	}},
	{"Run returns the first 100 errors", "Run returns the latest 100 errors", changingRun(func(r *jobs.Run) {
		if n := len(r.Errors); n > 0 {
			first := r.Errors[0].Attempt
			for i := range r.Errors {
				r.Errors[i].Attempt -= first - 1
			}
		}
	})},
	{"RetryMany ignores names", retriesMatches, retrying(func(q *jobs.RunQuery) { q.Names = nil })},
	{"RetryMany ignores states", retriesMatches, retrying(func(q *jobs.RunQuery) { q.States = nil })},
	{"RetryMany ignores Since", retriesMatches, retrying(func(q *jobs.RunQuery) { q.Since = time.Time{} })},
	{"RetryMany retries only failed runs", retriesMatches, retrying(func(q *jobs.RunQuery) { q.States = []jobs.State{jobs.StateFailed} })},
	{"CountRetryable counts all runs that match", retriesMatches, func(f *faulty, _ providertest.Config) {
		f.countRetryable = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			q.Limit = 1000
			page, err := f.Scheduler.FindRuns(ctx, q)
			return len(page.Runs), err
		}
	}},
	{"RetryMany only counts", retriesMatches, func(f *faulty, _ providertest.Config) {
		f.retryMany = f.Scheduler.CountRetryable
	}},
	{"RetryMany retries page by page until none is left", retriesOnce, func(f *faulty, _ providertest.Config) {
		f.retryMany = func(ctx context.Context, q jobs.RunQuery) (n int, err error) {
			for range 3 {
				m, retryErr := f.Scheduler.RetryMany(ctx, q)
				n, err = n+m, errors.Join(err, retryErr, pause(ctx))
			}
			return n, err
		}
	}},
	{"RetryMany retries the first page", retriesOnce, func(f *faulty, _ providertest.Config) {
		f.retryMany = func(ctx context.Context, q jobs.RunQuery) (n int, err error) {
			q.Limit = 500
			page, err := f.Scheduler.FindRuns(ctx, q)
			for _, r := range page.Runs {
				err = errors.Join(err, f.Scheduler.Retry(ctx, r.Name, r.ID))
			}
			return len(page.Runs), err
		}
	}},
	{"RetryMany inserts new runs", uniqueKeys, func(f *faulty, _ providertest.Config) {
		f.retryMany = func(ctx context.Context, q jobs.RunQuery) (n int, err error) {
			page, err := f.Scheduler.FindRuns(ctx, q)
			for _, r := range page.Runs {
				_, triggerErr := f.Scheduler.Trigger(ctx, r.Name, r.Data)
				err = errors.Join(err, triggerErr)
			}
			return len(page.Runs), err
		}
	}},
	{"a run that was retried and waits can be retried", uniqueKeys, func(f *faulty, _ providertest.Config) {
		f.countRetryable = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			page, err := f.Scheduler.FindRuns(ctx, jobs.RunQuery{Names: q.Names, States: []jobs.State{jobs.StateRetrying}})
			return len(page.Runs), err
		}
	}},
	{"a key is lost by its retry", uniqueKeys, func(f *faulty, _ providertest.Config) {
		retried := false
		f.retryMany = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			retried = true
			return f.Scheduler.RetryMany(ctx, q)
		}
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if req, err := jobs.NewRequest(name, data, opts...); err == nil && retried && req.Unique == "alone" {
				opts = append(opts, jobs.Unique("another"))
			}
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"CancelMany ignores names", cancelsMatches, cancelling(func(q *jobs.RunQuery) { q.Names = nil })},
	{"CancelMany ignores states", cancelsMatches, cancelling(func(q *jobs.RunQuery) { q.States = nil })},
	{"CancelMany ignores Until", cancelsMatches, cancelling(func(q *jobs.RunQuery) { q.Until = time.Time{} })},
	{"CancelMany leaves running runs alone", cancelsMatches, cancelling(func(q *jobs.RunQuery) {
		if len(q.States) == 0 {
			q.States = []jobs.State{jobs.StateScheduled, jobs.StateWaiting, jobs.StateRetrying}
		}
	})},
	{"CancelMany only counts", cancelsMatches, func(f *faulty, _ providertest.Config) {
		f.cancelMany = f.Scheduler.CountCancellable
	}},
	{"CountCancellable counts ended runs too", cancelsMatches, func(f *faulty, _ providertest.Config) {
		f.countCancellable = func(ctx context.Context, q jobs.RunQuery) (int, error) {
			page, err := f.Scheduler.FindRuns(ctx, q)
			return len(page.Runs), err
		}
	}},
	{"a process is listed before it has started", listsProcesses, changingProcesses(func(all []jobs.Process) []jobs.Process {
		if len(all) == 0 {
			return []jobs.Process{{ID: "process"}}
		}
		return all
	})},
	{"a process keeps its ID when it starts again", listsProcesses, changingProcesses(func(all []jobs.Process) []jobs.Process {
		for i := range all {
			all[i].ID = "memory-process-1"
		}
		return all
	})},
	{"a process does not know itself", listsProcesses, changingProcesses(func(all []jobs.Process) []jobs.Process {
		for i := range all {
			all[i].Self = false
		}
		return all
	})},
	{"no process leads", listsProcesses, changingProcesses(func(all []jobs.Process) []jobs.Process {
		for i := range all {
			all[i].Leader = false
		}
		return all
	})},
	{"a process has other jobs", listsProcesses, changingProcesses(func(all []jobs.Process) []jobs.Process {
		for i := range all {
			all[i].Jobs = all[i].Jobs[1:]
		}
		return all
	})},
	{"a process is never busy", listsProcesses, changingProcesses(func(all []jobs.Process) []jobs.Process {
		for i := range all {
			all[i].Busy = 0
		}
		return all
	})},
	{"a run names no process", listsProcesses, changingRun(func(r *jobs.Run) { r.Process = "" })},
}
