package memory_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

func statusOf(t *testing.T, s *memory.Scheduler, name string) jobs.Status {
	t.Helper()
	all, err := s.Jobs(t.Context())
	require.NoError(t, err)
	for _, st := range all {
		if st.Name == name {
			return st
		}
	}
	require.Fail(t, "no such job")
	return jobs.Status{}
}

func TestJobs_OverdueReason(t *testing.T) {
	t.Parallel()
	slow := func(context.Context, *jobs.Job) error {
		time.Sleep(10 * time.Second)
		return nil
	}
	bubble(t, memory.Config{MaxWorkers: 1}, func(s *memory.Scheduler) error {
		return errors.Join(
			s.RegisterInterval("test.general", time.Second, slow),
			s.RegisterInterval("test.own", time.Second, slow, jobs.Concurrency(2)),
			s.RegisterInterval("test.all", time.Second, slow, jobs.CatchUp(jobs.CatchUpAll), jobs.Concurrency(3)),
			s.RegisterInterval("test.fine", time.Hour, slow),
		)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		time.Sleep(5500 * time.Millisecond)
		require.Empty(t, statusOf(t, s, "test.fine").OverdueReason)
		require.Equal(t, "all workers are taken", statusOf(t, s, "test.general").OverdueReason)
		require.Equal(t, "all 2 worker slots of the job are taken", statusOf(t, s, "test.own").OverdueReason)
		require.Equal(t, "the run of the previous tick has not ended", statusOf(t, s, "test.all").OverdueReason)
		go func() { _ = s.Shutdown(context.Background()) }()
		synctest.Wait()
		require.Contains(t, statusOf(t, s, "test.own").OverdueReason, "is being shut down")
		time.Sleep(time.Minute)
		require.Contains(t, statusOf(t, s, "test.own").OverdueReason, "is not started")
	})
}

func TestPause_SkipsATickThatWaitsForThePreviousOne(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Second, func(context.Context, *jobs.Job) error {
			time.Sleep(10 * time.Second)
			return nil
		}, jobs.CatchUp(jobs.CatchUpAll))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		start := time.Now().UTC()
		time.Sleep(5500 * time.Millisecond)
		require.NoError(t, s.Pause(t.Context(), "test.tick"))
		synctest.Wait()
		require.Len(t, runs(t, s, "test.tick"), 1, "a tick skipped by a pause has no run")
		st := statusOf(t, s, "test.tick")
		require.Equal(t, start.Add(5*time.Second), st.PrevTick)
		require.Equal(t, jobs.StateSkipped, st.PrevState)
		require.Equal(t, 3, st.Missed, "ticks skipped since the first")
		require.Equal(t, start.Add(6*time.Second), st.NextTick)
		require.Equal(t, [2]int{0, 1}, [2]int{st.Waiting, st.Running})
		require.Zero(t, st.OverdueBy)
		require.NoError(t, s.Resume(t.Context(), "test.tick"))
		time.Sleep(10 * time.Second)
		require.Equal(t, 1, statusOf(t, s, "test.tick").Running)
	})
}

func TestHealth_OldestWaitingIncludesRunsOfPausedJobs(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return errors.Join(
			s.RegisterDelayed("test.job", 0, done),
			s.RegisterDelayed("test.late", 0, done, jobs.StartWithin(time.Minute)),
		)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		require.NoError(t, s.Pause(t.Context(), "test.job"))
		require.NoError(t, s.Pause(t.Context(), "test.late"))
		_, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		late, err := s.Trigger(t.Context(), "test.late", nil)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, time.Hour, h.OldestWaiting)
		require.Equal(t, map[jobs.State]jobs.Count{jobs.StateWaiting: {N: 2}}, h.Totals)
		require.NoError(t, s.Resume(t.Context(), "test.job"))
		require.NoError(t, s.Resume(t.Context(), "test.late"))
		synctest.Wait()
		require.Equal(t, jobs.StateSkipped, run(t, s, "test.late", late).State, "StartWithin includes the time of the pause")
		require.NoError(t, s.Retry(t.Context(), "test.late", late))
		synctest.Wait()
		require.Equal(t, jobs.StateCompleted, run(t, s, "test.late", late).State)
	})
}

func TestRetry_RunsBesideALaterRunWithTheSameKey(t *testing.T) {
	t.Parallel()
	var fails bool
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			if fails {
				return jobs.Permanent(errors.New("no"))
			}
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		trigger := func(opts ...jobs.TriggerOption) string {
			id, err := s.Trigger(t.Context(), "test.job", nil, append(opts, jobs.Unique("key"))...)
			require.NoError(t, err)
			return id
		}
		fails = true
		first := trigger()
		synctest.Wait()
		fails = false

		// The retried run takes its key again if the key is free.
		require.NoError(t, s.Pause(t.Context(), "test.job"))
		require.NoError(t, s.Retry(t.Context(), "test.job", first))
		require.Equal(t, first, trigger())
		require.NoError(t, s.Cancel(t.Context(), "test.job", first))

		second := trigger(jobs.Delay(time.Hour))
		require.NotEqual(t, first, second)
		require.NoError(t, s.Retry(t.Context(), "test.job", first))
		require.NoError(t, s.Resume(t.Context(), "test.job"))
		synctest.Wait()
		require.Equal(t, jobs.StateCompleted, run(t, s, "test.job", first).State)
		require.Equal(t, second, trigger(), "the second run keeps the key when the first ends")
	})
}

func TestCancel_OfAWaitingTickCancelsTheTicksItCovers(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, func(context.Context, *jobs.Job) error {
			time.Sleep(270 * time.Minute)
			return nil
		}, jobs.Concurrency(1), jobs.Timeout(24*time.Hour))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		first := time.Now().UTC().Truncate(time.Hour).Add(time.Hour)
		time.Sleep(time.Until(first.Add(4*time.Hour + time.Minute)))
		waiting := runs(t, s, "test.tick")[0]
		require.Equal(t, jobs.StateWaiting, waiting.State)
		require.Equal(t, first.Add(4*time.Hour), waiting.Tick)
		require.NoError(t, s.Cancel(t.Context(), "test.tick", waiting.ID))
		st := statusOf(t, s, "test.tick")
		require.Equal(t, jobs.StateCancelled, st.PrevState)
		require.Equal(t, waiting.Tick, st.PrevTick)
		require.Equal(t, 3, st.Missed)
		require.Equal(t, first.Add(5*time.Hour), st.NextTick)
		require.Zero(t, st.LastSuccess)
		time.Sleep(time.Hour)
		st = statusOf(t, s, "test.tick")
		require.Equal(t, first.Add(5*time.Hour), st.PrevTick)
		require.Equal(t, jobs.StateRunning, st.PrevState)
		require.Zero(t, st.Missed)
		require.Equal(t, first, st.LastSuccess)
	})
}

func TestPause_SkipsTicksWhileTheSchedulerIsStopped(t *testing.T) {
	t.Parallel()
	var ticks []time.Time
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, func(_ context.Context, job *jobs.Job) error {
			ticks = append(ticks, job.Tick)
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, log func() string) {
		first := time.Now().UTC().Truncate(time.Hour).Add(time.Hour)
		require.NoError(t, s.Shutdown(t.Context()))
		require.NoError(t, s.Pause(t.Context(), "test.tick"))
		time.Sleep(time.Until(first.Add(150 * time.Minute)))
		require.Zero(t, statusOf(t, s, "test.tick").Waiting, "ticks of a paused job do not wait")
		require.NoError(t, s.Resume(t.Context(), "test.tick"))
		require.Contains(t, log(), `missed=2 reason="skipped: the job is paused"`)
		time.Sleep(time.Hour)
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		require.Equal(t, []time.Time{first.Add(3 * time.Hour)}, ticks)
	})
}

func TestPause_WaitingTickCoversTheFirstTickAfterTheResume(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, func(context.Context, *jobs.Job) error {
			time.Sleep(500 * time.Minute)
			return nil
		}, jobs.Concurrency(1), jobs.Timeout(24*time.Hour))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		first := time.Now().UTC().Truncate(time.Hour).Add(time.Hour)
		time.Sleep(time.Until(first.Add(90 * time.Minute)))
		require.NoError(t, s.Pause(t.Context(), "test.tick"))
		time.Sleep(2 * time.Hour)
		st := statusOf(t, s, "test.tick")
		require.Equal(t, [2]time.Time{first.Add(3 * time.Hour), first.Add(4 * time.Hour)}, [2]time.Time{st.PrevTick, st.NextTick})
		require.Equal(t, 1, st.Waiting)
		require.Zero(t, st.OverdueBy)
		require.NoError(t, s.Resume(t.Context(), "test.tick"))
		require.Equal(t, first.Add(time.Hour), statusOf(t, s, "test.tick").NextTick, "the waiting tick is next again")
		time.Sleep(time.Hour)
		require.Len(t, runs(t, s, "test.tick"), 2)
		require.Equal(t, first.Add(4*time.Hour), runs(t, s, "test.tick")[0].Tick)
		require.Equal(t, 1, statusOf(t, s, "test.tick").Waiting)
	})
}

func TestCancel_BeforeAHardStopCancelsTheRun(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			return ctx.Err()
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		ids, err := s.TriggerMany(t.Context(), "test.job", []any{nil, nil})
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, s.Cancel(t.Context(), "test.job", ids[0]))
		require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
		require.Equal(t, jobs.StateCancelled, run(t, s, "test.job", ids[0]).State)
		interrupted := run(t, s, "test.job", ids[1])
		require.Equal(t, jobs.StateWaiting, interrupted.State)
		require.Zero(t, interrupted.Attempt)
		require.Zero(t, interrupted.StartedAt)
		require.ErrorIs(t, s.Retry(t.Context(), "test.job", ids[1]), jobs.ErrNotRetryable, "waits for its first attempt")
	})
}

// Every run ends and the counts stay right while jobs are cancelled, paused and retried.
func TestScheduler_OperationsUnderLoad(t *testing.T) {
	t.Parallel()
	s, err := memory.New(&memory.Config{MaxWorkers: 4})
	require.NoError(t, err)
	names := []string{"test.shared", "test.own"}
	h := func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 && len(job.ID)%2 == 0 {
			return errors.New("again")
		}
		return nil
	}
	require.NoError(t, s.RegisterDelayed(names[0], 0, h, jobs.MaxRetries(1), jobs.RetryDelay(time.Millisecond)))
	require.NoError(t, s.RegisterDelayed(names[1], 0, h, jobs.MaxRetries(0), jobs.Concurrency(2)))
	require.NoError(t, s.Start(t.Context()))
	ctx := context.Background()
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() {
			for i := range 200 {
				name := names[(g+i)%2]
				id, err := s.Trigger(ctx, name, nil, jobs.Priority(1+i%4), jobs.Delay(time.Duration(i%3)*time.Millisecond))
				if err != nil {
					panic(err)
				}
				switch i % 5 {
				case 0:
					_ = s.Cancel(ctx, name, id)
				case 1:
					_ = s.Pause(ctx, name)
				case 2, 3:
					_ = s.Resume(ctx, name)
				}
				runs, _ := s.Runs(ctx, name, 10)
				for _, r := range runs {
					_ = s.Retry(ctx, name, r.ID)
				}
				_, _ = s.Activity(ctx, time.Second, 10)
				_, _ = s.Health(ctx)
			}
		})
	}
	work.Wait()
	for _, name := range names {
		require.NoError(t, s.Resume(ctx, name))
	}
	require.Eventually(t, func() bool {
		h, err := s.Health(ctx)
		ended := h.Totals[jobs.StateCompleted].N + h.Totals[jobs.StateFailed].N + h.Totals[jobs.StateCancelled].N
		return err == nil && ended == 800 && len(h.Totals) <= 3
	}, 30*time.Second, 5*time.Millisecond)
	a, err := s.Activity(ctx, time.Hour, 2)
	require.NoError(t, err)
	n := 0
	for _, steps := range a.Jobs {
		for _, o := range steps {
			n += o.Completed + o.Failed + o.Other
		}
	}
	require.Equal(t, 800, n)
	for _, name := range names {
		st := statusOf(t, s, name)
		require.Equal(t, [3]int{}, [3]int{st.Waiting, st.Running, st.Retrying})
	}
	require.NoError(t, s.Shutdown(ctx))
}

var errAgain = errors.New("again")

func TestRetry_BeforeTheFirstAttemptKeepsAllAttempts(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			runs.Add(1)
			return errAgain
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		id, err := s.Trigger(t.Context(), "test.job", nil, jobs.Delay(time.Hour))
		require.NoError(t, err)
		require.NoError(t, s.Cancel(t.Context(), "test.job", id))
		require.NoError(t, s.Retry(t.Context(), "test.job", id))
		time.Sleep(time.Hour)
		require.EqualValues(t, 3, runs.Load())
		require.Equal(t, [2]int{3, 3}, [2]int{run(t, s, "test.job", id).Attempt, run(t, s, "test.job", id).MaxAttempts})
	})
}

func TestRetry_OfARunWhoseNextAttemptIsDueDoesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return errAgain })
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		id, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, jobs.StateRetrying, run(t, s, "test.job", id).State)
		require.NoError(t, s.Shutdown(t.Context()))
		time.Sleep(time.Hour)
		require.NoError(t, s.Retry(t.Context(), "test.job", id), "already runs as soon as it can")
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		require.Equal(t, 2, run(t, s, "test.job", id).Attempt)
	})
}

func TestRetry_OfACancelledRunIsRetriedWhenItFails(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
			switch job.Attempt {
			case 1:
				<-ctx.Done()
				return ctx.Err()
			case 2:
				return errAgain
			}
			return nil
		})
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		id, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, s.Cancel(t.Context(), "test.job", id))
		synctest.Wait()
		require.Equal(t, jobs.StateCancelled, run(t, s, "test.job", id).State)
		require.NoError(t, s.Retry(t.Context(), "test.job", id))
		time.Sleep(time.Hour)
		require.Equal(t, jobs.StateCompleted, run(t, s, "test.job", id).State)
	})
}

func TestActivity_IgnoresRunsThatEndedBeforeItsStart(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, done)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(90 * time.Minute)))
		_, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		time.Sleep(45 * time.Minute)
		a, err := s.Activity(t.Context(), time.Hour, 1)
		require.NoError(t, err)
		require.Less(t, time.Since(a.Start), 45*time.Minute)
		require.Empty(t, a.Jobs, "ended less than a step before the start")
	})
}

func TestShutdown_InterruptedRunIsNotSkippedAsTooLate(t *testing.T) {
	t.Parallel()
	var stop atomic.Bool
	stop.Store(true)
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
			if stop.Load() {
				<-ctx.Done()
			}
			return ctx.Err()
		}, jobs.StartWithin(time.Minute))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		id, err := s.Trigger(t.Context(), "test.job", nil)
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
		stop.Store(false)
		time.Sleep(time.Hour)
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		r := run(t, s, "test.job", id)
		require.Equal(t, [2]any{jobs.StateCompleted, 1}, [2]any{r.State, r.Attempt})
	})
}

// held calls test while, with CatchUpAll, the run of an hourly tick takes 90 minutes and the next tick waits for it.
// ran returns the ticks that have started, in hours after the first.
func held(t *testing.T, test func(t *testing.T, s *memory.Scheduler, ran func() []float64)) {
	t.Helper()
	ticks := make(chan time.Time, 100)
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, func(ctx context.Context, job *jobs.Job) error {
			if job.Tick.IsZero() { // triggered
				<-ctx.Done()
				return nil
			}
			ticks <- job.Tick
			if len(ticks) == 1 {
				time.Sleep(90 * time.Minute)
			}
			return nil
		}, jobs.CatchUp(jobs.CatchUpAll), jobs.Timeout(24*time.Hour))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		first := time.Now().UTC().Truncate(time.Hour).Add(time.Hour)
		time.Sleep(time.Until(first.Add(75 * time.Minute)))
		require.Equal(t, 1, statusOf(t, s, "test.tick").Running)
		require.Equal(t, 15*time.Minute, statusOf(t, s, "test.tick").OverdueBy)
		test(t, s, func() (hours []float64) {
			for i := len(ticks); i > 0; i-- {
				tick := <-ticks
				ticks <- tick
				hours = append(hours, tick.Sub(first).Hours())
			}
			return hours
		})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Shutdown(ctx)
	})
}

func TestScheduler_TickThatWaitsForThePreviousOneHasNoRun(t *testing.T) {
	t.Parallel()
	held(t, func(t *testing.T, s *memory.Scheduler, ran func() []float64) {
		require.Len(t, runs(t, s, "test.tick"), 1)
		n, err := s.QueueSize(t.Context(), "test.tick")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		time.Sleep(time.Hour)
		require.Equal(t, []float64{0, 1, 2}, ran())
		require.Len(t, runs(t, s, "test.tick"), 3)
	})
}

func TestScheduler_TickDoesNotWaitForTriggeredRuns(t *testing.T) {
	t.Parallel()
	held(t, func(t *testing.T, s *memory.Scheduler, ran func() []float64) {
		_, err := s.Trigger(t.Context(), "test.tick", nil)
		require.NoError(t, err)
		time.Sleep(30 * time.Minute)
		require.Equal(t, []float64{0, 1}, ran())
		require.Equal(t, 1, statusOf(t, s, "test.tick").Running, "the triggered run is still running")
	})
}
