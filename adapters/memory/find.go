package memory

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Run implements [jobs.RunFinder].
func (s *Scheduler) Run(ctx context.Context, id string) (jobs.Run, error) {
	if err := ctx.Err(); err != nil {
		return jobs.Run{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promote(clock())
	r := s.rows[id]
	if r == nil {
		return jobs.Run{}, fmt.Errorf("%w: %.100q", jobs.ErrUnknownID, id)
	}
	run := r.run()
	run.Errors = slices.Clone(r.errs)
	return run, nil
}

// FindRuns implements [jobs.RunFinder].
func (s *Scheduler) FindRuns(ctx context.Context, q jobs.RunQuery) (jobs.RunPage, error) {
	f, err := provider.NewRunFilter(q)
	if err != nil {
		return jobs.RunPage{}, err
	}
	var page jobs.RunPage
	err = s.find(ctx, f, func(_ time.Time, rows []*row) {
		rows = slices.DeleteFunc(rows, func(r *row) bool { return f.After != provider.RunCursor{} && r.cursor().Compare(f.After) <= 0 })
		n := min(f.Limit, fitting(rows))
		for _, r := range rows[:n] {
			page.Runs = append(page.Runs, r.run())
		}
		if n < len(rows) {
			page.Next = rows[n-1].cursor().String()
		}
	})
	return page, err
}

// RetryMany implements [jobs.BulkRetrier].
func (s *Scheduler) RetryMany(ctx context.Context, q jobs.RunQuery) (n int, err error) {
	defer s.notify()
	err = s.findRetryable(ctx, q, func(now time.Time, rows []*row) {
		s.retry(now, rows...)
		n = len(rows)
	})
	return n, err
}

// CountRetryable implements [jobs.BulkRetrier].
func (s *Scheduler) CountRetryable(ctx context.Context, q jobs.RunQuery) (n int, err error) {
	err = s.findRetryable(ctx, q, func(_ time.Time, rows []*row) { n = len(rows) })
	return n, err
}

func (s *Scheduler) findRetryable(ctx context.Context, q jobs.RunQuery, do func(now time.Time, rows []*row)) error {
	f, err := provider.NewRetryFilter(q)
	if err != nil {
		return err
	}
	return s.find(ctx, f, func(now time.Time, rows []*row) {
		do(now, slices.DeleteFunc(rows, func(r *row) bool { return !r.canRetry() }))
	})
}

// CancelMany implements [jobs.BulkCanceller].
func (s *Scheduler) CancelMany(ctx context.Context, q jobs.RunQuery) (n int, err error) {
	defer s.notify() // ticks may have waited for them
	err = s.findCancellable(ctx, q, func(now time.Time, rows []*row) {
		s.cancel(now, rows...)
		n = len(rows)
	})
	return n, err
}

// CountCancellable implements [jobs.BulkCanceller].
func (s *Scheduler) CountCancellable(ctx context.Context, q jobs.RunQuery) (n int, err error) {
	err = s.findCancellable(ctx, q, func(_ time.Time, rows []*row) { n = len(rows) })
	return n, err
}

func (s *Scheduler) findCancellable(ctx context.Context, q jobs.RunQuery, do func(now time.Time, rows []*row)) error {
	f, err := provider.NewCancelFilter(q)
	if err != nil {
		return err
	}
	return s.find(ctx, f, do)
}

// find calls do with the rows that match f, in the order of FindRuns, with s.mu locked.
func (s *Scheduler) find(ctx context.Context, f provider.RunFilter, do func(now time.Time, rows []*row)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wanted := make(map[string]bool, len(f.Names))
	for _, name := range f.Names {
		if _, err := s.registry.Job(name); err != nil {
			return err
		}
		wanted[name] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	s.promote(now)
	var rows []*row
	for _, r := range s.rows {
		if (len(wanted) == 0 || wanted[r.queue.def.Name]) && f.Match(r.shown(), r.cursor().At) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row) int { return a.cursor().Compare(b.cursor()) })
	do(now, rows)
	return nil
}

// cursor returns the place of r in the order of FindRuns.
func (r *row) cursor() provider.RunCursor {
	return provider.RunCursor{At: cmp.Or(r.ended, r.due), ID: int64(r.seq)}
}

// shown returns the state of r that lists of runs have. A run that is due for another attempt is
// still being retried.
func (r *row) shown() jobs.State {
	if r.state == jobs.StateWaiting && r.attempt > 0 {
		return jobs.StateRetrying
	}
	return r.state
}

// addError records the error of the latest attempt.
func (r *row) addError(text string, now time.Time) {
	if len(r.errs) == provider.MaxErrors {
		r.errs = r.errs[1:]
	}
	r.errs = append(r.errs, jobs.RunError{Attempt: r.attempt, At: now, Text: text})
}

// fitting returns how many of the rows a list of runs has with their data.
func fitting(rows []*row) int {
	bytes := 0
	for i, r := range rows {
		if bytes += len(r.data) + len(r.output) + len(r.err); bytes > provider.PageBytes && i > 0 {
			return i
		}
	}
	return len(rows)
}

// Processes implements [jobs.ProcessLister]. It lists this process while the scheduler is started.
func (s *Scheduler) Processes(ctx context.Context) ([]jobs.Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil, nil
	}
	host, _ := os.Hostname() // "" if unknown
	p := jobs.Process{
		ID: s.session.id, Host: host, PID: os.Getpid(), StartedAt: s.session.began, SeenAt: clock(),
		Alive: true, Leader: true, Self: true, Busy: s.running,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		p.Version = info.Main.Version
	}
	for _, group := range s.slots {
		p.Workers += group.n
	}
	for _, d := range s.registry.Jobs() {
		p.Jobs = append(p.Jobs, d.Name)
	}
	return []jobs.Process{p}, nil
}
