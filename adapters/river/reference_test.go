package river_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

func reference(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/reference.md")
	require.NoError(t, err)
	return string(page)
}

func TestReference_NamesEveryColumnAndMetadataKey(t *testing.T) {
	t.Parallel()
	page := reference(t)
	rows, err := migrated.Pool(t).Query(t.Context(), `SELECT column_name FROM information_schema.columns WHERE table_name LIKE 'everytick%'`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, names)

	ours := regexp.MustCompile(`\beverytick_[a-z_]+`)
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || strings.HasSuffix(path, "_test.go") || !slices.Contains([]string{".go", ".sql"}, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		names = append(names, ours.FindAllString(string(text), -1)...)
		return err
	}))
	for _, name := range names {
		if !strings.HasPrefix(name, "everytick_job_") && name != "everytick_schedule_next_tick" { // indexes
			require.Contains(t, page, "`"+name+"`")
		}
	}
}

// The page's statements leave a schema that River's migrations accept and its workers can use.
func TestReference_UninstallingLeavesRiverWorking(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.Concurrency(1)))
	require.NoError(t, s.RegisterDelayed("a.paused", 0, noop))
	for _, name := range []string{"a.job", "a.paused"} {
		_, err := s.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
	}
	require.NoError(t, s.Pause(t.Context(), "a.paused"))

	_, after, found := strings.Cut(reference(t), "\n## Uninstalling\n")
	require.True(t, found)
	_, after, _ = strings.Cut(after, "```sql\n")
	statements, _, _ := strings.Cut(after, "```")
	for statement := range strings.SplitSeq(strings.TrimSpace(statements), ";") {
		execSQL(t, pool, statement)
	}
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM pg_class WHERE relname LIKE 'everytick%'`))

	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: river.DefaultSchema, Logger: quiet()})
	require.NoError(t, err)
	res, err := migrator.Validate(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, res.OK, "%v", res.Messages)
	ran := make(chan string, 10)
	workers := riverqueue.NewWorkers()
	for _, name := range []string{"a.job", "a.paused"} {
		riverqueue.AddWorkerArgs(workers, anyArgs{name}, riverqueue.WorkFunc(func(_ context.Context, job *riverqueue.Job[anyArgs]) error {
			ran <- job.Kind
			return nil
		}))
	}
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{
		Schema: river.DefaultSchema, Workers: workers, Logger: quiet(),
		Queues: map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 10}},
	})
	require.NoError(t, err)
	require.NoError(t, client.Start(t.Context()))
	t.Cleanup(func() { _ = client.Stop(context.Background()) })
	require.ElementsMatch(t, []string{"a.job", "a.paused"}, []string{receive(t, ran), receive(t, ran)})
}

type anyArgs struct{ kind string }

func (a anyArgs) Kind() string { return a.kind }
