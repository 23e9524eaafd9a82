package river_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestRetention_DependsOnHowAJobEnded(t *testing.T) {
	t.Parallel()
	ended := map[string]string{ // by our state: River's state, and whatever else makes the difference
		"completed": `'completed', NULL, '{}'`,
		"skipped":   `'cancelled', NULL, '{"everytick_skipped": "skipped: late"}'`,
		"failed":    `'discarded', ARRAY['{"at": "2026-01-01T00:00:00Z", "attempt": 3, "error": "no", "trace": ""}'::jsonb], '{}'`,
		"permanent": `'cancelled', ARRAY['{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "no", "trace": ""}'::jsonb], '{}'`,
		"cancelled": `'cancelled', NULL, '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`,
	}
	for name, test := range map[string]struct {
		cfg  river.Config
		kept []string // after two hours
	}{
		"failed jobs are kept longer":  {river.Config{Retention: time.Hour, FailedRetention: 3 * time.Hour}, []string{"cancelled", "failed", "permanent"}},
		"failed jobs are kept shorter": {river.Config{Retention: 3 * time.Hour, FailedRetention: time.Hour}, []string{"completed", "skipped"}},
		"both the same":                {river.Config{Retention: time.Hour, FailedRetention: time.Hour}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			s := newScheduler(t, pool, test.cfg)
			for name, columns := range ended {
				require.NoError(t, s.RegisterDelayed("a."+name, 0, noop))
				// More than a sweep reads at once, and some that are not old enough.
				insertRows(t, pool, 1100, `kind, state, errors, metadata, finalized_at, scheduled_at`, `'a.`+name+`', `+columns+`, now() - interval '2 hours', now()`)
				insertRows(t, pool, 10, `kind, state, errors, metadata, finalized_at, scheduled_at`, `'a.`+name+`', `+columns+`, now() - interval '50 minutes', now()`)
			}
			require.NoError(t, s.Start(t.Context()))
			want := len(test.kept)*1100 + len(ended)*10
			eventually(t, "old jobs are deleted", func() bool { return scalar[int](t, pool, `SELECT count(*) FROM river.river_job`) == want })
			kept := scalar[[]string](t, pool, `SELECT coalesce(array_agg(DISTINCT substr(kind, 3) ORDER BY substr(kind, 3)), '{}')
				FROM river.river_job WHERE finalized_at < now() - interval '1 hour'`)
			require.ElementsMatch(t, test.kept, kept)
		})
	}
}

func TestRetention_LeavesOtherServicesToTheirOwn(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	const columns, values = `kind, state, metadata, finalized_at, scheduled_at`, `.job', 'cancelled', '{"everytick_skipped": "skipped: late"}', now() - interval '25 hours', now()`
	insertRows(t, pool, 1, columns, `'a`+values)
	insertRows(t, pool, 1, columns, `'b`+values)
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "the skipped job is deleted", func() bool { return scalar[int](t, pool, `SELECT count(*) FROM river.river_job`) == 1 })
	require.Equal(t, "b.job", scalar[string](t, pool, `SELECT kind FROM river.river_job`))
	runs, err := s.Runs(t.Context(), "a.job", 1)
	require.NoError(t, err)
	require.Equal(t, []jobs.Run{}, append([]jobs.Run{}, runs...))
}
