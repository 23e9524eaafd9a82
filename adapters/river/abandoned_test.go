package river_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func TestHealth_ReportsRunsOfJobsThatNobodyRegisters(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.paused", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	const columns = `kind, state, scheduled_at`
	abandoned := func() (texts []string) {
		t.Helper()
		h, err := s.Health(t.Context())
		require.NoError(t, err)
		for _, r := range h.Reasons {
			if strings.Contains(r.Text, "registered by no live process") {
				texts = append(texts, r.String())
			}
		}
		return texts
	}
	insertRows(t, pool, 1, columns, `'a.recent', 'available', now() - interval '50 seconds'`)
	insertRows(t, pool, 1, columns, `'a.delayed', 'scheduled', now() + interval '1 hour'`)
	insertRows(t, pool, 1, columns+`, queue`, `'a.set-aside', 'available', now() - interval '1 hour', '`+river.PausedQueue+`'`)
	insertRows(t, pool, 1, columns, `'plain.river', 'available', now() - interval '1 hour'`)
	insertRows(t, pool, 1, columns+`, attempt, attempted_by`, `'plain.river', 'running', now() - interval '1 hour', 1, '{client}'`)
	execSQL(t, pool, `INSERT INTO river.everytick_process (id, beat, host, pid, version, registrations, jobs, workers, busy, started_at, seen_at)
		VALUES ('other', 9, '', 5, '', '', '{other.services-job}', 10, 0, now(), now()),
			('dead', 9, '', 5, '', '', '{a.removed}', 10, 0, now(), now() - interval '31 seconds'),
			('gone', 0, '', 5, '', '', '{a.removed}', 10, 0, now(), now())`)
	insertRows(t, pool, 1, columns, `'other.services-job', 'available', now() - interval '1 hour'`)
	require.Empty(t, abandoned())
	stopped := newScheduler(t, pool, river.Config{})
	require.NoError(t, stopped.RegisterDelayed("a.stopped", 0, noop))
	insertRows(t, pool, 1, columns, `'a.stopped', 'available', now() - interval '1 hour'`)
	h, err := stopped.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, []jobs.Reason{{Text: "the scheduler is not started"}}, h.Reasons)
	execSQL(t, pool, `DELETE FROM river.river_job WHERE kind = 'a.stopped'`)

	insertRows(t, pool, 3, columns, `'a.removed', 'available', now() - interval '1 hour'`)
	insertRows(t, pool, 1, columns+`, attempt, attempted_by`, `'a.removed', 'running', now() - interval '2 hours', 1, '{dead}'`)
	insertRows(t, pool, 600, columns, `'a.renamed', 'available', now() - interval '2 minutes'`)
	got := abandoned()
	require.Len(t, got, 2)
	require.Regexp(t, `^a\.removed is registered by no live process, and runs of it wait \(4, due for 2h0m\d+s\)$`, got[0])
	require.Regexp(t, `^a\.renamed is registered by no live process, and runs of it wait \(500 or more, due for 2m\d+s\)$`, got[1])

	other := newScheduler(t, pool, river.Config{})
	for _, name := range []string{"a.removed", "a.renamed"} {
		require.NoError(t, other.RegisterDelayed(name, 0, func(ctx context.Context, _ *jobs.Job) error {
			<-ctx.Done()
			return ctx.Err()
		}, jobs.Concurrency(1)))
	}
	require.NoError(t, other.Start(t.Context()))
	eventually(t, "the jobs have a process", func() bool { return len(abandoned()) == 0 })
}
