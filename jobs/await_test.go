package jobs_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// finding is a Triggerer that finds the runs returned by run, which is called with the number of the call.
type finding struct {
	jobs.Triggerer
	jobs.RunFinder
	run   func(call int) (jobs.Run, error)
	calls []time.Time
}

func (f *finding) Run(ctx context.Context, id string) (jobs.Run, error) {
	if err := ctx.Err(); err != nil {
		return jobs.Run{}, err
	}
	f.calls = append(f.calls, time.Now())
	run, err := f.run(len(f.calls))
	run.ID, run.Name = id, "a.b"
	return run, err
}

func TestAwait_ReturnsTheRunOnceItHasEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ended jobs.Run
		text  string // of the error
	}{
		"completed":      {jobs.Run{State: jobs.StateCompleted, Output: []byte(`7`)}, ""},
		"completed late": {jobs.Run{State: jobs.StateCompleted, Error: "of the first attempt"}, ""},
		"failed":         {jobs.Run{State: jobs.StateFailed, Error: "no luck"}, "jobs: run has not completed: run 42 of \"a.b\" is failed: no luck"},
		"panicked":       {jobs.Run{State: jobs.StateFailed, Error: "panic: oh\n\nstack"}, "jobs: run has not completed: run 42 of \"a.b\" is failed: panic: oh"},
		"cancelled":      {jobs.Run{State: jobs.StateCancelled}, "jobs: run has not completed: run 42 of \"a.b\" is cancelled"},
		"skipped":        {jobs.Run{State: jobs.StateSkipped, Error: "skipped: late"}, "jobs: run has not completed: run 42 of \"a.b\" is skipped: skipped: late"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				states := []jobs.State{jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying, jobs.StateRunning}
				f := &finding{run: func(call int) (jobs.Run, error) {
					if call <= len(states) {
						return jobs.Run{State: states[call-1]}, nil
					}
					ended := test.ended
					ended.EndedAt = started
					return ended, nil
				}}
				run, err := jobs.Await(t.Context(), f, "42")
				want := test.ended
				want.ID, want.Name, want.EndedAt = "42", "a.b", started
				require.Equal(t, want, run)
				if test.text == "" {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, jobs.ErrNotCompleted)
					require.EqualError(t, err, test.text)
				}
				require.Len(t, f.calls, 6)
				require.Equal(t, started, f.calls[0], "the first call comes at once")
			})
		})
	}
}

func TestAwait_AsksLessAndLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &finding{run: func(int) (jobs.Run, error) { return jobs.Run{State: jobs.StateRunning}, nil }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		run, err := jobs.Await(ctx, f, "42")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, `jobs: await run 42 of "a.b", which was running: context deadline exceeded`)
		require.Equal(t, jobs.StateRunning, run.State, "the run as it was last")
		last := 10 * time.Millisecond
		require.Equal(t, last, f.calls[1].Sub(f.calls[0]))
		for i := 2; i < len(f.calls); i++ {
			wait := f.calls[i].Sub(f.calls[i-1])
			require.GreaterOrEqual(t, wait, last)
			require.LessOrEqual(t, wait, time.Second)
			last = wait
		}
		require.Equal(t, time.Second, last)
	})
}

func TestAwait_ReturnsErrorsAtOnce(t *testing.T) {
	t.Parallel()
	down := errors.New("the database is down")
	for name, err := range map[string]error{"unknown": jobs.ErrUnknownID, "down": down} {
		for known := range 2 { // whether the run was found before
			f := &finding{run: func(call int) (jobs.Run, error) {
				if call <= known {
					return jobs.Run{State: jobs.StateWaiting}, nil
				}
				return jobs.Run{}, err
			}}
			run, got := jobs.Await(t.Context(), f, "42")
			require.ErrorIs(t, got, err, name)
			require.Len(t, f.calls, known+1)
			require.Equal(t, known == 1, run.State == jobs.StateWaiting, "the run as it was last")
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := jobs.Await(ended, &finding{}, "42")
	require.ErrorIs(t, err, context.Canceled)
	require.EqualError(t, err, `jobs: await run "42": context canceled`)
}

func TestAwait_NeedsTheRole(t *testing.T) {
	t.Parallel()
	_, err := jobs.Await(t.Context(), struct{ jobs.Triggerer }{}, "42")
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
