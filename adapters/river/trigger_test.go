package river_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// stalled blocks inserts until release is called, so that callers gather.
func stalled(t *testing.T, s *river.Scheduler) (release func()) {
	t.Helper()
	pool := s.Pool()
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), "LOCK TABLE river.river_job IN EXCLUSIVE MODE")
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback(context.Background())) }
}

func TestUnique_HoldsAmongConcurrentTriggers(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("b.job", 0, noop))
	release := stalled(t, s)
	type call struct{ name, key string }
	ids := map[call]map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 60 {
		c := call{[]string{"a.job", "b.job"}[i%2], fmt.Sprint("key", i%3)}
		wg.Go(func() {
			id, err := s.Trigger(context.Background(), c.name, nil, jobs.Unique(c.key))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if ids[c] == nil {
				ids[c] = map[string]bool{}
			}
			ids[c][id] = true
		})
	}
	release()
	wg.Wait()
	require.Len(t, ids, 6)
	for c, of := range ids {
		require.Len(t, of, 1, "all callers of %v got one job", c)
	}
	require.Equal(t, 6, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestTriggerTx_RejectsANilTransaction(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	_, err := s.TriggerTx(t.Context(), nil, "a.job", nil)
	require.ErrorContains(t, err, "the transaction is nil")
	require.Zero(t, scalar[int](t, s.Pool(), `SELECT count(*) FROM river.river_job`))
}
