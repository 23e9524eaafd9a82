package otel_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/everytick/everytick/jobs"
)

func TestOptions_ASnoozeIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t)
		require.NoError(t, s.RegisterInterval("users.sync", 24*time.Hour, func(_ context.Context, job *jobs.Job) error {
			if job.Snoozes < 2 {
				return jobs.Snooze(time.Hour, "not yet")
			}
			return nil
		}))
		start(t, s)
		time.Sleep(27 * time.Hour) // bubbles begin at midnight

		runs := tel.spans("process users.sync")
		require.Len(t, runs, 3)
		for i, outcome := range []string{"snoozed", "snoozed", "completed"} {
			require.Equal(t, codes.Unset, runs[i].Status.Code)
			attrs := attributes(runs[i].Attributes)
			require.Equal(t, outcome, attrs["everytick.job.outcome"])
			require.NotContains(t, attrs, "error.type")
		}
		require.Equal(t, 2, tel.count(t, "messaging.process.duration", attribute.String("everytick.job.outcome", "snoozed")))
		require.Equal(t, 1, tel.count(t, "everytick.tick.lateness"), "starts of the tick")
	})
}
