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

// The runs of a schedule.
var tickRules = []rule{
	{name: "a cron pattern runs at its ticks", check: cronRunsAtItsTicks},
	{name: "an interval runs at each of its multiples", check: intervalRunsAtItsMultiples},
	{name: "a restart neither loses a tick nor runs it twice", check: restartKeepsEachTick},
	{name: "Late returns how long after its tick a run started", check: lateReturnsTheDelay},
	{name: "triggering a scheduled job does not affect its ticks", check: triggeredRunsDoNotAffectTicks},
	{name: "a tick has the priority of its job", check: tickHasThePriority},
	{name: "a tick that fails is retried as the same run, and the next tick is on time", check: failedTickIsRetried},
	{name: "after missed ticks, one run covers all of them: its tick is the latest, and Missed counts the others", check: oneRunCoversMissedTicks},
	{name: "ticks that pass while all workers are busy become one run, for the latest", check: busyTicksBecomeOneRun},
	{name: "with CatchUpAll, each missed tick runs, in order and one at a time", check: catchUpAllRunsEachTick},
	{name: "with CatchUpAll, a tick that waits for the previous one is overdue, and not a run", check: catchUpAllHoldsTheNextTick},
	{name: "ticks run beside an earlier run of their job", check: overlapAllowRunsBeside},
	{name: "with OverlapSkip, a tick is skipped while another run is in progress", check: overlapSkipSkips},
	{name: "with OverlapSkip, a retry is not skipped", check: overlapSkipRetries},
	{name: "StartWithin skips a tick that could only start later", check: startWithinSkipsALateTick},
	{name: "StartWithin counts from the latest of the ticks that a run covers", check: startWithinCountsFromTheLatest},
	{name: "StartWithin skips a triggered run that could only start later", check: startWithinSkipsALateJob},
	{name: "StartWithin does not affect retries", check: startWithinIgnoresRetries},
}

func cronRunsAtItsTicks(e *env) {
	schedule := e.cron("* * * * *", time.UTC)
	p := e.probe(nil)
	e.noError(e.s.RegisterCron("test.cron", "* * * * *", p.handle))
	// The next tick of a fixed hour some minutes ago is almost a day away.
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

func lateReturnsTheDelay(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.CatchUp(jobs.CatchUpAll)))
	e.start()
	r := p.next()
	require.Equal(e, max(0, r.StartedAt.Sub(r.Tick)), r.Late(), "Late of a run on time")
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

func triggeredRunsDoNotAffectTicks(e *env) {
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
			require.NotContains(e, first, r.Tick, "a tick was inserted twice")
			first[r.Tick] = r
			continue
		}
		require.Contains(e, first, r.Tick, "Tick of a retry")
		failed := first[r.Tick]
		require.Equal(e, failed.ID, r.ID, "ID of a retry")
		if failed.Late() < time.Second {
			require.Contains(e, first, r.Tick.Add(time.Second), "ticks that started before the retry of the previous one")
		}
		retries++
	}
}

func oneRunCoversMissedTicks(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	last, restarted := e.missTicks(p, 3500*time.Millisecond)
	var missed, late int
	for !last.Tick.Add(time.Second).After(restarted) { // a later tick had passed before the restart
		last = e.chain(p, last, 1)
		if st := e.status("test.tick"); st.PrevTick.Equal(last.Tick) { // no later tick has started
			require.Equal(e, last.Missed, st.Missed, "Missed in the status")
		}
		missed = max(missed, last.Missed)
		late++
	}
	// A tick may have been waiting for a worker when the scheduler stopped.
	require.LessOrEqual(e, late, 2, "runs for the ticks that had passed before the restart at %v", restarted)
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
	p.none("the only worker is busy")
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
	var wrong []answer // the first of each series
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
	// By the provider's clock, the tick may be due a moment later.
	require.True(e, right && len(wrong) <= 1, "want %+v all the time, got %+v at times", want, wrong)
	close(release.open)
	require.Equal(e, waits, p.next().Tick, "Tick of the next run")
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
	require.True(e, skipped.After(first.Tick), "PrevTick is %v, while tick %v is running", skipped, first.Tick)
	e.eventually("two runs in progress", func() (any, bool) { // a skipped tick is fetched first, and counts as running
		st := e.status("test.tick")
		return st, st.Running == 2
	})
	p.none("two runs are in progress")
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
	require.True(e, r.Tick.After(last.Tick.Add(time.Second)), "tick %v ran, and the last before the stop was %v", r.Tick, last.Tick)
}

func startWithinCountsFromTheLatest(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder, jobs.StartWithin(outlasted)))
	last, _ := e.missTicks(p, outlasted+1500*time.Millisecond)
	r := p.next()
	require.True(e, r.Tick.After(last.Tick), "tick %v ran after %v", r.Tick, last.Tick)
	// A tick may have been waiting for a worker when the scheduler stopped, and is too late.
	require.GreaterOrEqual(e, r.Missed, int(outlasted/time.Second)-1, "Missed of the first run after the missed ticks")
	e.chain(p, r, 1)
}

func startWithinSkipsALateJob(e *env) {
	const limit, later = 3 * time.Second, 3500 * time.Millisecond // long enough for a slow machine
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1), jobs.StartWithin(limit)))
	e.start()
	first := e.trigger("test.job", nil)
	require.Equal(e, first, p.next().ID)
	e.trigger("test.job", nil)
	inTime := e.trigger("test.job", nil, jobs.Delay(later)) // due later, so not late
	e.until(time.Now().Add(later))
	close(release.open)
	e.total(jobs.StateSkipped, 1)
	require.Equal(e, inTime, p.next().ID, "ID of the job that ran")
	e.total(jobs.StateCompleted, 2)
	p.none("the run was skipped")
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
}

func startWithinIgnoresRetries(e *env) {
	p := e.probe(fail(errors.New("again")))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(1500*time.Millisecond), jobs.StartWithin(time.Second)))
	e.start()
	e.trigger("test.job", nil)
	e.attempts(p, 2)
}

// outlasted is a limit for StartWithin that the first missed tick exceeds, and the latest only on a very slow machine.
const outlasted = 5 * time.Second

// inOrder makes ticks start one at a time in the order in which they came due, for rules that check the order.
var inOrder = jobs.Concurrency(1)

// onTick requires that the tick of a run is on its schedule and has passed.
func (e *env) onTick(r run, schedule jobs.Schedule) {
	e.Helper()
	require.False(e, r.Tick.IsZero(), "Tick of a scheduled run is zero")
	require.Equal(e, "UTC", r.Tick.Location().String(), "location of Tick")
	require.Equal(e, r.Tick, schedule.Next(r.Tick.Add(-1)), "Tick is not on the schedule %q", schedule)
	require.False(e, r.StartedAt.Before(r.Tick.Add(-slack)), "started at %v, before its tick %v", r.StartedAt, r.Tick)
}

// follows requires that next follows last on an interval of a second, and covers every tick between them.
func (e *env) follows(last, next run) {
	e.Helper()
	e.onTick(next, e.every(time.Second))
	require.True(e, next.Tick.After(last.Tick), "tick %v ran after %v", next.Tick, last.Tick)
	require.Equal(e, int(next.Tick.Sub(last.Tick)/time.Second)-1, next.Missed,
		"Missed of tick %v, which ran after %v, must count every tick between them", next.Tick, last.Tick)
	require.NotEqual(e, last.ID, next.ID, "ID of two ticks")
}

// chain requires n runs that follow last on an interval of a second, and returns the latest.
func (e *env) chain(p *probe, last run, n int) run {
	e.Helper()
	for range n {
		r := p.next()
		e.follows(last, r)
		last = r
	}
	return last
}

// drain receives all recorded runs and returns the last.
func (e *env) drain(p *probe) (last run) {
	for len(p.runs) > 0 {
		last = <-p.runs
	}
	return last
}

// missTicks starts the scheduler, stops it after the first tick, and starts it again outage after that tick. It returns
// the last run before the stop.
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

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
