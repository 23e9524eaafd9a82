package memory_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

func TestOfShutdownsThatBeginTogetherNoneReturnsWhileAJobRuns(t *testing.T) {
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
