package river_test

import (
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/providertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	requireConformance(t, river.Config{})
}

// requireConformance runs the suite with schedulers that have cfg, on pools that configure changes.
func requireConformance(t *testing.T, cfg river.Config, configure ...func(*pgxpool.Config)) {
	t.Helper()
	var nets sync.Map // *cuttable by scheduler
	providertest.Run(t, providertest.Harness{
		New: func(t testing.TB, rule providertest.Config) jobs.Scheduler {
			pool, network := breakablePool(t, configure...)
			cfg := cfg
			cfg.Logger, cfg.Defaults = rule.Logger, rule.Defaults
			s, err := river.New(pool, &cfg)
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
