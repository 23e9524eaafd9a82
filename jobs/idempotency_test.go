package jobs_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

func TestIdempotencyKey_FingerprintIsThatOfTheTrigger(t *testing.T) {
	t.Parallel()
	type data struct{ N int }
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	of := func(data any, opts ...jobs.TriggerOption) string {
		req, err := jobs.NewRequest("a.job", data, append(opts, jobs.IdempotencyKey("key"))...)
		require.NoError(t, err)
		return req.Fingerprint
	}
	same := of(data{1})
	require.Len(t, same, 24)
	require.Equal(t, same, of(map[string]int{"N": 1}), "the same JSON")
	require.Equal(t, of(nil), of(struct{}{}))
	require.Equal(t, of(nil, jobs.At(at)), of(nil, jobs.At(at.In(time.FixedZone("", 3600)))))
	require.Equal(t, of(nil, jobs.Delay(time.Minute)), of(nil, jobs.At(at), jobs.Delay(time.Minute)), "the last one applies")
	require.Equal(t, of(nil, jobs.At(at)), of(nil, jobs.Delay(time.Minute), jobs.At(at)), "the last one applies")
	seen := map[string]bool{same: true}
	for _, other := range []string{
		of(data{2}), of(nil), of(data{1}, jobs.Priority(1)), of(data{1}, jobs.Priority(2)), of(data{1}, jobs.Delay(1*time.Second)), of(data{1}, jobs.Delay(0)),
		of(data{1}, jobs.At(at)), of(data{1}, jobs.At(at.Add(time.Nanosecond))),
	} {
		require.False(t, seen[other])
		seen[other] = true
	}
	req, err := jobs.NewRequest("a.job", data{1}, jobs.IdempotencyKey("other"))
	require.NoError(t, err)
	require.NotEqual(t, same, req.Fingerprint, "the key is part of it")
	req, err = jobs.NewRequest("a.job", data{1})
	require.NoError(t, err)
	require.Empty(t, req.Fingerprint, "without a key")
	for _, opts := range [][]jobs.TriggerOption{
		{jobs.IdempotencyKey("k"), jobs.Unique("k")}, {jobs.Unique("k"), jobs.IdempotencyKey("k")},
	} {
		_, err = jobs.NewRequest("a.job", nil, opts...)
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, "a trigger has one key")
	}
}
