package river_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/providertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	var nets sync.Map // *cuttable by scheduler
	providertest.Run(t, providertest.Harness{
		New: func(t testing.TB, cfg providertest.Config) jobs.Scheduler {
			pool, network := breakablePool(t)
			s, err := river.New(pool, &river.Config{Logger: cfg.Logger, Defaults: cfg.Defaults})
			require.NoError(t, err)
			nets.Store(s, network)
			network.pool = pool
			return s
		},
		DB: func(s jobs.Scheduler) jobs.DB {
			n, _ := nets.Load(s)
			return n.(*cuttable).pool
		},
		BreakDB: func(_ testing.TB, s jobs.Scheduler) {
			n, _ := nets.Load(s)
			n.(*cuttable).cut()
		},
	})
}
