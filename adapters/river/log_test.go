package river_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestStartAndShutdownAreLogged(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	var log buffer
	s, err := river.New(pool, &river.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), MaxWorkers: 7})
	require.NoError(t, err)
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(2)))
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()))
	for _, line := range []string{
		`level=INFO msg="scheduler started" schema=river jobs=2 workers=9`,
		`level=INFO msg="scheduler stopped" schema=river jobs=2 workers=9`,
	} {
		require.Equal(t, 1, strings.Count(log.String(), line), log.String())
	}
}
