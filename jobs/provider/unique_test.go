package provider_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

func TestDecideKey(t *testing.T) {
	t.Parallel()
	const (
		inserts  = provider.KeyInsert
		returns  = provider.KeyReturn
		replaces = provider.KeyReplace
	)
	for _, test := range []struct {
		latest                jobs.State
		live, waiting, newest provider.KeyAction
	}{
		{"", inserts, inserts, inserts},
		{jobs.StateScheduled, returns, returns, replaces},
		{jobs.StateWaiting, returns, returns, replaces},
		{jobs.StateRetrying, returns, returns, replaces},
		{jobs.StateRunning, returns, inserts, inserts},
		{jobs.StateCompleted, inserts, inserts, inserts},
		{jobs.StateFailed, inserts, inserts, inserts},
		{jobs.StateCancelled, inserts, inserts, inserts},
		{jobs.StateSkipped, inserts, inserts, inserts},
	} {
		require.Equal(t, test.live, provider.DecideKey(jobs.UniqueModeLive, test.latest), "Unique, %q", test.latest)
		require.Equal(t, test.waiting, provider.DecideKey(jobs.UniqueModeWaiting, test.latest), "UniqueWaiting, %q", test.latest)
		require.Equal(t, test.newest, provider.DecideKey(jobs.UniqueModeLatest, test.latest), "Latest, %q", test.latest)
	}
}

func TestReplacedDue(t *testing.T) {
	t.Parallel()
	early := time.Date(2026, 3, 7, 12, 0, 0, 0, time.UTC)
	late := early.Add(time.Minute)
	for _, test := range []struct {
		name     string
		started  bool
		old, due time.Time
		want     time.Time
	}{
		{"put off", false, early, late, late},
		{"brought forward", false, late, early, early},
		{"a retry is put off", true, early, late, late},
		{"a retry is not brought forward", true, late, early, late},
	} {
		require.Equal(t, test.want, provider.ReplacedDue(test.started, test.old, test.due), test.name)
	}
}

func TestDefinition_RequestsRefusesKeys(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.NoError(t, r.RegisterDelayed("a.job", 0, nothing))
	d, err := r.Job("a.job")
	require.NoError(t, err)
	for want, opt := range map[string]jobs.TriggerOption{
		"Unique does not apply":        jobs.Unique("key"),
		"UniqueWaiting does not apply": jobs.UniqueWaiting("key"),
		"Latest does not apply":        jobs.Latest("key"),
	} {
		_, err := d.Requests(nil, opt)
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, want)
	}
}
