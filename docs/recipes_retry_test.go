package docs_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

func failuresByJob(ctx context.Context, finder jobs.RunFinder, since time.Time) (map[string]int, error) {
	n := map[string]int{}
	q := jobs.RunQuery{States: []jobs.State{jobs.StateFailed}, Since: since, Limit: 1000}
	for {
		page, err := finder.FindRuns(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, run := range page.Runs {
			n[run.Name]++
		}
		if q.After = page.Next; q.After == "" {
			return n, nil
		}
	}
}

func retryFailures(ctx context.Context, s jobs.Scheduler, since, until time.Time) (int, error) {
	retrier, ok := jobs.As[jobs.BulkRetrier](s)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return retrier.RetryMany(ctx, jobs.RunQuery{
		States: []jobs.State{jobs.StateFailed}, Since: since, Until: until,
	})
}

func TestRetryFailures(t *testing.T) {
	t.Parallel()
	var fixed atomic.Bool
	rec, _ := start(t, func(s jobs.Scheduler) error {
		var err error
		for i := range 3 {
			err = errors.Join(err, s.RegisterDelayed(fmt.Sprintf("a.job%d", i), 0, func(context.Context, *jobs.Job) error {
				if fixed.Load() {
					return nil
				}
				return jobs.Permanent(errors.New("the API is down"))
			}))
		}
		return err
	})
	night := time.Now()
	for i := range 3 {
		_, err := rec.TriggerMany(t.Context(), fmt.Sprintf("a.job%d", i), make([]any, 10))
		require.NoError(t, err)
	}
	finder, ok := jobs.As[jobs.RunFinder](rec)
	require.True(t, ok)
	failed := func() map[string]int {
		n, err := failuresByJob(t.Context(), finder, night)
		require.NoError(t, err)
		return n
	}
	require.Eventually(t, func() bool {
		n := failed()
		return n["a.job0"] == 10 && n["a.job1"] == 10 && n["a.job2"] == 10
	}, time.Minute, 20*time.Millisecond)
	morning := time.Now()
	_, err := rec.Trigger(t.Context(), "a.job0", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return failed()["a.job0"] == 11 }, time.Minute, 20*time.Millisecond)

	fixed.Store(true)
	n, err := retryFailures(t.Context(), rec, night, morning)
	require.NoError(t, err)
	require.Equal(t, 30, n)
	require.Eventually(t, func() bool {
		page, err := finder.FindRuns(t.Context(), jobs.RunQuery{States: []jobs.State{jobs.StateCompleted}})
		require.NoError(t, err)
		return len(page.Runs) == 30
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, map[string]int{"a.job0": 1}, failed())
}
