package cron_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	robfig "github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Each row of testdata/facts.tsv says what we and four other parsers make of a pattern, and where we differ from one of
// them, why.
func TestFacts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/facts.tsv")
	require.NoError(t, err)
	rows, differing := 0, 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "# ") {
			continue
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		require.Len(t, f, 9, line)
		pattern, loc, after, ours, others, why := f[0], mustZone(t, f[1]), at(t, f[2]), f[3], f[4:8], f[8]
		first := func(s interface{ Next(time.Time) time.Time }, err error) string {
			if err != nil {
				return "refused"
			}
			if tick := s.Next(after.In(loc)); !tick.IsZero() {
				return tick.UTC().Format(time.RFC3339)
			}
			return "never"
		}
		require.Equal(t, ours, first(jobs.ParseCron(pattern, loc)), "%q in %s after %s", pattern, loc, after)
		if others[0] != "hangs" { // the version in go.mod still gives what the table says
			require.Equal(t, others[0], first(robfig.ParseStandard(pattern)), "robfig/cron: %q in %s after %s", pattern, loc, after)
		}
		differs := slices.ContainsFunc(others, func(other string) bool { return other != ours })
		require.Equal(t, differs, why != "", "the reason for %q in %s after %s", pattern, loc, after)
		rows++
		if differs {
			differing++
		}
	}
	require.Greater(t, rows, 100)
	require.Greater(t, differing, 50)
}
