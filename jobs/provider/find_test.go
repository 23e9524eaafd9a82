package provider_test

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var (
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	farEd = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
)

func TestNewRunFilter_FillsInWhatTheQueryLeavesOut(t *testing.T) {
	t.Parallel()
	f, err := provider.NewRunFilter(jobs.RunQuery{})
	require.NoError(t, err)
	require.Len(t, f.States, 8)
	require.Equal(t, 100, f.Limit)
	require.Empty(t, f.Names)
	require.Zero(t, f.After)

	f, err = provider.NewRunFilter(jobs.RunQuery{
		Names: []string{"b.job", "a.job", "b.job"}, States: []jobs.State{jobs.StateFailed, jobs.StateFailed},
		Since: noon, Until: noon.Add(1), Limit: 1000,
	})
	require.NoError(t, err)
	require.Equal(t, provider.RunFilter{
		Names: []string{"a.job", "b.job"}, States: []jobs.State{jobs.StateFailed},
		Since: noon, Until: noon.Add(1), Limit: 1000,
	}, f)
}

func TestNewRunFilter_RefusesBadQueries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		q    jobs.RunQuery
		want string
	}{
		{"negative limit", jobs.RunQuery{Limit: -1}, "Limit -1: must be 1 to 1,000, or 0 for 100"},
		{"large limit", jobs.RunQuery{Limit: 1001}, "Limit 1001: must be 1 to 1,000"},
		{"unknown state", jobs.RunQuery{States: []jobs.State{"failed", "discarded"}}, `"discarded": must be scheduled, waiting, running, `},
		{"empty state", jobs.RunQuery{States: []jobs.State{""}}, `States has ""`},
		{"time after all", jobs.RunQuery{Since: farEd}, "Since is 10000-01-01 00:00:00 +0000 UTC: must be in the years 1 to 9999"},
		{"time before all", jobs.RunQuery{Until: time.Time{}.Add(-1)}, "Until is 0000-12-31"},
		{"nothing between", jobs.RunQuery{Since: noon, Until: noon}, "Until is 2026-03-01 12:00:00 +0000 UTC: must be after Since"},
		{"cursor", jobs.RunQuery{After: "5"}, `After is "5": must be Next of a page`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := provider.NewRunFilter(c.q)
			require.ErrorIs(t, err, jobs.ErrInvalidOption)
			require.ErrorContains(t, err, "FindRuns: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestNewBulkFilters_LeaveTheStatesTheyApplyTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		states        []jobs.State
		retry, cancel []jobs.State
	}{
		{
			"all", nil,
			[]jobs.State{jobs.StateRetrying, jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped},
			[]jobs.State{jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying},
		},
		{
			"some",
			[]jobs.State{jobs.StateFailed, jobs.StateRetrying, jobs.StateRunning},
			[]jobs.State{jobs.StateRetrying, jobs.StateFailed},
			[]jobs.State{jobs.StateRunning, jobs.StateRetrying},
		},
		{"none", []jobs.State{jobs.StateCompleted}, []jobs.State{}, []jobs.State{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, err := provider.NewRetryFilter(jobs.RunQuery{States: c.states})
			require.NoError(t, err)
			require.Equal(t, c.retry, f.States)
			f, err = provider.NewCancelFilter(jobs.RunQuery{States: c.states})
			require.NoError(t, err)
			require.Equal(t, c.cancel, f.States)
		})
	}
}

func TestNewBulkFilters_RefusePages(t *testing.T) {
	t.Parallel()
	for _, q := range []jobs.RunQuery{{Limit: 10}, {After: provider.RunCursor{At: noon, ID: 1}.String()}} {
		_, err := provider.NewRetryFilter(q)
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, "RetryMany: Limit and After are for FindRuns")
		_, err = provider.NewCancelFilter(q)
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, "CancelMany means all runs that match")
	}
}

func TestRunFilter_Match(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		q     jobs.RunQuery
		state jobs.State
		at    time.Time
		want  bool
	}{
		{"no bounds", jobs.RunQuery{}, jobs.StateFailed, noon, true},
		{"at Since", jobs.RunQuery{Since: noon}, jobs.StateFailed, noon, true},
		{"before Since", jobs.RunQuery{Since: noon}, jobs.StateFailed, noon.Add(-1), false},
		{"before Until", jobs.RunQuery{Until: noon}, jobs.StateFailed, noon.Add(-1), true},
		{"at Until", jobs.RunQuery{Until: noon}, jobs.StateFailed, noon, false},
		{"its state", jobs.RunQuery{States: []jobs.State{jobs.StateFailed}}, jobs.StateFailed, noon, true},
		{"another state", jobs.RunQuery{States: []jobs.State{jobs.StateFailed}}, jobs.StateSkipped, noon, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, err := provider.NewRunFilter(c.q)
			require.NoError(t, err)
			require.Equal(t, c.want, f.Match(c.state, c.at))
		})
	}
}

func TestRunCursor_OrdersLatestFirst(t *testing.T) {
	t.Parallel()
	order := []provider.RunCursor{
		{At: noon.Add(1), ID: 1}, {At: noon, ID: 3}, {At: noon, ID: 2}, {At: noon.Add(-time.Hour), ID: 9},
	}
	for i, c := range order {
		for j, d := range order {
			require.Equal(t, sign(i-j), sign(c.Compare(d)), "%v and %v", c, d)
		}
	}
}

func sign(n int) int { return min(1, max(-1, n)) }

func TestRunCursor_IsReadBackUnchanged(t *testing.T) {
	t.Parallel()
	for _, c := range []provider.RunCursor{
		{At: noon, ID: 1},
		{At: noon.Add(123_456_789), ID: math.MaxInt64},
		{At: time.Unix(-1, 1).UTC(), ID: math.MinInt64},
		{At: time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), ID: 0},
		{At: time.Time{}.Add(1), ID: 5},
	} {
		text := c.String()
		require.NotContains(t, text, "/")
		f, err := provider.NewRunFilter(jobs.RunQuery{After: text})
		require.NoError(t, err, text)
		require.Equal(t, c, f.After)
	}
}

func TestRunCursor_ForgeriesAreRefused(t *testing.T) {
	t.Parallel()
	valid := provider.RunCursor{At: noon, ID: 77}.String()
	raw, err := base64.RawURLEncoding.DecodeString(valid)
	require.NoError(t, err)
	changed := func(i int, b byte) string {
		other := append([]byte(nil), raw...)
		other[i] = b
		return base64.RawURLEncoding.EncodeToString(other)
	}
	for name, text := range map[string]string{
		"one more":       valid + "A",
		"one less":       valid[:len(valid)-1],
		"four less":      valid[:len(valid)-4],
		"padding":        valid + "==",
		"newline":        valid + "\n",
		"not base64":     strings.Repeat("*", len(valid)),
		"version":        changed(0, 2),
		"year":           changed(1, 0x70),
		"no time":        provider.RunCursor{ID: 77}.String(),
		"nanoseconds":    changed(9, 0xff),
		"very long":      strings.Repeat("A", 1<<20),
		"a run's ID":     "12345",
		"SQL":            "' OR 1=1 --",
		"the empty JSON": "{}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := provider.NewRunFilter(jobs.RunQuery{After: text})
			require.ErrorIs(t, err, jobs.ErrInvalidOption)
			require.Less(t, len(err.Error()), 300)
		})
	}
}
