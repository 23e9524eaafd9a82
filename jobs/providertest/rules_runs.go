package providertest

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/equal"
)

// Lists and counts of runs.
var runRules = []rule{
	{name: "Runs lists the latest runs of a job, newest first", check: runsListsTheNewestFirst},
	{name: "Runs returns the stack of a panic", check: runsReturnsAPanicsStack},
	{name: "Runs returns each run's state and latest error", check: runsReturnsStateAndError},
	{name: "Runs lists a tick once it is inserted", check: runsListsInsertedTicks},
	{name: "Runs refuses a limit out of range and an unknown job", check: runsRefusesBadInput},
	{name: "Activity counts the runs that have ended, by job", check: activityCountsTheEnded},
	{name: "Activity refuses steps that are too short or too many", check: activityRefusesBadSteps},
}

func runsListsTheNewestFirst(e *env) {
	lister := role[jobs.RunLister](e)
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(4)))
	e.noError(e.s.RegisterDelayed("test.other", 0, p.handle))
	require.Empty(e, e.runs("test.job"), "Runs of a job that never ran")
	before := time.Now()
	e.start()
	data := []json.RawMessage{
		json.RawMessage(`{"n": 1, "nested": {"größe": [1.5, null, "日本語"]}}`), json.RawMessage(`{}`), json.RawMessage(`{"large": 9223372036854775807}`),
	}
	var ids []string
	var attempts []run
	for i, d := range data {
		ids = append(ids, e.trigger("test.job", d))
		attempts = append(attempts, p.next())
		e.total(jobs.StateCompleted, 2*i+1)
		e.trigger("test.other", nil)
		p.next()
		e.total(jobs.StateCompleted, 2*i+2)
	}
	runs := e.runs("test.job")
	require.Len(e, runs, 3, "Runs")
	slices.Reverse(runs)
	for i, r := range runs {
		require.Equal(e, ids[i], r.ID, "ID of job %d", i)
		require.Equal(e, "test.job", r.Name, "Name")
		require.Equal(e, jobs.StateCompleted, r.State, "State")
		require.Zero(e, r.Tick, "Tick of a job that was triggered")
		require.Equal(e, [2]int{1, 5}, [2]int{r.Attempt, r.MaxAttempts}, "Attempt and MaxAttempts")
		require.True(e, equal.JSON(data[i], r.Data), "Data is %s, want %s", r.Data, data[i])
		require.Empty(e, r.Error, "Error")
		require.WithinDuration(e, before, r.CreatedAt, tolerance, "CreatedAt")
		require.WithinDuration(e, r.CreatedAt, r.DueAt, time.Second, "DueAt")
		require.WithinDuration(e, attempts[i].StartedAt, r.StartedAt, time.Second, "StartedAt")
		require.False(e, r.EndedAt.Before(r.StartedAt.Add(-slack)), "EndedAt is %v, before StartedAt, %v", r.EndedAt, r.StartedAt)
		for _, at := range []time.Time{r.CreatedAt, r.DueAt, r.StartedAt, r.EndedAt} {
			require.Equal(e, "UTC", at.Location().String(), "location of a time")
		}
	}
	runs, err := lister.Runs(e.ctx, "test.job", 2)
	e.noError(err)
	require.Len(e, runs, 2, "Runs with limit 2")
	require.Equal(e, []string{ids[2], ids[1]}, []string{runs[0].ID, runs[1].ID}, "IDs of the latest two")
}

func runsReturnsAPanicsStack(e *env) {
	role[jobs.RunLister](e)
	e.noError(e.s.RegisterDelayed("test.job", 0, panicking, jobs.MaxRetries(0)))
	e.start()
	id := e.trigger("test.job", nil)
	e.total(jobs.StateFailed, 1)
	r := e.runOf("test.job", id)
	require.Contains(e, r.Error, "panic: a panic of the conformance suite", "Error")
	require.Contains(e, r.Error, "panicking", "Error with the function that panicked")
}

func runsReturnsStateAndError(e *env) {
	_ = role[jobs.RunLister](e)
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		switch do := e.do(job); {
		case do == "wait":
			return release.wait(ctx, job)
		case do == "postpone":
			return jobs.RetryAfter(time.Hour, errAgain)
		case do == "fail always", do == "fail once" && job.Attempt == 1:
			return errAgain
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1))) // every start is too late
	late := e.trigger("test.late", nil)
	e.until(time.Now().Add(slack)) // too late for test.late
	e.start()
	e.total(jobs.StateSkipped, 1)
	skipped := e.runOf("test.late", late)
	require.Equal(e, jobs.StateSkipped, skipped.State, "State of a job that was skipped")
	require.NotEmpty(e, skipped.Error, "Error of a job that was skipped: the reason")
	require.False(e, skipped.EndedAt.IsZero(), "EndedAt of a job that was skipped")
	require.Zero(e, skipped.Attempt, "Attempt of a job that was skipped")
	require.Zero(e, skipped.StartedAt, "StartedAt of a job that was skipped")

	for _, c := range []struct {
		do      string
		opts    []jobs.TriggerOption
		state   jobs.State
		attempt int
		err     bool
	}{
		{"delay", []jobs.TriggerOption{jobs.Delay(time.Hour)}, jobs.StateScheduled, 0, false},
		{"wait", nil, jobs.StateRunning, 1, false},
		{"postpone", nil, jobs.StateRetrying, 1, true},
		{"fail once", nil, jobs.StateCompleted, 2, true},
		{"fail always", nil, jobs.StateFailed, 3, true},
		{"succeed", nil, jobs.StateCompleted, 1, false},
	} {
		id := e.trigger("test.job", map[string]string{"do": c.do}, c.opts...)
		e.eventually("the job to "+c.do, func() (any, bool) {
			r := e.runOf("test.job", id)
			return r, r.State == c.state && r.Attempt == c.attempt
		})
		r := e.runOf("test.job", id)
		require.Equal(e, 3, r.MaxAttempts, "MaxAttempts of the job to %s", c.do)
		require.Equal(e, c.attempt == 0, r.StartedAt.IsZero(), "StartedAt of the job to %s is %v", c.do, r.StartedAt)
		ended := c.state == jobs.StateCompleted || c.state == jobs.StateFailed
		require.Equal(e, ended, !r.EndedAt.IsZero(), "EndedAt of the job to %s is %v", c.do, r.EndedAt)
		if c.err {
			require.Contains(e, r.Error, errAgain.Error(), "Error of the job to %s", c.do)
		} else {
			require.Empty(e, r.Error, "Error of the job to %s", c.do)
		}
		if c.state == jobs.StateScheduled || c.state == jobs.StateRetrying {
			require.WithinDuration(e, time.Now().Add(time.Hour), r.DueAt, tolerance, "DueAt of the job to %s", c.do)
		}
	}
	close(release.open)
	e.stop()
	id := e.trigger("test.job", map[string]string{"do": "succeed"})
	require.Equal(e, jobs.StateWaiting, e.runOf("test.job", id).State, "State of a job that is due")
}

func runsListsInsertedTicks(e *env) {
	_ = role[jobs.RunLister](e)
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.noError(e.s.RegisterInterval("test.hourly", time.Hour, p.handle))
	e.noError(e.s.RegisterInterval("test.busy", time.Second, e.gate().wait, inOrder))
	e.start()
	r := p.next()
	for r.Name != "test.tick" { // test.hourly runs if an hour starts now
		r = p.next()
	}
	e.eventually("the tick to be completed", func() (any, bool) {
		seen := e.runOf("test.tick", r.ID)
		return seen, seen.State == jobs.StateCompleted && seen.Tick.Equal(r.Tick)
	})
	seen := e.runOf("test.tick", r.ID)
	require.Equal(e, "UTC", seen.Tick.Location().String(), "location of Tick")
	require.WithinDuration(e, r.Tick, seen.DueAt, slack, "DueAt")
	require.JSONEq(e, "{}", string(seen.Data), "Data")
	e.eventually("the tick that waits for the worker to be listed as the next one", func() (any, bool) {
		waiting, next := e.waitingTick("test.busy"), e.status("test.busy").NextTick
		return []any{waiting, next}, waiting.Tick.Equal(next)
	})
	waiting := e.waitingTick("test.busy")
	require.Zero(e, waiting.Attempt, "Attempt")
	require.Zero(e, waiting.StartedAt, "StartedAt")
	for _, r := range e.runs("test.hourly") {
		require.False(e, r.Tick.After(time.Now().Add(slack)), "listed tick %v is not due", r.Tick)
	}
}

func runsRefusesBadInput(e *env) {
	lister := role[jobs.RunLister](e)
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	for _, limit := range []int{-1, 0, 1001, 1 << 40} {
		_, err := lister.Runs(e.ctx, "test.job", limit)
		require.ErrorIs(e, err, jobs.ErrInvalidOption, "Runs with limit %d", limit)
	}
	for _, limit := range []int{1, 1000} {
		_, err := lister.Runs(e.ctx, "test.job", limit)
		require.NoError(e, err, "Runs with limit %d", limit)
	}
	_, err := lister.Runs(e.ctx, "test.unknown", 1)
	require.ErrorIs(e, err, jobs.ErrUnknownJob, "Runs of an unknown job")
	_, err = lister.Runs(e.ended(), "test.job", 1)
	require.ErrorIs(e, err, context.Canceled, "Runs with a context that has ended")
}

func activityCountsTheEnded(e *env) {
	reporter := role[jobs.ActivityReporter](e)
	result := func(_ context.Context, job *jobs.Job) error {
		if e.do(job) == "fail" {
			return jobs.Permanent(errAgain)
		}
		return nil
	}
	p := e.probe(result)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.other", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1))) // every start is too late
	e.noError(e.s.RegisterDelayed("test.never", 0, p.handle))
	const step, n = time.Hour, 3
	before, err := reporter.Activity(e.ctx, step, n)
	e.noError(err)
	require.Empty(e, before.Jobs, "Jobs before any ended")
	for range 2 {
		e.trigger("test.job", nil)
		e.trigger("test.late", nil)
	}
	e.trigger("test.job", map[string]string{"do": "fail"})
	e.trigger("test.other", nil)
	e.trigger("test.never", nil, jobs.Delay(time.Hour))
	e.until(time.Now().Add(slack)) // too late for test.late
	e.start()
	e.total(jobs.StateCompleted, 3)
	e.total(jobs.StateFailed, 1)
	e.total(jobs.StateSkipped, 2)
	a, err := reporter.Activity(e.ctx, step, n)
	e.noError(err)
	require.Equal(e, step, a.Step, "Step")
	require.Equal(e, "UTC", a.Start.Location().String(), "location of Start")
	require.Equal(e, a.Start.Truncate(step), a.Start, "Start is not a multiple of the step")
	require.WithinDuration(e, time.Now().Truncate(step).Add(-(n-1)*step), a.Start, step, "Start")
	require.Equal(e, a.Start, a.CompleteSince, "CompleteSince")
	last := map[string]jobs.Outcomes{}
	for name, steps := range a.Jobs {
		require.Len(e, steps, n, "steps of %s", name)
		last[name] = steps[n-1]
		if !a.Start.Equal(before.Start) { // a new hour has started
			last[name] = jobs.Outcomes{
				Completed: steps[n-2].Completed + steps[n-1].Completed, Failed: steps[n-2].Failed + steps[n-1].Failed,
				Other: steps[n-2].Other + steps[n-1].Other,
			}
		}
	}
	require.Equal(e, map[string]jobs.Outcomes{
		"test.job": {Completed: 2, Failed: 1}, "test.other": {Completed: 1}, "test.late": {Other: 2},
	}, last, "jobs in the last step")
	for _, c := range []struct {
		step time.Duration
		n    int
	}{{time.Second, 1440}, {1500 * time.Millisecond, 1}, {24 * time.Hour, 2}} {
		a, err := reporter.Activity(e.ctx, c.step, c.n)
		require.NoError(e, err, "Activity of %d steps of %s", c.n, c.step)
		for name, steps := range a.Jobs {
			require.Len(e, steps, c.n, "steps of %s", name)
		}
	}
}

func activityRefusesBadSteps(e *env) {
	reporter := role[jobs.ActivityReporter](e)
	for _, c := range []struct {
		step time.Duration
		n    int
	}{{time.Second - 1, 1}, {0, 1}, {-time.Hour, 1}, {time.Hour, 0}, {time.Hour, -1}, {time.Hour, 1441}, {1 << 62, 1440}} {
		_, err := reporter.Activity(e.ctx, c.step, c.n)
		require.ErrorIs(e, err, jobs.ErrInvalidOption, "Activity of %d steps of %s", c.n, c.step)
	}
	_, err := reporter.Activity(e.ended(), time.Hour, 1)
	require.ErrorIs(e, err, context.Canceled, "Activity with a context that has ended")
}

// role returns the scheduler in an optional role, or skips the rule. Providers assert their roles at compile time, so
// none is lost unnoticed.
func role[R any](e *env) R {
	e.Helper()
	r, ok := e.s.(R)
	if !ok {
		e.Skipf("the provider does not implement %s", reflect.TypeFor[R]())
	}
	return r
}

// runs returns the runs of a job. The limit is more than any rule has.
func (e *env) runs(name string) []jobs.Run {
	e.Helper()
	runs, err := e.s.(jobs.RunLister).Runs(e.ctx, name, 1000)
	require.NoError(e, err, "Runs")
	return runs
}

// waitingTick waits until a tick of the named job waits for its first attempt, and returns its run.
func (e *env) waitingTick(name string) (r jobs.Run) {
	e.Helper()
	e.eventually("a tick to wait", func() (any, bool) {
		runs := e.runs(name)
		i := slices.IndexFunc(runs, func(r jobs.Run) bool { return r.State == jobs.StateWaiting && !r.Tick.IsZero() })
		if i >= 0 {
			r = runs[i]
		}
		return runs, i >= 0
	})
	return r
}

// runOf returns the run with that ID.
func (e *env) runOf(name, id string) jobs.Run {
	e.Helper()
	runs := e.runs(name)
	i := slices.IndexFunc(runs, func(r jobs.Run) bool { return r.ID == id })
	require.GreaterOrEqual(e, i, 0, "Runs does not list job %s among %+v", id, runs)
	return runs[i]
}

// do returns the field "do" of a job's data.
func (e *env) do(job *jobs.Job) string {
	var data struct{ Do string }
	if err := job.Decode(&data); err != nil {
		e.Errorf("%s", err)
	}
	return data.Do
}

// ended returns a context that has ended.
func (e *env) ended() context.Context {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	return ctx
}

func panicking(context.Context, *jobs.Job) error { panic("a panic of the conformance suite") }
