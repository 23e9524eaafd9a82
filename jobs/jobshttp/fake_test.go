package jobshttp_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// core is a fake scheduler without optional roles.
type core struct {
	jobs.Scheduler // nil; for methods that the handler never calls

	mu       sync.Mutex
	statuses []jobs.Status
	health   jobs.Health
	down     error                    // returned by every call
	hang     bool                     // calls block until their context ends
	data     []string                 // of triggered jobs
	calls    map[string]int           // by method
	runs     map[string][]jobs.Run    // by job
	activity map[string]jobs.Outcomes // of the last step but one
	before   func(method string)      // called before each call
	queries  []jobs.RunQuery          // of finds and bulk actions
	halfway  error                    // returned by bulk actions together with a count
	newID    string                   // returned by Trigger; defaults to 41
	failing  map[string]error         // returned by a method
	hanging  map[string]error         // returned by a method at the end of its context
	requests []*jobs.Request          // of triggers
}

func (c *core) call(ctx context.Context, method, name string) error {
	if c.before != nil {
		c.before(method)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[string]int{}
	}
	c.calls[method]++
	switch {
	case name != "" && !slices.ContainsFunc(c.statuses, func(st jobs.Status) bool { return st.Name == name }):
		return fmt.Errorf("%w: %q", jobs.ErrUnknownJob, name)
	case c.failing[method] != nil:
		return c.failing[method]
	case c.hang:
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return ctx.Err()
	}
	if err, hangs := c.hanging[method]; hangs {
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return err
	}
	return c.down
}

func (c *core) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *core) called(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[method]
}

func (c *core) Jobs(ctx context.Context) ([]jobs.Status, error) {
	err := c.call(ctx, "Jobs", "")
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.statuses), err
}

func (c *core) Health(ctx context.Context) (jobs.Health, error) {
	err := c.call(ctx, "Health", "")
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health, err
}

func (c *core) QueueSize(ctx context.Context, name string) (int, error) {
	return 7, c.call(ctx, "QueueSize", name)
}

func (c *core) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	if err := c.call(ctx, "Trigger", name); err != nil {
		return "", err
	}
	req, err := jobs.NewRequest(name, data, opts...)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, before := range c.requests {
		if req.IdempotencyKey != "" && before.IdempotencyKey == req.IdempotencyKey && before.Fingerprint != req.Fingerprint {
			return "", fmt.Errorf("trigger: %w: run 41", jobs.ErrKeyReused)
		}
	}
	c.data, c.requests = append(c.data, string(req.Data)), append(c.requests, req)
	return cmp.Or(c.newID, "41"), nil
}

// full has all the optional roles.
type full struct {
	core

	began      time.Time
	processes  []jobs.Process // nil means one that has all jobs
	incomplete bool           // activity is complete in the last ten minutes only
}

func (f *full) Runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	if err := f.call(ctx, "Runs", name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.runs[name][:min(limit, len(f.runs[name]))]), provider.CheckRunLimit(limit)
}

func (f *full) Activity(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
	if err := f.call(ctx, "Activity", ""); err != nil {
		return jobs.Activity{}, err
	}
	a, err := provider.NewActivity(time.Now(), step, n)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.incomplete {
		a.CompleteSince = time.Now().Add(-10 * time.Minute)
	}
	for name, o := range f.activity {
		provider.AddEnded(a, name, n-2, n, jobs.StateCompleted, o.Completed)
		provider.AddEnded(a, name, n-2, n, jobs.StateFailed, o.Failed)
		provider.AddEnded(a, name, n-2, n, jobs.StateSkipped, o.Other)
	}
	return a, err
}

func (f *full) find(ctx context.Context, method, name, id string) (jobs.State, error) {
	if err := f.call(ctx, method, name); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, run := range f.runs[name] {
		if run.ID == id {
			return run.State, nil
		}
	}
	return "", fmt.Errorf("%w: %q", jobs.ErrUnknownID, id)
}

func (f *full) Cancel(ctx context.Context, name, id string) error {
	_, err := f.find(ctx, "Cancel", name, id)
	return err
}

func (f *full) Retry(ctx context.Context, name, id string) error {
	state, err := f.find(ctx, "Retry", name, id)
	if err == nil && state == jobs.StateCompleted {
		return jobs.ErrNotRetryable
	}
	return err
}

func (f *full) Pause(ctx context.Context, name string) error {
	return f.paused(ctx, "Pause", name, time.Now())
}

func (f *full) Resume(ctx context.Context, name string) error {
	return f.paused(ctx, "Resume", name, time.Time{})
}

func (f *full) paused(ctx context.Context, method, name string, since time.Time) error {
	if err := f.call(ctx, method, name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.statuses {
		if f.statuses[i].Name == name {
			f.statuses[i].PausedSince = since
		}
	}
	return nil
}

// newFake returns a scheduler with a job in each condition: completed, failing, on demand,
// overdue and paused.
func newFake(now time.Time) *full {
	tick := func(d time.Duration) []time.Time {
		return []time.Time{now.Add(d), now.Add(2 * d), now.Add(3 * d)}
	}
	f := &full{began: now.Add(-48 * time.Hour)}
	f.health = jobs.Health{Healthy: true, Started: true, Totals: map[jobs.State]jobs.Count{jobs.StateCompleted: {N: 12}}}
	f.statuses = []jobs.Status{
		{Name: "audit.retention", Schedule: "0 3 * * *", Zone: "Europe/Berlin", PrevTick: now.Add(-9 * time.Hour), PrevState: jobs.StateCompleted, LastSuccess: now.Add(-9 * time.Hour), NextTick: now.Add(15 * time.Hour), Upcoming: tick(15 * time.Hour)},
		{Name: "demo.flaky", Schedule: "every 5m0s", PrevTick: now.Add(-2 * time.Minute), PrevState: jobs.StateFailed, Missed: 2, LastSuccess: now.Add(-12 * time.Minute), NextTick: now.Add(3 * time.Minute), Upcoming: tick(3 * time.Minute), Retrying: 1, Waiting: 1},
		{Name: "email.send", Schedule: "on demand", Running: 1, Waiting: 4},
		{Name: "email.stuck", Schedule: "*/10 * * * *", Zone: "UTC", PrevTick: now.Add(-22 * time.Minute), PrevState: jobs.StateCompleted, NextTick: now.Add(-12 * time.Minute), OverdueBy: 12 * time.Minute, OverdueReason: "no process works this queue"},
		{Name: "notifs.cleanup", Schedule: "every 1h0m0s", NextTick: now.Add(time.Minute), Upcoming: tick(time.Minute), PausedSince: now.Add(-time.Hour)},
	}
	f.runs = map[string][]jobs.Run{
		"demo.flaky": {
			{ID: "12", Name: "demo.flaky", State: jobs.StateRetrying, Tick: now.Add(-2 * time.Minute), Attempt: 1, MaxAttempts: 3, CreatedAt: now.Add(-7 * time.Minute), DueAt: now.Add(8 * time.Second), StartedAt: now.Add(-time.Minute), Error: "smtp: <b>421</b> busy", Output: json.RawMessage(`{"by":"bob@example.com"}`), Data: json.RawMessage(`{"to":"ann@example.com"}`)},
			{ID: "11", Name: "demo.flaky", State: jobs.StateFailed, Tick: now.Add(-7 * time.Minute), Attempt: 3, MaxAttempts: 3, CreatedAt: now.Add(-12 * time.Minute), DueAt: now.Add(-7 * time.Minute), StartedAt: now.Add(-6 * time.Minute), EndedAt: now.Add(-6*time.Minute + 340*time.Millisecond), Error: "panic: boom\nmain.f\n\t/a.go:1", Data: json.RawMessage(`{}`)},
			{ID: "10", Name: "demo.flaky", State: jobs.StateCompleted, Attempt: 1, MaxAttempts: 3, CreatedAt: now.Add(-20 * time.Minute), StartedAt: now.Add(-20 * time.Minute), EndedAt: now.Add(-19 * time.Minute), Data: json.RawMessage(`{}`)},
		},
		"email.send": {{ID: "21", Name: "email.send", State: jobs.StateRunning, Attempt: 1, MaxAttempts: 3, CreatedAt: now.Add(-3 * time.Second), StartedAt: now.Add(-2 * time.Second)}},
	}
	f.activity = map[string]jobs.Outcomes{"demo.flaky": {Completed: 40, Failed: 2, Other: 1}, "audit.retention": {Completed: 1}}
	return f
}
