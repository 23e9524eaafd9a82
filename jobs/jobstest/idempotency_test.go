package jobstest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

func TestRecorder_RecordsARepeatedTriggerOnce(t *testing.T) {
	t.Parallel()
	rec := newRecorder(t)
	require.NoError(t, rec.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	for range 3 {
		_, err := rec.Trigger(t.Context(), "test.job", nil, jobs.IdempotencyKey("key"))
		require.NoError(t, err)
	}
	_, err := rec.Trigger(t.Context(), "test.job", map[string]int{"n": 1}, jobs.IdempotencyKey("key"))
	require.ErrorIs(t, err, jobs.ErrKeyReused)
	require.Len(t, rec.Enqueued("test.job"), 1)
	require.Equal(t, "key", rec.RequireEnqueued(t, "test.job").IdempotencyKey)
}
