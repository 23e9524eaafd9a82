package providertest

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Which runs a schedule has.
var tickRules = []rule{
	{name: "a cron pattern runs at its instants, each with its tick", check: cronRunsAtItsInstants},
	{name: "an interval runs at each multiple of it, with its tick", check: intervalRunsAtItsMultiples},
	{name: "a restart neither loses a tick nor doubles one", check: restartKeepsEachTick},
	{name: "Late tells how long after its tick a run started", check: lateTellsTheDelay},
	{name: "a triggered run of a scheduled job is beside its ticks", check: triggeredRunsAreBesideTicks},
	{name: "a tick has the priority of its job", check: tickHasThePriority},
	{name: "a tick that fails is retried as the same job, and the next one comes in time", check: failedTickIsRetried},
	{name: "after missed ticks one run stands for all of them: its tick is the latest, and Missed counts the others", check: oneRunStandsForMissedTicks},
	{name: "ticks that pass while all workers are busy become one run, that of the latest", check: busyTicksBecomeOneRun},
	{name: "with CatchUpAll each missed tick runs, in order and one at a time", check: catchUpAllRunsEachTick},
	{name: "with CatchUpAll a tick that waits for the one before it is overdue, and no run", check: catchUpAllHoldsTheNextTick},
	{name: "ticks run beside an earlier run of their job", check: overlapAllowRunsBeside},
	{name: "with OverlapSkip a tick is skipped while another run goes on", check: overlapSkipSkips},
	{name: "with OverlapSkip a retry is not skipped", check: overlapSkipRetries},
	{name: "with StartWithin a tick that could only start later is skipped", check: startWithinSkipsALateTick},
	{name: "with StartWithin a run that stands for several ticks is as late as the latest of them", check: startWithinCountsFromTheLatest},
	{name: "with StartWithin a job that could only start later is skipped", check: startWithinSkipsALateJob},
	{name: "StartWithin does not affect retries", check: startWithinSparesRetries},
}

func cronRunsAtItsInstants(e *env) {
	schedule := e.cron("* * * * *", time.UTC)
	p := e.probe(nil)
	e.noError(e.s.RegisterCron("test.cron", "* * * * *", p.handle))
	// A fixed hour of a zone, some minutes ago, is in the future by almost a day.
	e.noError(e.s.RegisterCron("test.tomorrow", time.Now().UTC().Add(-10*time.Minute).Format("4 15 * * *"), p.handle))
	e.start()
	r := p.nextWithin(time.Minute + patience)
	e.onTick(r, schedule)
	require.Equal(e, "test.cron", r.Name, "Name")
	require.Equal(e, "{}", string(r.Data), "Data")
	require.Equal(e, 1, r.Attempt, "Attempt")
	if !e.h.Bubble {
		return // one minute of real time is enough
	}
	for range 100 {
		last := r
		r = p.nextWithin(time.Minute + patience)
		e.onTick(r, schedule)
		require.Equal(e, schedule.Next(last.Tick), r.Tick, "Tick")
	}
}

func intervalRunsAtItsMultiples(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	e.start()
	e.chain(p, p.next(), 4)
}

func restartKeepsEachTick(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	e.start()
	last := p.next()
	for range 3 {
		e.stop()
		e.start()
		e.stop()
		e.start()
		last = e.chain(p, last, 1)
	}
}

func lateTellsTheDelay(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.CatchUp(jobs.CatchUpAll)))
	e.start()
	r := p.next()
	require.Equal(e, max(0, r.StartedAt.Sub(r.Tick)), r.Late(), "Late of a run in time")
	e.stop()
	e.drain(p)
	e.until(time.Now().Add(2500 * time.Millisecond))
	e.start()
	var latest time.Duration
	for range 3 {
		r = p.next()
		require.Equal(e, max(0, r.StartedAt.Sub(r.Tick)), r.Late(), "Late")
		latest = max(latest, r.Late())
	}
	require.GreaterOrEqual(e, latest, 1500*time.Millisecond-slack, "Late after a stop of 2.5 s")
}

func triggeredRunsAreBesideTicks(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.hourly", time.Hour, p.handle))
	ticks := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, ticks.handle))
	e.start()
	e.trigger("test.hourly", map[string]int{"n": 1})
	r := p.next()
	require.True(e, r.Tick.IsZero(), "Tick of a triggered run is %v, want zero", r.Tick)
	require.Zero(e, r.Late(), "Late")
	require.JSONEq(e, `{"n": 1}`, string(r.Data))
	st := e.status("test.hourly")
	require.True(e, st.NextTick.After(time.Now()), "NextTick is %v after a triggered run", st.NextTick)
	require.True(e, st.PrevTick.IsZero(), "PrevTick is %v after a triggered run", st.PrevTick)

	var last run
	var triggered, seen int
	for seen < 3 || triggered < 2 {
		if triggered < 2 {
			e.trigger("test.tick", nil)
		}
		r := ticks.next()
		if r.Tick.IsZero() {
			triggered++
			continue
		}
		if seen > 0 {
			e.follows(last, r)
		}
		last = r
		seen++
	}
}

func tickHasThePriority(e *env) {
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.Concurrency(1), jobs.Priority(3)))
	first := e.trigger("test.tick", nil, jobs.Priority(1))
	e.start()
	require.Equal(e, first, p.next().ID, "ID of the run that holds the slot")
	second := e.trigger("test.tick", nil, jobs.Priority(2))
	e.eventually("a tick to be due", func() (any, bool) {
		n := e.queueSize("test.tick")
		return n, n == 2
	})
	close(release.open)
	require.Equal(e, second, p.next().ID, "ID of the run with priority 2")
	require.False(e, p.next().Tick.IsZero(), "Tick of the run with priority 3")
}

func failedTickIsRetried(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			return errAgain
		}
		return nil
	})
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.RetryDelay(2500*time.Millisecond), jobs.MaxRetries(1)))
	e.start()
	first := map[time.Time]run{}
	for retries := 0; retries < 2; {
		r := p.next()
		if r.Attempt == 1 {
			require.NotContains(e, first, r.Tick, "a tick was enqueued twice")
			first[r.Tick] = r
			continue
		}
		require.Contains(e, first, r.Tick, "Tick of a retry")
		failed := first[r.Tick]
		require.Equal(e, failed.ID, r.ID, "ID of a retry")
		if failed.Late() < time.Second {
			require.Contains(e, first, r.Tick.Add(time.Second), "ticks that started before the retry of the one before")
		}
		retries++
	}
}

func oneRunStandsForMissedTicks(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	last, restarted := e.missTicks(p, 3500*time.Millisecond)
	var missed, late int
	for !last.Tick.Add(time.Second).After(restarted) { // a later tick had passed at the restart
		last = e.chain(p, last, 1)
		if st := e.status("test.tick"); st.PrevTick.Equal(last.Tick) { // no later one has started since
			require.Equal(e, last.Missed, st.Missed, "Missed in the status")
		}
		missed = max(missed, last.Missed)
		late++
	}
	// One tick may have waited for a worker already when the scheduler was stopped.
	require.LessOrEqual(e, late, 2, "runs for the ticks that had passed at the restart, at %v", restarted)
	require.GreaterOrEqual(e, missed, 1, "Missed of the run for the missed ticks")
	e.chain(p, last, 2)
}

func busyTicksBecomeOneRun(e *env) {
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	e.start()
	first := p.next()
	_, lists := e.s.(jobs.RunLister)
	for end := first.Tick.Add(4500 * time.Millisecond); time.Now().Before(end); e.until(time.Now().Add(5 * slack)) {
		if lists {
			waiting := slices.DeleteFunc(e.runs("test.tick"), func(r jobs.Run) bool { return r.State != jobs.StateWaiting })
			require.LessOrEqual(e, len(waiting), 1, "ticks that wait: %+v", waiting)
		}
	}
	e.eventually("one tick to wait, overdue since the first of those that passed", func() (any, bool) {
		st, size, oldest := e.status("test.tick"), e.queueSize("test.tick"), e.health().OldestWaiting
		return []any{st, size, oldest}, st.Waiting == 1 && size == 1 && st.Running == 1 && st.PrevTick.Equal(first.Tick) &&
			st.NextTick.After(first.Tick) && st.OverdueBy >= 2*time.Second && oldest >= 2*time.Second && st.OverdueReason != ""
	})
	p.none("its only worker is busy")
	close(release.open)
	next := e.chain(p, first, 1)
	require.GreaterOrEqual(e, next.Missed, 2, "Missed of the run that waited through several ticks")
	e.chain(p, next, 2)
}

func catchUpAllRunsEachTick(e *env) {
	var running, most atomic.Int32
	p := e.probe(func(ctx context.Context, _ *jobs.Job) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		return pause(ctx, 50*time.Millisecond)
	})
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.CatchUp(jobs.CatchUpAll)))
	last, _ := e.missTicks(p, 3500*time.Millisecond)
	var late int
	for range 6 {
		r := p.next()
		require.Equal(e, last.Tick.Add(time.Second), r.Tick, "Tick after %v", last.Tick)
		require.Zero(e, r.Missed, "Missed")
		if r.Late() >= time.Second {
			late++
		}
		last = r
	}
	require.GreaterOrEqual(e, late, 2, "late runs")
	require.EqualValues(e, 1, most.Load(), "runs at once")
}

func catchUpAllHoldsTheNextTick(e *env) {
	const every = 3 * time.Second
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterInterval("test.tick", every, p.handle, jobs.CatchUp(jobs.CatchUpAll)))
	e.start()
	first := p.next()
	waits := first.Tick.Add(every)
	e.until(waits)
	type answer struct {
		next, prev             time.Time
		running, waiting, size int
		totals                 [2]int
		overdue, oldest        bool
	}
	want := answer{waits, first.Tick, 1, 1, 1, [2]int{1, 1}, true, true}
	var wrong []answer // the first of each moment
	right := true
	for {
		st, size, h := e.status("test.tick"), e.queueSize("test.tick"), e.health()
		got := answer{
			st.NextTick, st.PrevTick, st.Running, st.Waiting, size,
			[2]int{h.Totals[jobs.StateRunning].N, h.Totals[jobs.StateWaiting].N},
			st.OverdueBy > 0, h.OldestWaiting > 0,
		}
		now := time.Now()
		if now.After(waits.Add(every - slack)) { // one more tick is due
			break
		}
		if right && got != want {
			wrong = append(wrong, got)
		}
		right = got == want
		e.until(now.Add(slack))
	}
	// The tick may come a moment later by the provider's clock.
	require.True(e, right && len(wrong) <= 1, "the answers are to be %+v, and are at times %+v", want, wrong)
	close(release.open)
	require.Equal(e, waits, p.next().Tick, "Tick of the run after it")
}

func overlapAllowRunsBeside(e *env) {
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle))
	e.start()
	e.chain(p, p.next(), 2)
	close(release.open)
}

func overlapSkipSkips(e *env) {
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.Overlap(jobs.OverlapSkip)))
	e.start()
	first := p.next()
	e.trigger("test.tick", nil)
	triggered := p.next()
	require.True(e, triggered.Tick.IsZero(), "a tick ran beside another run")
	var skipped time.Time
	e.eventually("a tick to be skipped", func() (any, bool) {
		st := e.status("test.tick")
		skipped = st.PrevTick
		return st, st.PrevState == jobs.StateSkipped
	})
	require.True(e, skipped.After(first.Tick), "PrevTick is %v, the tick that runs is %v", skipped, first.Tick)
	e.eventually("two to run", func() (any, bool) { // a tick is taken, too, before it is skipped
		st := e.status("test.tick")
		return st, st.Running == 2
	})
	p.none("two runs go on")
	require.GreaterOrEqual(e, e.health().Totals[jobs.StateSkipped].N, 1, "skipped jobs in Totals")
	close(release.open)
	r := p.next()
	require.True(e, r.Tick.After(skipped), "tick %v ran after %v was skipped", r.Tick, skipped)
}

func overlapSkipRetries(e *env) {
	release := e.gate()
	var failed atomic.Bool
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if failed.CompareAndSwap(false, true) {
			return errAgain
		}
		return release.wait(ctx, job)
	})
	e.noError(e.s.RegisterInterval("test.tick", 2*time.Second, p.handle,
		jobs.Overlap(jobs.OverlapSkip), jobs.RetryDelay(3*time.Second)))
	e.start()
	first, beside := p.next(), p.next()
	require.True(e, beside.Tick.After(first.Tick), "tick %v ran after %v", beside.Tick, first.Tick)
	retried := p.next()
	require.Equal(e, first.ID, retried.ID, "ID of the run that failed, and is retried beside another")
	require.Equal(e, 2, retried.Attempt, "Attempt")
	close(release.open)
}

func startWithinSkipsALateTick(e *env) {
	const limit = time.Second
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.StartWithin(limit), jobs.CatchUp(jobs.CatchUpAll)))
	last, _ := e.missTicks(p, 3500*time.Millisecond)
	e.eventually("the late tick to be skipped", func() (any, bool) {
		totals := e.health().Totals
		return totals, totals[jobs.StateSkipped].N > 0
	})
	r := p.next()
	require.LessOrEqual(e, r.Late(), limit, "Late of a run that was not skipped")
	require.True(e, r.Tick.After(last.Tick.Add(time.Second)), "tick %v ran, the last before the stop was %v", r.Tick, last.Tick)
}

func startWithinCountsFromTheLatest(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder, jobs.StartWithin(outlasted)))
	last, _ := e.missTicks(p, outlasted+1500*time.Millisecond)
	r := p.next()
	require.True(e, r.Tick.After(last.Tick), "tick %v ran after %v", r.Tick, last.Tick)
	// One tick may have waited for a worker already when the scheduler was stopped, and is too late.
	require.GreaterOrEqual(e, r.Missed, int(outlasted/time.Second)-1, "Missed of the first run after the missed ticks")
	e.chain(p, r, 1)
}

func startWithinSkipsALateJob(e *env) {
	const limit, later = 3 * time.Second, 3500 * time.Millisecond // a machine may be slow
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1), jobs.StartWithin(limit)))
	e.start()
	first := e.trigger("test.job", nil)
	require.Equal(e, first, p.next().ID)
	e.trigger("test.job", nil)
	inTime := e.trigger("test.job", nil, jobs.Delay(later)) // is not late, as it is not due until then
	e.until(time.Now().Add(later))
	close(release.open)
	e.total(jobs.StateSkipped, 1)
	require.Equal(e, inTime, p.next().ID, "ID of the job that ran")
	e.total(jobs.StateCompleted, 2)
	p.none("it was skipped")
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
}

func startWithinSparesRetries(e *env) {
	p := e.probe(fail(errors.New("again")))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(1500*time.Millisecond), jobs.StartWithin(time.Second)))
	e.start()
	e.trigger("test.job", nil)
	e.attempts(p, 2)
}

// outlasted is a limit for StartWithin that is exceeded by the first of missed ticks, and
// by the latest of them only if the machine is very slow.
const outlasted = 5 * time.Second

// inOrder lets ticks that are due together start one by one, in the order in which
// they came due, where a rule looks at their order.
var inOrder = jobs.Concurrency(1)

// onTick checks that a run stands for an instant of its schedule that has come.
func (e *env) onTick(r run, schedule jobs.Schedule) {
	e.Helper()
	require.False(e, r.Tick.IsZero(), "Tick of a scheduled run is zero")
	require.Equal(e, "UTC", r.Tick.Location().String(), "location of Tick")
	require.Equal(e, r.Tick, schedule.Next(r.Tick.Add(-1)), "Tick is not on the schedule %q", schedule)
	require.False(e, r.StartedAt.Before(r.Tick.Add(-slack)), "started at %v, before its tick %v", r.StartedAt, r.Tick)
}

// follows checks that next runs after last, of an interval of a second: each tick
// between the two is one that next stands for.
func (e *env) follows(last, next run) {
	e.Helper()
	e.onTick(next, e.every(time.Second))
	require.True(e, next.Tick.After(last.Tick), "tick %v ran after %v", next.Tick, last.Tick)
	require.Equal(e, int(next.Tick.Sub(last.Tick)/time.Second)-1, next.Missed,
		"Missed of tick %v, which ran after %v: each tick between them is lost or counted", next.Tick, last.Tick)
	require.NotEqual(e, last.ID, next.ID, "ID of two ticks")
}

// chain checks the n ticks after last, of an interval of a second.
func (e *env) chain(p *probe, last run, n int) run {
	e.Helper()
	for range n {
		r := p.next()
		e.follows(last, r)
		last = r
	}
	return last
}

// drain returns the last of the runs that were not received yet.
func (e *env) drain(p *probe) (last run) {
	for len(p.runs) > 0 {
		last = <-p.runs
	}
	return last
}

// missTicks starts, stops after a first tick of an interval of a second, and starts
// again when that long has passed since the tick. It returns the last run before the stop.
func (e *env) missTicks(p *probe, outage time.Duration) (last run, restarted time.Time) {
	e.Helper()
	e.start()
	last = p.next()
	e.stop()
	if len(p.runs) > 0 {
		last = e.drain(p)
	}
	e.until(last.Tick.Add(outage))
	restarted = time.Now()
	e.start()
	return last, restarted
}

// pause takes that long, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
