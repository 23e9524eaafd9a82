package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/equal"
)

// What handlers get.
var handlerRules = []rule{
	{name: "a handler gets every field of its job", check: handlerGetsEveryField},
	{name: "a job's logger has the attributes job, job_id and attempt", check: loggerCarriesTheJob},
	{name: "a run keeps the ID that Trigger returned, and no other run has it", check: idStaysAndIsUnique},
	{name: "data arrives unchanged", check: dataArrivesUnchanged},
	{name: "data of any size below 1 MiB arrives", check: dataOfAnySizeArrives},
	{name: "data is {} if Trigger gets none", check: dataIsEmptyObjectByDefault},
	{name: "a Kind passes its arguments to the handler", check: kindPassesItsArguments},
	{name: "changes that a handler makes to its job end with the attempt", check: changesEndWithTheAttempt},
	{name: "the contexts of Start and Trigger don't reach handlers", check: callersContextsDoNotReachHandlers},
	{name: "a handler's context ends at the timeout", check: contextEndsAtTheTimeout},
	{name: "jobs don't block each other", check: jobsDoNotBlockEachOther},
}

func handlerGetsEveryField(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(4)))
	e.start()
	id := e.trigger("test.job", map[string]any{"user": 7})
	r := p.next()
	require.Equal(e, id, r.ID, "ID")
	require.Equal(e, "test.job", r.Name, "Name")
	require.JSONEq(e, `{"user": 7}`, string(r.Data), "Data")
	require.Equal(e, 1, r.Attempt, "Attempt")
	require.Equal(e, 5, r.MaxAttempts, "MaxAttempts")
	require.True(e, r.Tick.IsZero(), "Tick of a triggered job is %v, want zero", r.Tick)
	require.Zero(e, r.Late(), "Late of a triggered job")
	require.Zero(e, r.Missed, "Missed of a triggered job")
	require.WithinDuration(e, r.at, r.StartedAt, tolerance, "StartedAt")
	require.Equal(e, "UTC", r.StartedAt.Location().String(), "location of StartedAt")
	require.NotNil(e, r.Logger, "Logger")
	if e.h.DB != nil {
		require.True(e, e.h.DB(e.s) == r.DB, "DB is %T, not the one the scheduler was given", r.DB)
	}
}

func loggerCarriesTheJob(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		job.Logger.Info("logged by the handler")
		return errors.New("again")
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(1), jobs.RetryDelay(0)))
	e.start()
	id := e.trigger("test.job", nil)
	e.total(jobs.StateFailed, 1)
	said := e.logs.find("logged by the handler")
	require.Len(e, said, 2, "messages that reached the scheduler's logger in 2 attempts")
	for i, entry := range said {
		require.Equal(e, "test.job", entry.attrs["job"].String(), "attribute job")
		require.Equal(e, id, entry.attrs["job_id"].String(), "attribute job_id")
		require.Equal(e, slog.KindInt64, entry.attrs["attempt"].Kind(), "kind of the attribute attempt")
		require.EqualValues(e, i+1, entry.attrs["attempt"].Int64(), "attribute attempt")
	}
}

func idStaysAndIsUnique(e *env) {
	p := e.probe(fail(errors.New("again")))
	e.noError(e.s.RegisterDelayed("test.one", 0, p.handle, jobs.RetryDelay(0)))
	e.noError(e.s.RegisterDelayed("test.two", 0, p.handle, jobs.RetryDelay(0)))
	e.start()
	attempts := map[string]int{}
	for range 3 {
		for _, name := range []string{"test.one", "test.two"} {
			id := e.trigger(name, nil)
			require.NotContains(e, attempts, id, "an ID was returned twice")
			attempts[id] = 0
		}
	}
	for range 3 * len(attempts) {
		r := p.next()
		require.Contains(e, attempts, r.ID, "attempt %d of %s has an ID that no Trigger returned", r.Attempt, r.Name)
		attempts[r.ID]++
		require.Equal(e, attempts[r.ID], r.Attempt, "Attempt of %s", r.ID)
	}
}

func dataArrivesUnchanged(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	for what, data := range map[string]any{
		"nested":                          json.RawMessage(`{"a": {"b": [1, {"c": null}, [], {}, true, ""]}, "": 0}`),
		"unicode":                         map[string]string{"größe": "日本語 👩‍👩‍👧 \u2028 \ufffe", "€": "\t\n\"\\/"},
		"escapes":                         map[string]string{"html": `<b a='1'>&amp;</b>`, "sql": `'; drop table river_job; --`},
		"replacement":                     json.RawMessage(`{"meant": "` + "\ufffd" + `", "escaped": "\ufffd"}`),
		"replacement in JSON in a struct": struct{ Body json.RawMessage }{json.RawMessage(`{"text": "caf\ufffd"}`)},
		"large numbers":                   json.RawMessage(`{"int64": 9223372036854775807, "more": 123456789012345678901234567890, "tiny": 1.5e-300}`),
		"a struct": struct {
			At   time.Time `json:"at"`
			Raw  []byte    `json:"raw"`
			Some *int      `json:"some"`
		}{time.Date(2026, 2, 28, 23, 59, 59, 1, time.UTC), []byte{0, 1, 255}, nil},
	} {
		want, err := json.Marshal(data)
		e.noError(err)
		e.trigger("test.job", data)
		// JSONEq would convert numbers to float64.
		got := p.next().Data
		require.True(e, equal.JSON(want, got), "data (%s) arrives as %s, want %s", what, got, want)
	}
}

func dataOfAnySizeArrives(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	for _, size := range []int{100_000, jobs.MaxDataBytes - 1} {
		text := strings.Repeat("x", size-len(`{"x":""}`))
		e.trigger("test.job", map[string]string{"x": text})
		// The text is too long to show.
		require.True(e, text == e.decode(p.next())["x"], "the data of %d bytes has changed", size)
	}
	// A database may add spaces, and write numbers with more digits.
	dense := `{"x":[` + strings.Repeat("1,", 524_283) + `1]}`
	e.trigger("test.job", json.RawMessage(dense))
	require.True(e, dense == strings.ReplaceAll(string(p.next().Data), " ", ""), "a list of 524,284 numbers has changed")
	for _, n := range []string{"1e1000", "-1.5E-1000"} {
		data := json.RawMessage(`{"x":[` + strings.Repeat(n+",", 2000) + `1]}`)
		e.trigger("test.job", data)
		require.True(e, equal.JSON(data, p.next().Data), "2,000 times %s has changed", n)
	}
}

func dataIsEmptyObjectByDefault(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	require.Equal(e, "{}", string(p.next().Data))
	_, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil})
	e.noError(err)
	require.Equal(e, "{}", string(p.next().Data))
}

func kindPassesItsArguments(e *env) {
	type args struct {
		User int
		Tags []string
	}
	kind := jobs.Kind[args]("test.kind")
	got := make(chan args, 1)
	e.noError(kind.Register(e.s, func(_ context.Context, _ *jobs.Job, a args) error {
		got <- a
		return nil
	}))
	e.start()
	want := args{User: 7, Tags: []string{"a", "<b>"}}
	_, err := kind.Trigger(e.ctx, e.s, want)
	e.noError(err)
	require.Equal(e, want, receive(e, got, "the handler to be called"))
}

func changesEndWithTheAttempt(e *env) {
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		for i := range job.Data {
			job.Data[i] = 'x'
		}
		*job = jobs.Job{ID: "other", Name: "other.job", Attempt: 100, MaxAttempts: 1}
		return errors.New("again")
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
	e.start()
	id := e.trigger("test.job", map[string]int{"n": 1})
	for attempt := 1; attempt <= 3; attempt++ {
		r := p.next()
		require.Equal(e, attempt, r.Attempt, "Attempt")
		require.Equal(e, id, r.ID, "ID in attempt %d", attempt)
		require.JSONEq(e, `{"n": 1}`, string(r.Data), "Data in attempt %d", attempt)
	}
	e.total(jobs.StateFailed, 1)
}

func callersContextsDoNotReachHandlers(e *env) {
	release := e.gate()
	p := e.probe(release.wait)
	ended := make(chan error, 1)
	e.noError(e.s.RegisterDelayed("test.job", 0, func(ctx context.Context, job *jobs.Job) error {
		_ = p.handle(ctx, job)
		ended <- ctx.Err()
		return nil
	}))
	ctx, cancel := context.WithCancel(e.ctx)
	e.noError(e.s.Start(ctx))
	_, err := e.s.Trigger(ctx, "test.job", nil)
	e.noError(err)
	p.next()
	cancel()
	close(release.open)
	require.NoError(e, receive(e, ended, "the handler to end"), "the handler's context")
	e.trigger("test.job", nil)
	p.next()
	require.NoError(e, receive(e, ended, "the handler to end"), "the handler's context")
}

func contextEndsAtTheTimeout(e *env) {
	const timeout = time.Hour
	left := make(chan time.Duration, 1)
	e.noError(e.s.RegisterDelayed("test.job", 0, func(ctx context.Context, _ *jobs.Job) error {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		return nil
	}, jobs.Timeout(timeout)))
	e.start()
	e.trigger("test.job", nil)
	require.InDelta(e, timeout, receive(e, left, "the handler to be called"), float64(tolerance), "time until the deadline")
}

func jobsDoNotBlockEachOther(e *env) {
	// Five runs each of two jobs, all at once.
	const each = 5
	release := e.gate()
	p := e.probe(release.wait)
	for _, name := range []string{"test.one", "test.two"} {
		e.noError(e.s.RegisterDelayed(name, 0, p.handle))
	}
	e.start()
	for i := range each {
		e.trigger("test.one", map[string]int{"n": i})
		e.trigger("test.two", map[string]int{"n": i})
	}
	for range 2 * each {
		p.next()
	}
	close(release.open)
	e.total(jobs.StateCompleted, 2*each)
}
