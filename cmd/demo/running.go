package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
)

// running tracks the attempts that are running in this process, so that the demo can report
// what it is waiting for. The zero value is ready to use.
type running struct {
	mu    sync.Mutex
	since map[*jobs.Job]time.Time
}

// watch is a [jobs.Middleware].
func (r *running) watch(next jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		key := &jobs.Job{ID: job.ID, Name: job.Name} // a copy, since the handler may change job
		r.mu.Lock()
		if r.since == nil {
			r.since = make(map[*jobs.Job]time.Time)
		}
		r.since[key] = time.Now()
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.since, key)
		}()
		return next(ctx, job)
	}
}

// String lists the running attempts. It is "" if there are none.
func (r *running) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for job, since := range r.since {
		all = append(all, fmt.Sprintf("%s (job %s, for %s)", job.Name, job.ID, time.Since(since).Round(time.Second)))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
