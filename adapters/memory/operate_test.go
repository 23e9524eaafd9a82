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

func TestALateTickSaysWhatKeepsIt(t *testing.T) {
	t.Parallel()
	slow := func(context.Context, *jobs.Job) error {
		time.Sleep(10 * time.Second)
		return nil
	}
	bubble(t, memory.Config{MaxWorkers: 1}, func(s *memory.Scheduler) error {
		return errors.Join(
			s.RegisterInterval("test.general", time.Second, slow),
			s.RegisterInterval("test.own", time.Second, slow, jobs.Concurrency(2)),
			s.RegisterInterval("test.all", time.Second, slow, jobs.CatchUp(jobs.All), jobs.Concurrency(3)),
			s.RegisterInterval("test.fine", time.Hour, slow),
		)
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		time.Sleep(5500 * time.Millisecond)
		require.Empty(t, statusOf(t, s, "test.fine").OverdueReason)
		require.Equal(t, "all workers of the scheduler are taken", statusOf(t, s, "test.general").OverdueReason)
		require.Equal(t, "all 2 worker slots of the job are taken", statusOf(t, s, "test.own").OverdueReason)
		require.Equal(t, "the run of the tick before it goes on", statusOf(t, s, "test.all").OverdueReason)
		go func() { _ = s.Shutdown(context.Background()) }()
		synctest.Wait()
		require.Contains(t, statusOf(t, s, "test.own").OverdueReason, "is being shut down")
		time.Sleep(time.Minute)
		require.Contains(t, statusOf(t, s, "test.own").OverdueReason, "is not started")
	})
}

func TestPauseSkipsATickThatWaitsForTheOneBefore(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Second, func(context.Context, *jobs.Job) error {
			time.Sleep(10 * time.Second)
			return nil
		}, jobs.CatchUp(jobs.All))
	}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
		time.Sleep(5500 * time.Millisecond)
		require.NoError(t, s.Pause(t.Context(), "test.tick"))
		synctest.Wait()
		runs, err := s.Runs(t.Context(), "test.tick", 10)
		require.NoError(t, err)
		require.Len(t, runs, 5, "one runs, and four that came due since are skipped")
		require.Equal(t, jobs.StateRunning, runs[4].State)
		for _, r := range runs[:4] {
			require.Equal(t, jobs.StateSkipped, r.State)
			require.Equal(t, jobs.SkippedPaused, r.Error)
			require.Zero(t, r.Attempt)
		}
		require.NoError(t, s.Resume(t.Context(), "test.tick"))
		time.Sleep(10 * time.Second)
		require.Equal(t, 1, statusOf(t, s, "test.tick").Running)
	})
}

func TestWhatWaitsOutAPauseIsOldestWaiting(t *testing.T) {
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
		require.Equal(t, map[jobs.State]int{jobs.StateWaiting: 2}, h.Totals)
		require.NoError(t, s.Resume(t.Context(), "test.job"))
		require.NoError(t, s.Resume(t.Context(), "test.late"))
		synctest.Wait()
		require.Equal(t, jobs.StateSkipped, run(t, s, "test.late", late).State, "a pause does not stop the clock of StartWithin")
		require.NoError(t, s.Retry(t.Context(), "test.late", late))
		synctest.Wait()
		require.Equal(t, jobs.StateCompleted, run(t, s, "test.late", late).State)
	})
}

func TestARetriedJobRunsBesideALaterOneOfItsKey(t *testing.T) {
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

		// While the key is free, it is the retried job's again.
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
		require.Equal(t, second, trigger(), "the end of the first leaves the key to the second")
	})
}

func TestCancelOfATickThatIsLateGivesUpWhatPassed(t *testing.T) {
	t.Parallel()
	bubble(t, memory.Config{}, func(s *memory.Scheduler) error {
		return s.RegisterInterval("test.tick", time.Hour, done)
	}, func(t *testing.T, s *memory.Scheduler, log func() string) {
		require.NoError(t, s.Shutdown(t.Context()))
		require.NoError(t, s.Cancel(t.Context(), "test.tick", "memory-1"), "the tick is stored, if not due")
		require.Equal(t, jobs.StateCancelled, run(t, s, "test.tick", "memory-1").State)
		time.Sleep(5*time.Hour + time.Minute)
		runs, err := s.Runs(t.Context(), "test.tick", 1)
		require.NoError(t, err)
		require.Equal(t, jobs.StateWaiting, runs[0].State)
		require.NoError(t, s.Cancel(t.Context(), "test.tick", runs[0].ID))
		require.Contains(t, log(), "skipped=3")
		st := statusOf(t, s, "test.tick")
		require.Equal(t, jobs.StateCancelled, st.PrevState)
		require.Equal(t, runs[0].Tick, st.PrevTick)
		require.Equal(t, 3, st.Missed)
		require.Equal(t, runs[0].Tick.Add(4*time.Hour), st.NextTick)
		require.NoError(t, s.Start(t.Context()))
		time.Sleep(time.Hour)
		require.Equal(t, jobs.StateCompleted, statusOf(t, s, "test.tick").PrevState)
	})
}

func TestCancelDuringAHardStopIsNoInterruption(t *testing.T) {
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
		require.ErrorIs(t, s.Retry(t.Context(), "test.job", ids[1]), jobs.ErrNotRetryable, "it waits for its first attempt")
	})
}

// Operators at work while jobs run: no count goes wrong, and nothing is stuck.
func TestOperatorsUnderLoad(t *testing.T) {
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
		ended := h.Totals[jobs.StateCompleted] + h.Totals[jobs.StateFailed] + h.Totals[jobs.StateCancelled]
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

func TestAJobThatIsRetriedBeforeItsFirstAttemptHasAllOfThem(t *testing.T) {
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

func TestRetryOfAJobWhoseNextAttemptIsDueDoesNoHarm(t *testing.T) {
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
		require.NoError(t, s.Retry(t.Context(), "test.job", id), "it runs as soon as it can already")
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		require.Equal(t, 2, run(t, s, "test.job", id).Attempt)
	})
}

func TestAJobThatWasCancelledAndIsRetriedByHandIsRetriedWhenItFails(t *testing.T) {
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

func TestActivityCountsNothingThatEndedBeforeItsStart(t *testing.T) {
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
		require.Empty(t, a.Jobs, "it ended less than a step before")
	})
}

func TestAnInterruptedJobIsNotSkippedAsTooLate(t *testing.T) {
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

// held has the tick of an hour run for 90 minutes, with CatchUp(All), and the next one wait for it; test begins
// meanwhile. ran returns the hours of the ticks that have begun.
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
		}, jobs.CatchUp(jobs.All), jobs.Timeout(24*time.Hour))
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

func TestATickThatIsCancelledAsItWaitsForTheOneBeforeNeverRuns(t *testing.T) {
	t.Parallel()
	held(t, func(t *testing.T, s *memory.Scheduler, ran func() []float64) {
		runs, err := s.Runs(t.Context(), "test.tick", 1)
		require.NoError(t, err)
		require.Equal(t, jobs.StateWaiting, runs[0].State)
		require.NoError(t, s.Cancel(t.Context(), "test.tick", runs[0].ID))
		time.Sleep(time.Hour)
		require.Equal(t, []float64{0, 2}, ran())
		require.Equal(t, jobs.StateCancelled, run(t, s, "test.tick", runs[0].ID).State)
	})
}

func TestATickWaitsForNoTriggeredRun(t *testing.T) {
	t.Parallel()
	held(t, func(t *testing.T, s *memory.Scheduler, ran func() []float64) {
		_, err := s.Trigger(t.Context(), "test.tick", nil)
		require.NoError(t, err)
		time.Sleep(30 * time.Minute)
		require.Equal(t, []float64{0, 1}, ran())
		require.Equal(t, 1, statusOf(t, s, "test.tick").Running, "the triggered run goes on")
	})
}
