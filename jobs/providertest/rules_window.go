package providertest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// The windows of a schedule, from PrevSuccess to Tick.
var windowRules = []rule{
	{name: "the windows from PrevSuccess to Tick of the runs that succeed have no gap, despite failures, outages and pauses", check: windowsHaveNoGap},
	{name: "the window of a run does not begin after that of a run still in progress", check: windowsWaitForSuccess},
	{name: "a Transactional run whose window another has covered meanwhile runs again with the rest", check: transactionalWindowsAreDisjoint, needs: needsDB},
}

func windowsHaveNoGap(e *env) {
	var n int
	ended := make(chan error, 10_000) // the results of the attempts, in order
	p := e.probe(func(_ context.Context, job *jobs.Job) (err error) {
		defer func() { ended <- err }()
		if job.Tick.IsZero() || job.Attempt > 1 {
			return nil
		}
		switch n++; n % 4 {
		case 2:
			return jobs.Permanent(errAgain)
		case 3:
			return jobs.RetryAfter(2500*time.Millisecond, errAgain) // a later tick succeeds first
		}
		return nil
	})
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, inOrder))
	var covered time.Time // all time before it
	var empty int
	// follow follows the runs until so many of them have succeeded with a window.
	follow := func(windows int) {
		e.Helper()
		for windows > 0 {
			r := p.next()
			if r.Tick.IsZero() {
				require.Zero(e, r.PrevSuccess, "PrevSuccess of a triggered run")
				require.NoError(e, receive(e, ended, "the end of the attempt"))
				continue
			}
			want := covered
			if !covered.Before(r.Tick) {
				want = r.Tick
				empty++
			}
			require.Equal(e, want, r.PrevSuccess, "PrevSuccess of attempt %d for tick %v, when all time before %v was covered",
				r.Attempt, r.Tick, covered)
			if receive(e, ended, "the end of the attempt") == nil && r.Tick.After(covered) {
				covered = r.Tick
				windows--
			}
		}
	}
	e.trigger("test.tick", nil)
	e.start()
	follow(4)
	require.Positive(e, empty, "retries of a tick after a later one had succeeded")
	e.stop()
	e.until(time.Now().Add(1500 * time.Millisecond))
	e.start()
	follow(2)
	pauser, ok := e.s.(jobs.Pauser)
	if !ok {
		return
	}
	e.noError(pauser.Pause(e.ctx, "test.tick"))
	e.until(time.Now().Add(3500 * time.Millisecond))
	e.noError(pauser.Resume(e.ctx, "test.tick"))
	follow(2)
}

func windowsWaitForSuccess(e *env) {
	release := e.gate()
	var calls atomic.Int64
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if calls.Add(1) == 2 {
			return release.wait(ctx, job)
		}
		return nil
	})
	e.noError(e.s.RegisterInterval("test.tick", 2*time.Second, p.handle))
	e.start()
	first := p.next()
	require.Zero(e, first.PrevSuccess, "PrevSuccess before any run has succeeded")
	slow := p.next()
	require.Equal(e, first.Tick, slow.PrevSuccess, "PrevSuccess of the second run")
	beside := p.next()
	require.Equal(e, first.Tick, beside.PrevSuccess, "PrevSuccess of a run beside one for tick %v", slow.Tick)
	close(release.open)
	last := beside
	for range 2 {
		r := p.next()
		require.Equal(e, last.Tick, r.PrevSuccess, "PrevSuccess after tick %v, whose run has succeeded", last.Tick)
		last = r
	}
}

func transactionalWindowsAreDisjoint(e *env) {
	release := e.gate()
	var calls atomic.Int64
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		if calls.Add(1) == 2 {
			return release.wait(ctx, job)
		}
		return nil
	})
	e.noError(e.s.RegisterInterval("test.tick", 3*time.Second, p.handle, jobs.Transactional()))
	e.start()
	first, slow := p.next(), p.next()
	require.Equal(e, first.Tick, slow.PrevSuccess, "PrevSuccess of the second run")
	beside := p.next()
	require.Equal(e, first.Tick, beside.PrevSuccess, "PrevSuccess of a run beside it")
	e.eventually("the run beside it to succeed", func() (any, bool) {
		st := e.status("test.tick")
		return st, !st.LastSuccess.Before(beside.Tick)
	})
	close(release.open)
	again := p.next()
	for range 10 {
		if again.ID == slow.ID {
			break
		}
		again = p.next()
	}
	require.Equal(e, slow.ID, again.ID, "ID of the run that was overtaken, which runs again")
	require.Equal(e, slow.Tick, again.PrevSuccess, "PrevSuccess of the run that was overtaken: nothing is left of its window")
	require.Equal(e, slow.Attempt, again.Attempt, "Attempt of the run that was overtaken, which does not count")
	e.eventually("the run to succeed", func() (any, bool) {
		totals := e.health().Totals
		return totals, totals[jobs.StateRetrying].N == 0 && totals[jobs.StateFailed].N == 0 && totals[jobs.StateCompleted].N >= 3
	})
}
