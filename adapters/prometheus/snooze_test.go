package prometheus_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/adapters/prometheus"
	"github.com/everytick/everytick/jobs"
)

func TestMetrics_ASnoozeIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := prometheus.New(nil)
		s, err := memory.New(&memory.Config{Defaults: m.Options()})
		require.NoError(t, err)
		require.NoError(t, s.RegisterInterval("users.sync", 24*time.Hour, func(_ context.Context, job *jobs.Job) error {
			if job.Snoozes < 2 {
				return jobs.Snooze(time.Hour, "not yet")
			}
			return nil
		}))
		require.NoError(t, s.Start(t.Context()))
		time.Sleep(26*time.Hour + time.Second) // bubbles begin at midnight
		text := exposition(t, m.Collector(s))
		require.NoError(t, s.Shutdown(t.Context()))
		for _, line := range []string{
			`everytick_job_attempts_total{job_name="users.sync",outcome="snoozed"} 2`,
			`everytick_job_attempts_total{job_name="users.sync",outcome="completed"} 1`,
			`everytick_job_attempts_total{job_name="users.sync",outcome="failed"} 0`,
			`everytick_tick_lateness_seconds_count{job_name="users.sync"} 1`,
		} {
			require.Contains(t, text, line+"\n")
		}
	})
}
