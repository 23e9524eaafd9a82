package providertest

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// What a scheduler reports.
var monitorRules = []rule{
	{name: "QueueSize counts runs that are due, delayed or to be retried, and no others", check: queueSizeCountsWhatWaits},
	{name: "a schedule that is due while stopped counts as one waiting run and as overdue", check: dueScheduleCountsAsOneWhileStopped},
	{name: "Jobs lists every registered job by name before Start, while started and after Shutdown", check: jobsListsByName},
	{name: "Jobs returns the next three ticks of a schedule", check: jobsReturnsUpcomingTicks},
	{name: "Jobs returns the previous tick with its state, and the next tick", check: jobsReturnsThePreviousTick},
	{name: "Jobs returns the tick of the latest successful run, despite later failures and a restart", check: jobsReturnsTheLastSuccess},
	{name: "Jobs counts waiting, retrying and running runs", check: jobsCountsByState},
	{name: "Health is good while started, and otherwise says why not", check: healthSaysWhyNot},
	{name: "Health counts runs by state, and reports how long the oldest has been due", check: healthCountsByState},
	{name: "Health reports an unreachable database", check: healthReportsAnUnreachableDatabase, needs: func(h Harness) string {
		if h.BreakDB == nil {
			return "the provider has no database: Harness.BreakDB is nil"
		}
		return ""
	}},
}

func queueSizeCountsWhatWaits(e *env) {
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		var data struct{ Do string }
		if err := job.Decode(&data); err != nil {
			return err
		}
		switch data.Do {
		case "retry":
			return jobs.RetryAfter(time.Hour, errAgain)
		case "fail":
			return jobs.Permanent(errAgain)
		case "wait":
			return release.wait(ctx, job)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterInterval("test.hourly", time.Hour, p.handle))
	e.noError(e.s.RegisterDelayed("test.none", 0, p.handle))
	do := func(what string) map[string]string { return map[string]string{"do": what} }
	e.trigger("test.job", do("wait"))
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize with one job due")
	e.trigger("test.job", do("wait"), jobs.Delay(time.Hour))
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize with one due and one delayed")
	e.start()
	p.next()
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize with one running and one delayed")
	e.trigger("test.job", do("retry"))
	p.next()
	e.eventually("QueueSize to count the job to be retried", func() (any, bool) {
		n := e.queueSize("test.job")
		return n, n == 2
	})
	e.trigger("test.job", do("succeed"))
	e.trigger("test.job", do("fail"))
	e.total(jobs.StateCompleted, 1)
	e.total(jobs.StateFailed, 1)
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize with one delayed, one to be retried, and others running and done")
	require.Zero(e, e.queueSize("test.hourly"), "QueueSize of a schedule whose next tick is not due")
	e.trigger("test.hourly", do("succeed"), jobs.Delay(time.Hour))
	require.Equal(e, 1, e.queueSize("test.hourly"), "QueueSize of a schedule with a triggered run beside the next tick")
	require.Zero(e, e.queueSize("test.none"), "QueueSize of a job that was never triggered")
	close(release.open)
	e.total(jobs.StateCompleted, 2)
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize after the running job has ended")
}

func dueScheduleCountsAsOneWhileStopped(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.start()
	p.next()
	e.stop()
	e.eventually("the next tick to be due", func() (any, bool) {
		n := e.queueSize("test.tick")
		return n, n == 1
	})
	e.until(time.Now().Add(2 * time.Second)) // two more ticks pass
	st, h := e.status("test.tick"), e.health()
	require.Equal(e, 1, e.queueSize("test.tick"), "QueueSize")
	require.Equal(e, 1, st.Waiting, "Waiting")
	require.Equal(e, 1, h.Totals[jobs.StateWaiting].N, "waiting jobs in Totals")
	require.GreaterOrEqual(e, h.OldestWaiting, 2*time.Second-slack, "OldestWaiting")
	require.True(e, st.NextTick.Before(time.Now()), "NextTick is %v, want the one that is late", st.NextTick)
	require.GreaterOrEqual(e, st.OverdueBy, 2*time.Second-slack, "OverdueBy")
	require.NotEmpty(e, st.OverdueReason, "OverdueReason")
	e.start()
	p.next()
	e.eventually("the schedule to be on time again", func() (any, bool) {
		st := e.status("test.tick")
		return st, st.OverdueBy == 0 && st.OverdueReason == ""
	})
}

func jobsListsByName(e *env) {
	all, err := e.s.Jobs(e.ctx)
	e.noError(err)
	require.Empty(e, all, "Jobs of a scheduler without any")
	berlin, err := time.LoadLocation("Europe/Berlin")
	e.noError(err)
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.on-demand", 0, p.handle))
	e.noError(e.s.RegisterCron("test.cron.zoned", "30 2 * * 0", p.handle, jobs.TimeZone(berlin)))
	e.noError(e.s.RegisterInterval("test.interval", 90*time.Minute, p.handle))
	e.noError(e.s.RegisterCron("test.cron", "@daily", p.handle))
	e.noError(e.s.RegisterDelayed("test.delayed", 2*time.Second, p.handle))
	check := func(when string) {
		e.Helper()
		before := time.Now()
		all, err := e.s.Jobs(e.ctx)
		e.noError(err)
		after := time.Now()
		want := []struct {
			name, schedule, zone string
			next                 func(time.Time) time.Time
		}{
			{"test.cron", "@daily", "UTC", e.cron("@daily", time.UTC).Next},
			{"test.cron.zoned", "30 2 * * 0", "Europe/Berlin", e.cron("30 2 * * 0", berlin).Next},
			{"test.delayed", "after 2s", "", nil},
			{"test.interval", "every 1h30m0s", "", e.every(90 * time.Minute).Next},
			{"test.on-demand", "on demand", "", nil},
		}
		require.Len(e, all, len(want), "Jobs %s", when)
		for i, st := range all {
			require.Equal(e, want[i].name, st.Name, "Name of status %d %s", i, when)
			require.Equal(e, want[i].schedule, st.Schedule, "Schedule of %s %s", st.Name, when)
			require.Equal(e, want[i].zone, st.Zone, "Zone of %s %s", st.Name, when)
			require.Zero(e, st.PrevTick, "PrevTick of %s %s", st.Name, when)
			require.Empty(e, st.PrevState, "PrevState of %s %s", st.Name, when)
			require.Zero(e, st.LastSuccess, "LastSuccess of %s %s", st.Name, when)
			require.Zero(e, st.OverdueBy, "OverdueBy of %s %s", st.Name, when)
			require.Empty(e, st.OverdueReason, "OverdueReason of %s %s", st.Name, when)
			require.Zero(e, st.PausedSince, "PausedSince of %s %s", st.Name, when)
			if want[i].next == nil {
				require.Zero(e, st.NextTick, "NextTick of %s %s", st.Name, when)
			} else {
				// In rare cases the tick passes between the two readings of the clock.
				require.Contains(e, []time.Time{want[i].next(before), want[i].next(after)}, st.NextTick, "NextTick of %s %s", st.Name, when)
			}
		}
	}
	check("before Start")
	e.start()
	check("while started")
	e.stop()
	check("after Shutdown")
}

func jobsReturnsUpcomingTicks(e *env) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	e.noError(err)
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.on-demand", 0, p.handle))
	e.noError(e.s.RegisterCron("test.cron", "30 2 1 * *", p.handle, jobs.TimeZone(berlin)))
	e.noError(e.s.RegisterInterval("test.interval", 90*time.Minute, p.handle))
	check := func(when string) {
		e.Helper()
		require.Empty(e, e.status("test.on-demand").Upcoming, "Upcoming of a job without a schedule %s", when)
		for name, schedule := range map[string]jobs.Schedule{
			"test.cron": e.cron("30 2 1 * *", berlin), "test.interval": e.every(90 * time.Minute),
		} {
			st := e.status(name)
			second := schedule.Next(st.NextTick)
			require.Equal(e, []time.Time{st.NextTick, second, schedule.Next(second)}, st.Upcoming, "Upcoming of %s %s", name, when)
		}
	}
	check("before Start")
	e.start()
	check("while started")
	e.stop()
	check("after Shutdown")
}

func jobsReturnsThePreviousTick(e *env) {
	results := make(chan error, 1)
	p := e.probe(func(context.Context, *jobs.Job) error {
		select {
		case err := <-results:
			return err
		case <-e.ctx.Done():
			return nil
		}
	})
	e.noError(e.s.RegisterInterval("test.tick", 3*time.Second, p.handle))
	e.start()
	for _, want := range []struct {
		result error
		state  jobs.State
	}{
		{nil, jobs.StateCompleted},
		{jobs.Permanent(errAgain), jobs.StateFailed},
		{jobs.RetryAfter(time.Hour, errAgain), jobs.StateRetrying},
	} {
		tick := p.next().Tick
		st := e.status("test.tick")
		require.Equal(e, tick, st.PrevTick, "PrevTick while it runs")
		require.Equal(e, jobs.StateRunning, st.PrevState, "PrevState while it runs")
		require.Equal(e, tick.Add(3*time.Second), st.NextTick, "NextTick")
		results <- want.result
		e.eventually("PrevState to be "+string(want.state), func() (any, bool) {
			st := e.status("test.tick")
			return st, st.PrevState == want.state && st.PrevTick.Equal(tick)
		})
	}
}

func jobsReturnsTheLastSuccess(e *env) {
	var succeeds atomic.Bool
	var latest atomic.Int64 // the tick of the latest successful run, in seconds
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		switch {
		case job.Tick.IsZero():
			return nil
		case !succeeds.Load():
			return jobs.Permanent(errAgain)
		case job.Attempt == 1:
			return errAgain
		}
		latest.Store(job.Tick.Unix())
		return nil
	})
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.RetryDelay(0), inOrder))
	e.trigger("test.tick", nil)
	e.start()
	e.total(jobs.StateCompleted, 1)
	failing := func(after time.Time, success time.Time) (tick time.Time) {
		e.Helper()
		e.eventually("a tick to fail", func() (any, bool) {
			st := e.status("test.tick")
			tick = st.PrevTick
			return st, st.PrevState == jobs.StateFailed && tick.After(after)
		})
		require.Equal(e, success, e.status("test.tick").LastSuccess, "LastSuccess after a tick has failed")
		return tick
	}
	succeeding := func(after time.Time) (tick time.Time) {
		e.Helper()
		succeeds.Store(true)
		e.eventually("LastSuccess to be a tick that has succeeded", func() (any, bool) {
			tick = e.status("test.tick").LastSuccess
			return tick, tick.After(after) && tick.Unix() == latest.Load()
		})
		succeeds.Store(false)
		// Another tick may have succeeded since.
		e.eventually("a tick to fail", func() (any, bool) {
			st := e.status("test.tick")
			tick = time.Unix(latest.Load(), 0).UTC()
			return st, st.PrevState == jobs.StateFailed && st.PrevTick.After(tick) && st.LastSuccess.Equal(tick)
		})
		return tick
	}
	first := failing(time.Time{}, time.Time{})
	success := succeeding(first)
	failed := failing(failing(success, success), success)
	e.stop()
	st := e.status("test.tick")
	require.Equal(e, success, st.LastSuccess, "LastSuccess while stopped")
	require.Equal(e, jobs.StateFailed, st.PrevState, "PrevState while stopped")
	require.False(e, st.PrevTick.Before(failed), "PrevTick is %v while stopped, was %v", st.PrevTick, failed)
	e.start()
	failing(st.PrevTick, success)
	succeeding(success)
}

func jobsCountsByState(e *env) {
	release := e.gate()
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if string(job.Data) != "{}" {
			return jobs.RetryAfter(time.Hour, errAgain)
		}
		return release.wait(ctx, job)
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.other", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	e.trigger("test.job", nil)
	e.trigger("test.job", map[string]bool{"retry": true})
	for range 3 {
		p.next()
	}
	e.trigger("test.job", nil, jobs.Delay(time.Hour))
	e.eventually("2 running, 2 waiting, 1 of them retrying", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Running == 2 && st.Waiting == 2 && st.Retrying == 1
	})
	st := e.status("test.other")
	require.Equal(e, [3]int{}, [3]int{st.Waiting, st.Running, st.Retrying}, "Waiting, Running and Retrying of another job")
	close(release.open)
	e.eventually("no runs in progress", func() (any, bool) {
		st := e.status("test.job")
		return st, st.Running == 0 && st.Waiting == 2 && st.Retrying == 1
	})
}

func healthSaysWhyNot(e *env) {
	for range 2 {
		h := e.health()
		require.False(e, h.Healthy, "Healthy while stopped")
		require.False(e, h.Started, "Started while stopped")
		require.NotEmpty(e, h.Reasons, "Reasons while stopped")
		require.False(e, slices.ContainsFunc(h.Reasons, func(r jobs.Reason) bool { return r.Text == "" }), "Reasons without a text")
		e.start()
		h = e.health()
		require.True(e, h.Healthy, "Healthy while started; Reasons: %q", h.Reasons)
		require.True(e, h.Started, "Started while started")
		require.Empty(e, h.Reasons, "Reasons while started")
		e.stop()
	}
}

func healthCountsByState(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if string(job.Data) != "{}" {
			return jobs.Permanent(errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	h := e.health()
	require.Zero(e, h.OldestWaiting, "OldestWaiting when nothing waits")
	require.Empty(e, nonZero(h.Totals), "Totals when there are no jobs")
	e.trigger("test.job", nil)
	e.trigger("test.job", nil)
	e.trigger("test.job", map[string]bool{"fail": true})
	e.trigger("test.job", nil, jobs.Delay(time.Hour))
	e.until(time.Now().Add(300 * time.Millisecond))
	h = e.health()
	require.GreaterOrEqual(e, h.OldestWaiting, 300*time.Millisecond-slack, "OldestWaiting")
	require.Less(e, h.OldestWaiting, time.Hour, "OldestWaiting")
	require.Equal(e, map[jobs.State]int{jobs.StateWaiting: 3, jobs.StateScheduled: 1}, nonZero(h.Totals), "Totals before Start")
	e.start()
	want := map[jobs.State]int{jobs.StateCompleted: 2, jobs.StateFailed: 1, jobs.StateScheduled: 1}
	e.eventually("2 jobs completed, 1 failed, 1 scheduled, and none due", func() (any, bool) {
		h := e.health()
		return h, maps.Equal(want, nonZero(h.Totals)) && h.OldestWaiting == 0
	})
}

func healthReportsAnUnreachableDatabase(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	e.start()
	require.True(e, e.health().Healthy, "Healthy before the database is unreachable")
	e.h.BreakDB(e, e.s)
	e.eventually("Health to report the database", func() (any, bool) {
		h, err := e.s.Health(e.ctx)
		require.NoError(e, err, "Health: problems belong in the result")
		return h, !h.Healthy && len(h.Reasons) > 0 && h.Reasons[0].Text != "" && h.Started
	})
	_, err := e.s.Trigger(e.ctx, "test.job", nil)
	require.Error(e, err, "Trigger without a database")
	_, err = e.s.QueueSize(e.ctx, "test.job")
	require.Error(e, err, "QueueSize without a database")
	_, err = e.s.Trigger(e.ctx, "test.unknown", nil)
	require.ErrorIs(e, err, jobs.ErrUnknownJob, "Trigger of an unknown job without a database")
}

func nonZero(totals map[jobs.State]jobs.Count) map[jobs.State]int {
	counts := map[jobs.State]int{}
	for state, count := range totals {
		if count.N != 0 {
			counts[state] = count.N
		}
	}
	return counts
}

func (e *env) cron(pattern string, zone *time.Location) jobs.Schedule {
	e.Helper()
	schedule, err := jobs.ParseCron(pattern, zone)
	e.noError(err)
	return schedule
}

func (e *env) every(interval time.Duration) jobs.Schedule {
	e.Helper()
	schedule, err := jobs.Every(interval)
	e.noError(err)
	return schedule
}
