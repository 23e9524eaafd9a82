package river_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestScheduler_LogsStartAndShutdown(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	s := newScheduler(t, migrated.Pool(t), river.Config{Logger: log, MaxWorkers: 7})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(2)))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()))
	for _, line := range []string{
		`level=INFO msg="scheduler started" schema=river jobs=2 workers=9`,
		`level=INFO msg="scheduler stopped" schema=river jobs=2 workers=9`,
	} {
		require.Equal(t, 1, strings.Count(logged.String(), line), logged.String())
	}
}
