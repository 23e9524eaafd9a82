package queues_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/queues"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Another name would leave waiting runs in a queue without workers until they are late.
func TestQueues_NamesArePinned(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("q", 64)
	for name, row := range map[string]struct {
		main, job string
		opts      []jobs.Option
		want      string
	}{
		"the main queue":              {"default", "a.job", nil, "default"},
		"its own":                     {"default", "a.job", []jobs.Option{jobs.Concurrency(2)}, "a-job-f4fe33f4"},
		"its own, whatever the main":  {"other", "a.job", []jobs.Option{jobs.Concurrency(2)}, "a-job-f4fe33f4"},
		"a long name":                 {"default", "a." + long, []jobs.Option{jobs.Concurrency(2)}, "a-" + strings.Repeat("q", 46) + "-196d0640"},
		"transactional":               {"default", "a.job", []jobs.Option{jobs.Transactional()}, "default-tx"},
		"transactional, with its own": {"default", "a.job", []jobs.Option{jobs.Transactional(), jobs.Concurrency(2)}, "a-job-f4fe33f4"},
		"transactional, no room":      {long, "a.job", []jobs.Option{jobs.Transactional()}, strings.Repeat("q", 48) + "-b23a1f49"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := queues.New(row.main).Of(register(t, row.job, row.opts...))
			require.Equal(t, row.want, got)
			require.True(t, queues.Valid(got))
		})
	}
}

func register(t testing.TB, name string, opts ...jobs.Option) *provider.Definition {
	t.Helper()
	reg, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, reg.RegisterDelayed(name, 0, func(context.Context, *jobs.Job) error { return nil }, opts...))
	d, err := reg.Job(name)
	require.NoError(t, err)
	return d
}

func TestQueues_WorkersCountsThoseOfEachQueue(t *testing.T) {
	t.Parallel()
	q := queues.New("main")
	own, tx := register(t, "a.own", jobs.Concurrency(2)), register(t, "a.tx", jobs.Transactional())
	w, err := q.Workers([]*provider.Definition{register(t, "a.job"), own, tx}, 7, 20)
	require.NoError(t, err)
	require.Len(t, w, 3)
	require.Equal(t, 7, w["main"].N)
	require.Equal(t, 2, w[q.Of(own)].N)
	require.Equal(t, 7+2+w["main-tx"].N, w.Count())

	slots := w[q.Of(own)]
	slots.Take()
	full := slots.Full()
	require.Equal(t, 1, w.Busy())
	slots.Take()
	require.True(t, slots.Full().After(full), "all were taken")
	slots.Free()
	require.Equal(t, 1, slots.Taken())

	_, err = q.Workers([]*provider.Definition{tx}, 7, 1)
	require.Error(t, err)
}
