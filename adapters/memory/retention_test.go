package memory_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

func TestScheduler_KeepsFailedAndCancelledRunsForTheirOwnTime(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]struct{ retention, failed time.Duration }{
		"longer": {time.Hour, 3 * time.Hour}, "shorter": {3 * time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, memory.Config{Retention: kept.retention, FailedRetention: kept.failed}, func(s *memory.Scheduler) error {
				return s.RegisterDelayed("test.job", 0, func(_ context.Context, job *jobs.Job) error {
					if string(job.Data) == `{"fail":true}` {
						return jobs.Permanent(errAgain)
					}
					return nil
				}, jobs.StartWithin(time.Minute))
			}, func(t *testing.T, s *memory.Scheduler, _ func() string) {
				trigger := func(data any, opts ...jobs.TriggerOption) string {
					id, err := s.Trigger(t.Context(), "test.job", data, opts...)
					require.NoError(t, err)
					return id
				}
				require.NoError(t, s.Shutdown(t.Context()))
				trigger(nil)
				time.Sleep(2 * time.Minute) // too late to start
				require.NoError(t, s.Start(t.Context()))
				require.NoError(t, s.Cancel(t.Context(), "test.job", trigger(nil, jobs.Delay(time.Hour))))
				trigger(map[string]bool{"fail": true})
				trigger(nil)
				time.Sleep(time.Second)
				count := func() map[jobs.State]int {
					runs, err := s.Runs(t.Context(), "test.job", 10)
					require.NoError(t, err)
					states := map[jobs.State]int{}
					for _, run := range runs {
						states[run.State]++
					}
					return states
				}
				require.Equal(t, map[jobs.State]int{
					jobs.StateCompleted: 1, jobs.StateSkipped: 1, jobs.StateFailed: 1, jobs.StateCancelled: 1,
				}, count())
				time.Sleep(time.Hour)
				if kept.failed > kept.retention {
					require.Equal(t, map[jobs.State]int{jobs.StateFailed: 1, jobs.StateCancelled: 1}, count())
				} else {
					require.Equal(t, map[jobs.State]int{jobs.StateCompleted: 1, jobs.StateSkipped: 1}, count())
				}
				time.Sleep(2 * time.Hour)
				require.Empty(t, count())
			})
		})
	}
}
