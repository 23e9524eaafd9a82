package memory_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

func TestShutdown_ConcurrentCallsAllWaitForRunningJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(nil)
		require.NoError(t, err)
		var finish chan struct{}
		require.NoError(t, s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error {
			<-finish
			return nil
		}))
		for range 200 {
			finish = make(chan struct{})
			require.NoError(t, s.Start(t.Context()))
			_, err := s.Trigger(t.Context(), "test.job", nil)
			require.NoError(t, err)
			synctest.Wait()
			const callers = 4
			begin, returned := make(chan struct{}), make(chan error, callers)
			for range callers {
				go func() {
					<-begin
					returned <- s.Shutdown(t.Context())
				}()
			}
			synctest.Wait()
			close(begin)
			synctest.Wait()
			require.Empty(t, returned)
			close(finish)
			stopped := 0
			for range callers {
				if err := <-returned; err == nil {
					stopped++
				} else {
					require.ErrorIs(t, err, jobs.ErrNotStarted)
				}
			}
			require.Equal(t, 1, stopped)
		}
	})
}

func TestScheduler_LogsStartAndShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var buf lockedBuffer
		s, err := memory.New(&memory.Config{Logger: slog.New(slog.NewTextHandler(&buf, nil)), MaxWorkers: 7})
		require.NoError(t, err)
		require.NoError(t, s.RegisterDelayed("test.job", 0, done))
		require.NoError(t, s.RegisterDelayed("test.own", 0, done, jobs.Concurrency(2)))
		for n := 1; n <= 2; n++ {
			require.NoError(t, s.Start(t.Context()))
			require.Error(t, s.Start(t.Context()))
			require.NoError(t, s.Shutdown(t.Context()))
			require.Error(t, s.Shutdown(t.Context()))
			require.Equal(t, n, strings.Count(buf.String(), `level=INFO msg="memory: scheduler started" jobs=2 workers=9`), buf.String())
			require.Equal(t, n, strings.Count(buf.String(), `level=INFO msg="memory: scheduler stopped" jobs=2 workers=9`), buf.String())
			require.Equal(t, 2*n, strings.Count(buf.String(), "\n"), buf.String())
		}
	})
}
