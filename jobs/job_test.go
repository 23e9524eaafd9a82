package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var quiet = slog.New(slog.DiscardHandler)

func newRegistry(t require.TestingT) *provider.Registry {
	r, err := provider.NewRegistry()
	require.NoError(t, err)
	return r
}

func at(t require.TestingT, rfc3339 string) time.Time {
	v, err := time.Parse(time.RFC3339, rfc3339)
	require.NoError(t, err)
	return v.UTC()
}

// permanent reports whether err fails a run for good.
func permanent(err error) bool {
	_, again := (&provider.Definition{}).Retry(&jobs.Job{Attempt: 1, MaxAttempts: 3}, err)
	return !again
}

func TestPermanentAndRetryAfter_WrapTheError(t *testing.T) {
	t.Parallel()
	cause := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
	for _, test := range []struct {
		rule string
		mark func(error) error
		want string
	}{
		{"Permanent", jobs.Permanent, "open x: file does not exist"},
		{"RetryAfter", func(err error) error { return jobs.RetryAfter(90*time.Second, err) }, "open x: file does not exist (retry after 1m30s)"},
		{"RetryAfter with a negative delay", func(err error) error { return jobs.RetryAfter(math.MinInt64, err) }, "open x: file does not exist (retry after 0s)"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, test.mark(nil), "nil remains nil")
			err := fmt.Errorf("outer: %w", test.mark(cause))
			require.ErrorIs(t, err, fs.ErrNotExist)
			var path *fs.PathError
			require.ErrorAs(t, err, &path)
			require.Same(t, cause, path)
			require.EqualError(t, err, "outer: "+test.want)
		})
	}
}

func TestErrors_AreDistinct(t *testing.T) {
	t.Parallel()
	all := []error{
		jobs.ErrDuplicate, jobs.ErrInvalidName, jobs.ErrInvalidSchedule, jobs.ErrInvalidOption, jobs.ErrInvalidData,
		jobs.ErrUnknownJob, jobs.ErrStarted, jobs.ErrNotStarted, jobs.ErrNotCompleted,
	}
	for i, a := range all {
		require.Regexp(t, `^jobs: [a-z ]+$`, a.Error())
		for j, b := range all {
			require.Equal(t, i == j, errors.Is(a, b))
		}
	}
}

func TestJob_Late(t *testing.T) {
	t.Parallel()
	tick := at(t, "2025-01-01T03:00:00Z")
	require.Equal(t, 7*time.Second, (&jobs.Job{Tick: tick, StartedAt: tick.Add(7 * time.Second)}).Late())
	require.Zero(t, (&jobs.Job{Tick: tick, StartedAt: tick}).Late())
	require.Zero(t, (&jobs.Job{Tick: tick, StartedAt: tick.Add(-time.Second)}).Late(), "never negative")
	require.Zero(t, (&jobs.Job{StartedAt: tick}).Late(), "a triggered run has no tick")
}

func TestJob_LogValueOmitsTheData(t *testing.T) {
	t.Parallel()
	job := &jobs.Job{
		ID: "7", Name: "a.b", Data: raw(`{"password":"secret"}`), Attempt: 2, MaxAttempts: 3,
		Tick: at(t, "2025-01-01T03:00:00Z"), StartedAt: at(t, "2025-01-01T03:00:01Z"), Logger: quiet,
	}
	require.Equal(t, "[job=a.b job_id=7 attempt=2 max_attempts=3 tick=2025-01-01 03:00:00 +0000 UTC]", job.LogValue().String())
	job.Missed = 3
	require.Equal(t, "[job=a.b job_id=7 attempt=2 max_attempts=3 tick=2025-01-01 03:00:00 +0000 UTC missed=3]", job.LogValue().String())

	for _, handler := range []func(io.Writer) slog.Handler{
		func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var log strings.Builder
		slog.New(handler(&log)).Info("failed", "job", job)
		require.Contains(t, log.String(), "a.b")
		require.NotContains(t, log.String(), "secret")
		require.NotContains(t, log.String(), "115 101 99 114 101 116", "nor its bytes")
	}

	job.Tick, job.Missed = time.Time{}, 0
	require.Equal(t, "[job=a.b job_id=7 attempt=2 max_attempts=3]", job.LogValue().String(), "a triggered run has no tick")
}

func TestJob_Decode(t *testing.T) {
	t.Parallel()
	var got text
	require.NoError(t, (&jobs.Job{Data: raw(`{"text":"x","other":1}`)}).Decode(&got))
	require.Equal(t, text{"x"}, got)

	for _, data := range []string{``, `{`, `{"text":1}`, `[]`, `"x"`} {
		err := (&jobs.Job{Name: "a.b", Data: raw(`%s`, data)}).Decode(&got)
		require.ErrorContains(t, err, `jobs: data of "a.b" does not decode: `)
		require.True(t, permanent(err), "a retry cannot help")
	}
	var mismatch *json.UnmarshalTypeError
	require.ErrorAs(t, (&jobs.Job{Data: raw(`{"text":1}`)}).Decode(&got), &mismatch)
}

// triggers is a Triggerer that records its arguments.
type triggers struct {
	name string
	data any
	opts []jobs.TriggerOption
}

func (r *triggers) Trigger(_ context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	*r = triggers{name, data, opts}
	return "7", io.EOF
}

func (r *triggers) TriggerMany(_ context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	*r = triggers{name, data, opts}
	return []string{"7", "8"}, io.EOF
}

// txTriggers is a TxTriggerer that records its arguments.
type txTriggers struct {
	triggers
	tx pgx.Tx
}

func (r *txTriggers) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	r.tx = tx
	return r.Trigger(ctx, name, data, opts...)
}

func (r *txTriggers) TriggerManyTx(ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	r.tx = tx
	return r.TriggerMany(ctx, name, data, opts...)
}

func TestJob_OutcomeClassifiesAttempts(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithTimeout(t.Context(), 0)
	defer stop()
	failure := errors.New("no")
	for want, test := range map[string]struct {
		ctx     context.Context
		attempt int
		err     error
	}{
		"completed":   {t.Context(), 1, nil},
		"retried":     {late, 1, failure},
		"failed":      {t.Context(), 3, failure},
		"interrupted": {cancelled, 1, failure},
		"snoozed":     {late, 3, jobs.Snooze(time.Hour, "not yet")},
	} {
		job := &jobs.Job{Attempt: test.attempt, MaxAttempts: 3}
		require.Equal(t, want, job.Outcome(test.ctx, test.err))
	}
	require.Equal(t, "failed", (&jobs.Job{Attempt: 1, MaxAttempts: 3}).Outcome(t.Context(), jobs.Permanent(failure)))
}

func TestSnoozed_FindsTheSnoozeOfAnError(t *testing.T) {
	t.Parallel()
	snooze := jobs.Snooze(time.Hour, "not yet")
	require.EqualError(t, snooze, "snoozed for 1h0m0s: not yet")
	for name, test := range map[string]struct {
		err    error
		after  time.Duration
		reason string
	}{
		"a snooze":               {snooze, time.Hour, "not yet"},
		"a wrapped one":          {fmt.Errorf("the API: %w", snooze), time.Hour, "not yet"},
		"one inside RetryAfter":  {jobs.RetryAfter(time.Minute, snooze), time.Hour, "not yet"},
		"one without a reason":   {jobs.Snooze(time.Hour, ""), time.Hour, ""},
		"less than a second":     {jobs.Snooze(time.Second-1, "soon"), time.Second, "soon"},
		"no time":                {jobs.Snooze(0, "soon"), time.Second, "soon"},
		"a time that has passed": {jobs.Snooze(-time.Hour, "soon"), time.Second, "soon"},
		"as long as can be":      {jobs.Snooze(math.MaxInt64, "never"), math.MaxInt64, "never"},
	} {
		after, reason, ok := jobs.Snoozed(test.err)
		require.True(t, ok, name)
		require.Equal(t, test.after, after, name)
		require.Equal(t, test.reason, reason, name)
		require.True(t, (&jobs.Job{Attempt: 3, MaxAttempts: 3}).Retries(test.err), name)
	}
	for name, err := range map[string]error{
		"success": nil, "a failure": io.EOF, "RetryAfter": jobs.RetryAfter(time.Hour, io.EOF), "a panic": &jobs.PanicError{Value: snooze},
		"a snooze inside Permanent": jobs.Permanent(snooze), "one beside Permanent": errors.Join(snooze, jobs.Permanent(io.EOF)),
	} {
		_, _, ok := jobs.Snoozed(err)
		require.False(t, ok, name)
	}
}

func TestKind_Register(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	r := newRegistry(t)
	var calls []text
	require.NoError(t, kind.Register(r, func(_ context.Context, job *jobs.Job, args text) error {
		require.Equal(t, "7", job.ID)
		calls = append(calls, args)
		return io.EOF
	}, jobs.MaxRetries(5)))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.Equal(t, 6, d.MaxAttempts)
	require.Zero(t, d.Delay, "on demand")
	require.Nil(t, d.Schedule)

	require.ErrorIs(t, d.Run(t.Context(), &jobs.Job{ID: "7", Data: raw(`{"text":"x"}`)}, quiet), io.EOF)
	require.Equal(t, []text{{"x"}}, calls)

	err = d.Run(t.Context(), &jobs.Job{ID: "7", Name: "a.b", Data: raw(`{"text":1}`)}, quiet)
	require.ErrorContains(t, err, "does not decode")
	require.True(t, permanent(err))
	require.Len(t, calls, 1, "the handler is not called")
}

func TestKind_RegistersEachSortOfJob(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	var calls []text
	h := func(_ context.Context, _ *jobs.Job, args text) error {
		calls = append(calls, args)
		return nil
	}
	hourly, err := jobs.Every(time.Hour)
	require.NoError(t, err)
	spare := make([]jobs.Option, 1, 5)
	spare[0] = jobs.MaxRetries(5)
	for _, test := range []struct {
		name     string
		register func(r jobs.Registrar) error
		schedule string
		delay    time.Duration
		data     string
	}{
		{"Register", func(r jobs.Registrar) error { return kind.Register(r, h, spare...) }, "on demand", 0, `{}`},
		{"RegisterDelayed", func(r jobs.Registrar) error { return kind.RegisterDelayed(r, time.Minute, h, spare...) }, "after 1m0s", time.Minute, `{}`},
		{"RegisterCron", func(r jobs.Registrar) error { return kind.RegisterCron(r, "0 3 * * *", text{"x"}, h, spare...) }, "0 3 * * *", 0, `{"text":"x"}`},
		{"RegisterInterval", func(r jobs.Registrar) error { return kind.RegisterInterval(r, time.Hour, text{"y"}, h, spare...) }, "every 1h0m0s", 0, `{"text":"y"}`},
		{"RegisterSchedule", func(r jobs.Registrar) error { return kind.RegisterSchedule(r, hourly, text{"z"}, h, spare...) }, "every 1h0m0s", 0, `{"text":"z"}`},
	} {
		r := newRegistry(t)
		require.NoError(t, test.register(r), test.name)
		d, err := r.Job("a.b")
		require.NoError(t, err)
		schedule, _ := d.Describe()
		require.Equal(t, test.schedule, schedule, test.name)
		require.Equal(t, test.delay, d.Delay, test.name)
		require.Equal(t, 6, d.MaxAttempts, test.name)
		require.Equal(t, test.data, string(d.Data), test.name)
		calls = nil
		require.NoError(t, d.Run(t.Context(), &jobs.Job{Data: d.Data}, quiet))
		require.Len(t, calls, 1, test.name)
	}
	require.Nil(t, spare[:2][1], "the caller's slice is not written to")

	r := newRegistry(t)
	for _, err := range []error{
		kind.Register(r, nil), kind.RegisterDelayed(r, 0, nil), kind.RegisterCron(r, "@daily", text{}, nil), kind.RegisterInterval(r, time.Hour, text{}, nil),
		kind.RegisterSchedule(r, hourly, text{}, nil),
	} {
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, "handler is nil")
	}
	require.ErrorIs(t, kind.RegisterInterval(r, time.Hour, text{"a\xffb"}, h), jobs.ErrInvalidData)
	require.ErrorIs(t, jobs.Kind[*text]("a.b").RegisterCron(r, "@daily", nil, func(context.Context, *jobs.Job, *text) error { return nil }), jobs.ErrInvalidData)
	require.NoError(t, kind.RegisterInterval(r, time.Hour, text{"x"}, h, jobs.Data(7)))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.JSONEq(t, `{"text":"x"}`, string(d.Data), "the data with the type")
}

func TestKind_Trigger(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	var plain triggers
	id, err := kind.Trigger(t.Context(), &plain, text{"x"}, jobs.Delay(1), jobs.Priority(2))
	require.Equal(t, "7", id)
	require.Equal(t, io.EOF, err)
	require.Equal(t, "a.b", plain.name)
	require.Equal(t, text{"x"}, plain.data)
	require.Len(t, plain.opts, 2)
}

func TestKind_TriggerMany(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	var plain triggers
	ids, err := kind.TriggerMany(t.Context(), &plain, []text{{"x"}, {"y"}}, jobs.Priority(2))
	require.Equal(t, []string{"7", "8"}, ids)
	require.Equal(t, io.EOF, err)
	require.Equal(t, "a.b", plain.name)
	require.Equal(t, []any{text{"x"}, text{"y"}}, plain.data)
	require.Len(t, plain.opts, 1)
}

// An encoder encodes itself.
type encoder int

func (encoder) MarshalJSON() ([]byte, error) { return []byte(`{}`), nil }

func TestKind_RegisterRefusesTypesThatNeverEncodeAsObjects(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.ErrorIs(t, register[int](r), jobs.ErrInvalidData)
	require.ErrorContains(t, register[int](r), `for "a.b": type int does not encode as a JSON object`)
	require.ErrorIs(t, register[*string](r), jobs.ErrInvalidData)
	require.ErrorIs(t, register[[]text](r), jobs.ErrInvalidData)
	require.Empty(t, r.Jobs())
	for i, err := range []error{
		register[text](newRegistry(t)), register[*text](newRegistry(t)), register[map[string]int](newRegistry(t)), register[any](newRegistry(t)),
		register[json.RawMessage](newRegistry(t)), register[encoder](newRegistry(t)),
	} {
		require.NoError(t, err, i)
	}
}

func register[T any](r *provider.Registry) error {
	const kind jobs.Kind[T] = "a.b"
	h := func(context.Context, *jobs.Job, T) error { return nil }
	err := kind.Register(r, h)
	if err == nil {
		return nil
	}
	var zero T
	for _, other := range []error{
		kind.RegisterDelayed(r, 0, h), kind.RegisterCron(r, "@daily", zero, h), kind.RegisterInterval(r, time.Hour, zero, h),
		kind.RegisterSchedule(r, jobs.AnyOf(), zero, h),
	} {
		if other == nil || other.Error() != err.Error() {
			return fmt.Errorf("%w, but another method returns %w", err, other)
		}
	}
	return err
}

func TestTriggerTx_NeedsTheRole(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	tx := struct{ pgx.Tx }{}
	var inTx txTriggers
	id, err := kind.TriggerTx(t.Context(), &inTx, tx, text{"x"}, jobs.Unique("k"))
	require.Equal(t, "7", id)
	require.Equal(t, io.EOF, err)
	require.Equal(t, tx, inTx.tx)
	require.Equal(t, "a.b", inTx.name)
	require.Equal(t, text{"x"}, inTx.data)
	require.Len(t, inTx.opts, 1)

	var plain triggers
	id, err = jobs.TriggerTx(t.Context(), &plain, tx, "a.b", nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "jobs: *jobs_test.triggers cannot trigger in a transaction")
	require.Empty(t, id)
	require.Empty(t, plain.name, "nothing is triggered")
}

func TestTriggerManyTx_NeedsTheRole(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	tx := struct{ pgx.Tx }{}
	var inTx txTriggers
	ids, err := kind.TriggerManyTx(t.Context(), &inTx, tx, []text{{"x"}, {"y"}}, jobs.Priority(2))
	require.Equal(t, []string{"7", "8"}, ids)
	require.Equal(t, io.EOF, err)
	require.Equal(t, tx, inTx.tx)
	require.Equal(t, "a.b", inTx.name)
	require.Equal(t, []any{text{"x"}, text{"y"}}, inTx.data)
	require.Len(t, inTx.opts, 1)

	var plain triggers
	ids, err = jobs.TriggerManyTx(t.Context(), &plain, tx, "a.b", []any{nil})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "jobs: *jobs_test.triggers cannot trigger in a transaction")
	require.Empty(t, ids)
	require.Empty(t, plain.name, "nothing is triggered")
}
