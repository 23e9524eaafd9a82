package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// frozen returns a job of a registry that is frozen.
func frozen(t *testing.T, h jobs.Handler) (d *jobs.Definition, thaw func()) {
	t.Helper()
	r, err := jobs.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, r.RegisterDelayed("test.job", 0, h))
	require.NoError(t, r.Freeze())
	d, err = r.Job("test.job")
	require.NoError(t, err)
	return d, r.Thaw
}

// A bubble fails its test when a goroutine is left.
func TestRun_GoroutinesThatWaitForHandlersAreFewAndEndWithThaw(t *testing.T) { //nolint:paralleltest // it counts the goroutines of all
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var running atomic.Int64
		d, thaw := frozen(t, func(context.Context, *jobs.Job) error {
			running.Add(1)
			<-release
			return nil
		})
		var runs sync.WaitGroup
		for range 1000 {
			runs.Go(func() { _ = d.Run(t.Context(), &jobs.Job{}, quiet) })
		}
		synctest.Wait()
		require.EqualValues(t, 1000, running.Load(), "all run at once")
		close(release)
		runs.Wait()
		synctest.Wait()
		stacks := make([]byte, 1<<22)
		stacks = stacks[:runtime.Stack(stacks, true)]
		require.Equal(t, 100, bytes.Count(stacks, []byte("jobs.(*runners).await(")))
		thaw()
	})
}

func TestRun_AHandlerThatOutlivesThawEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d, thaw := frozen(t, func(context.Context, *jobs.Job) error { <-release; return nil })
		var run sync.WaitGroup
		run.Go(func() { _ = d.Run(t.Context(), &jobs.Job{}, quiet) })
		synctest.Wait()
		thaw()
		close(release)
		run.Wait()
	})
}

func TestRun_EachAttemptGetsItsOwnOutcomeHoweverHandlersLeave(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	failure := errors.New("of this attempt")
	d, thaw := frozen(t, func(_ context.Context, job *jobs.Job) error {
		calls.Add(1)
		switch job.Attempt % 4 {
		case 0:
			runtime.Goexit()
		case 1:
			panic(job.ID)
		case 2:
			return failure
		}
		return nil
	})
	var runs sync.WaitGroup
	for range 8 {
		runs.Go(func() {
			for n := range 500 {
				err := d.Run(t.Context(), &jobs.Job{Attempt: n, ID: "the job"}, quiet)
				switch n % 4 {
				case 0:
					require.ErrorContains(t, err, "runtime.Goexit")
				case 1:
					require.EqualError(t, err, "panic: the job")
				case 2:
					require.Equal(t, failure, err)
				case 3:
					require.NoError(t, err)
				}
			}
		})
	}
	runs.Wait()
	thaw()
	require.EqualValues(t, 8*500, calls.Load())
}

func TestRun_AHandlersProfilerLabelsAreNotThoseOfTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var profile strings.Builder
		d, thaw := frozen(t, func(ctx context.Context, job *jobs.Job) error {
			if job.Attempt == 1 {
				pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("attempt", "the-first")))
				require.NoError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1))
				require.Contains(t, profile.String(), "the-first")
				profile.Reset()
				return nil
			}
			return pprof.Lookup("goroutine").WriteTo(&profile, 1)
		})
		for attempt := range 2 {
			require.NoError(t, d.Run(t.Context(), &jobs.Job{Attempt: attempt + 1}, quiet))
			synctest.Wait() // until the goroutine waits for another
		}
		thaw()
		require.NotEmpty(t, profile.String())
		require.NotContains(t, profile.String(), "the-first")
	})
}

func TestRun_SaysThatAHandlerIgnoresTheEndOfItsContext(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		longer time.Duration // than the timeout
		logged bool
	}{
		"for long":          {11 * time.Second, true},
		"for a short while": {9 * time.Second, false},
		"not at all":        {-time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				failure := errors.New("of the handler")
				d := jobs.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error {
					time.Sleep(time.Minute + test.longer)
					return failure
				}}
				err := d.Run(t.Context(), &jobs.Job{ID: "17"}, slog.New(slog.NewTextHandler(&log, nil)))
				require.Equal(t, failure, err)
				if !test.logged {
					require.Empty(t, log.String())
					return
				}
				require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
				require.Contains(t, log.String(), "handler still running after its context ended")
				require.Contains(t, log.String(), "timed out after 1m0s")
				require.Contains(t, log.String(), "job_id=17")
			})
		})
	}
}
