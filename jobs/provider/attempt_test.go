package provider_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// frozen returns a job of a registry that is frozen.
func frozen(t *testing.T, h jobs.Handler) (d *provider.Definition, thaw func()) {
	t.Helper()
	r, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, r.RegisterDelayed("test.job", 0, h))
	require.NoError(t, r.Freeze())
	d, err = r.Job("test.job")
	require.NoError(t, err)
	return d, r.Thaw
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
				d := provider.Definition{Timeout: time.Minute, Handler: func(context.Context, *jobs.Job) error {
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
