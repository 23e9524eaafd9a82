package providertest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Invalid input.
var inputRules = []rule{
	{name: "an invalid name is refused", check: invalidNameIsRefused},
	{name: "a duplicate name is refused, and the error names both call sites", check: duplicateIsRefused},
	{name: "a cron pattern that is malformed or never fires is refused, and the error names the field", check: invalidCronIsRefused},
	{name: "intervals below a second, negative delays, and either finer than a millisecond are refused", check: invalidIntervalIsRefused},
	{name: "an option out of range is refused", check: invalidOptionIsRefused},
	{name: "data that is not a JSON object or cannot be stored unchanged is refused, and nothing is inserted", check: invalidDataIsRefused},
	{name: "a trigger with an invalid option is refused, and nothing is inserted", check: invalidTriggerOptionIsRefused},
	{name: "a job that is not registered is refused", check: unknownJobIsRefused},
}

func invalidNameIsRefused(e *env) {
	h := e.probe(nil).handle
	for _, name := range []string{
		"", "test", "Test.job", "test.Job", ".test", "test.", "test..job", "1test.job", "_test.job", "test job.x", "test.job\n",
		"tëst.job", "test/job.x", "test." + strings.Repeat("x", 96), "test.job\x00",
	} {
		for kind, err := range map[string]error{
			"RegisterCron":     e.s.RegisterCron(name, "0 3 * * *", h),
			"RegisterInterval": e.s.RegisterInterval(name, time.Hour, h),
			"RegisterDelayed":  e.s.RegisterDelayed(name, 0, h),
		} {
			require.ErrorIs(e, err, jobs.ErrInvalidName, "%s of %.20q", kind, name)
		}
	}
	for _, name := range []string{"a.b", "test.job", "a1_-.0.-._", "test." + strings.Repeat("x", 95)} {
		require.NoError(e, e.s.RegisterDelayed(name, 0, h), "RegisterDelayed of %.20q", name)
	}
	e.registered(4)
}

func duplicateIsRefused(e *env) {
	h := e.probe(nil).handle
	_, file, line, _ := runtime.Caller(0)
	first := e.s.RegisterDelayed("test.job", 0, h)
	second := []error{
		e.s.RegisterDelayed("test.job", 0, h),
		e.s.RegisterInterval("test.job", time.Hour, h),
		e.s.RegisterCron("test.job", "0 3 * * *", h),
	}
	e.noError(first)
	for i, err := range second {
		require.ErrorIs(e, err, jobs.ErrDuplicate)
		require.ErrorContains(e, err, "test.job")
		require.ErrorContains(e, err, fmt.Sprintf("%s:%d", file, line+1), "call site of the first registration")
		require.ErrorContains(e, err, fmt.Sprintf("%s:%d", file, line+3+i), "call site of the second registration")
	}
	e.registered(1)
	require.Equal(e, "on demand", e.status("test.job").Schedule, "the first registration remains")
}

func invalidCronIsRefused(e *env) {
	h := e.probe(nil).handle
	for pattern, field := range map[string]string{
		"":                     "field",
		"* * * *":              "field",
		"0 0 3 * * *":          "field",
		"TZ=UTC 0 3 * * *":     "TimeZone",
		"CRON_TZ=UTC 0 3 * *":  "TimeZone",
		"@never":               "@daily",
		"@every 1h":            "@daily",
		"60 * * * *":           "minute",
		"*/100 * * * *":        "minute",
		"*/0 * * * *":          "minute",
		"5-1 * * * *":          "minute",
		"x * * * *":            "minute",
		"0 24 * * *":           "hour",
		"0 -1 * * *":           "hour",
		"0 0 0 * *":            "day-of-month",
		"0 0 32 * *":           "day-of-month",
		"0 0 * 13 *":           "month",
		"0 0 * foo *":          "month",
		"0 0 * * 8":            "day-of-week",
		"0 0 * * mon,":         "day-of-week",
		"0 0 ? * *":            "write *",
		"0 0 30 2 *":           "never fires",
		"0 0 31 4,6,9,11 *":    "never fires",
		"\x00 * * * *":         "minute",
		"0 0 * * mon-sunday  ": "day-of-week",
	} {
		err := e.s.RegisterCron("test.cron", pattern, h)
		require.ErrorIs(e, err, jobs.ErrInvalidSchedule, "RegisterCron with %q", pattern)
		require.ErrorContains(e, err, field, "RegisterCron with %q", pattern)
	}
	e.registered(0)
	e.noError(e.s.RegisterCron("test.cron", " 0 0 29 feb sun ", h))
}

func invalidIntervalIsRefused(e *env) {
	h := e.probe(nil).handle
	for _, every := range []time.Duration{
		time.Second - 1, time.Nanosecond, 0, -time.Hour, math.MinInt64, time.Second + 1, time.Second + time.Microsecond, time.Hour + 1500*time.Microsecond,
	} {
		require.ErrorIs(e, e.s.RegisterInterval("test.tick", every, h), jobs.ErrInvalidSchedule, "RegisterInterval of %s", every)
	}
	for _, delay := range []time.Duration{-1, -time.Hour, math.MinInt64, 1, time.Microsecond, time.Second + 999*time.Microsecond} {
		require.ErrorIs(e, e.s.RegisterDelayed("test.job", delay, h), jobs.ErrInvalidSchedule, "RegisterDelayed of %s", delay)
	}
	e.registered(0)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, h))
	e.noError(e.s.RegisterInterval("test.odd", 1001*time.Millisecond, h))
	e.noError(e.s.RegisterDelayed("test.job", time.Millisecond, h))
}

func invalidOptionIsRefused(e *env) {
	h := e.probe(nil).handle
	for what, opt := range map[string]jobs.Option{
		"MaxRetries(-1)":      jobs.MaxRetries(-1),
		"MaxRetries(30,001)":  jobs.MaxRetries(30_001),
		"RetryDelay(-1)":      jobs.RetryDelay(-1),
		"RetryDelay(25h)":     jobs.RetryDelay(25 * time.Hour),
		"Timeout(0)":          jobs.Timeout(0),
		"Timeout(-1)":         jobs.Timeout(-1),
		"Priority(0)":         jobs.Priority(0),
		"Priority(5)":         jobs.Priority(5),
		"Concurrency(0)":      jobs.Concurrency(0),
		"Concurrency(10,001)": jobs.Concurrency(10_001),
		"TimeZone(nil)":       jobs.TimeZone(nil),
		"TimeZone of a delay": jobs.TimeZone(time.UTC),
		"CatchUp of a delay":  jobs.CatchUp(jobs.CatchUpAll),
		"Overlap of a delay":  jobs.Overlap(jobs.OverlapSkip),
		"CatchUp(2)":          jobs.CatchUp(2),
		"OnSkipped(nil)":      jobs.OnSkipped(nil),
		"OnFailed(nil)":       jobs.OnFailed(nil),
		"Overlap(-1)":         jobs.Overlap(-1),
		"StartWithin(0)":      jobs.StartWithin(0),
		"a nil option":        nil,
	} {
		require.ErrorIs(e, e.s.RegisterDelayed("test.job", 0, h, opt), jobs.ErrInvalidOption, what)
	}
	require.ErrorIs(e, e.s.RegisterInterval("test.job", time.Hour, h, jobs.TimeZone(time.UTC)), jobs.ErrInvalidOption, "TimeZone of an interval")
	require.ErrorIs(e, e.s.RegisterDelayed("test.job", 0, nil), jobs.ErrInvalidOption, "a nil handler")
	e.registered(0)
	e.noError(e.s.RegisterDelayed("test.job", 0, h, jobs.MaxRetries(30_000), jobs.RetryDelay(24*time.Hour), jobs.Timeout(1),
		jobs.Priority(4), jobs.Concurrency(10_000), jobs.StartWithin(1)))
	e.noError(e.s.RegisterInterval("test.ticks", time.Hour, h, jobs.CatchUp(jobs.CatchUpAll), jobs.Overlap(jobs.OverlapSkip)))
}

func invalidDataIsRefused(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	for what, data := range map[string]any{
		"a string":                   "text",
		"bytes":                      []byte(`{"a":1}`),
		"a number":                   7,
		"a boolean":                  true,
		"a slice":                    []int{1},
		"a nil pointer":              (*struct{})(nil),
		"a nil map":                  map[string]any(nil),
		"a channel":                  make(chan int),
		"a function in a map":        map[string]any{"f": func() {}},
		"NaN":                        map[string]float64{"x": math.NaN()},
		"malformed JSON":             json.RawMessage(`{"a":`),
		"two JSON objects":           json.RawMessage(`{} {}`),
		"empty JSON":                 json.RawMessage(``),
		"1 MiB":                      json.RawMessage(`{"x":"` + strings.Repeat("x", jobs.MaxDataBytes-len(`{"x":""}`)) + `"}`),
		"2 MiB":                      map[string]string{"x": strings.Repeat("x", 2*jobs.MaxDataBytes)},
		"invalid UTF-8":              map[string]string{"x": "a\xffb"},
		"invalid UTF-8 in a key":     map[string]string{"a\xffb": "x"},
		"invalid UTF-8 in JSON":      json.RawMessage("{\"x\":\"a\xffb\"}"),
		"the character zero":         map[string]string{"x": "a\x00b"},
		"the character zero, nested": map[string]any{"x": []any{map[string]string{"\x00": ""}}},
		"the character zero in JSON": json.RawMessage(`{"x":"\u0000"}`),
		"a high surrogate alone":     json.RawMessage(`{"x":"\ud83d"}`),
		"a low surrogate alone":      json.RawMessage(`{"x":"\ude00\ud83d"}`),
		"a surrogate and another":    json.RawMessage(`{"x":"\ud83d\u0041"}`),
		"an enormous exponent":       json.RawMessage(`{"x":1e200000}`),
		"numbers of 149 MB":          json.RawMessage(`{"x":[` + strings.Repeat("1e1000,", 149_000) + `1]}`),
		"invalid UTF-8 beside JSON": struct {
			Body json.RawMessage
			From string
		}{json.RawMessage(`"caf\ufffd"`), "a\xffb"},
		"a depth of 2,000": json.RawMessage(strings.Repeat(`{"x":`, 2000) + `1` + strings.Repeat(`}`, 2000)),
	} {
		id, err := e.s.Trigger(e.ctx, "test.job", data)
		require.ErrorIs(e, err, jobs.ErrInvalidData, "Trigger with %s", what)
		require.Empty(e, id, "ID of a Trigger with %s", what)
		ids, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil, data})
		require.ErrorIs(e, err, jobs.ErrInvalidData, "TriggerMany with %s", what)
		require.Empty(e, ids, "IDs of a TriggerMany with %s", what)
	}
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
	// Valid data that looks similar.
	for what, data := range map[string]any{
		"an escaped backslash before u0000": map[string]string{"x": `\u0000`},
		"JSON with U+FFFD in a struct":      struct{ Body json.RawMessage }{json.RawMessage(`{"x":"caf\ufffd"}`)},
		"JSON with U+FFFD in a map":         map[string]any{"body": json.RawMessage(`{"x":"caf\ufffd"}`)},
		"a pair of surrogates":              json.RawMessage(`{"x":"\ud83d\uDE00"}`),
		"a pointer":                         &struct{ A int }{1},
		"an exponent in a string":           map[string]string{"x": "1e200000"},
		"a depth of 900":                    json.RawMessage(strings.Repeat(`{"x":`, 900) + `1` + strings.Repeat(`}`, 900)),
	} {
		_, err := e.s.Trigger(e.ctx, "test.job", data)
		require.NoError(e, err, "Trigger with %s", what)
	}
	require.Equal(e, 7, e.queueSize("test.job"), "QueueSize")
}

func invalidTriggerOptionIsRefused(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	for what, c := range map[string]struct {
		opt  jobs.TriggerOption
		want error
	}{
		"Delay(-1)":                   {jobs.Delay(-1), jobs.ErrInvalidSchedule},
		"Delay(1ms + 1ns)":            {jobs.Delay(time.Millisecond + 1), jobs.ErrInvalidSchedule},
		"At with the zero time":       {jobs.At(time.Time{}), jobs.ErrInvalidSchedule},
		"At in the year 10,000":       {jobs.At(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)), jobs.ErrInvalidSchedule},
		"Priority(0)":                 {jobs.Priority(0), jobs.ErrInvalidOption},
		"Priority(5)":                 {jobs.Priority(5), jobs.ErrInvalidOption},
		"an empty Unique key":         {jobs.Unique(""), jobs.ErrInvalidOption},
		"a Unique key of 1,001 bytes": {jobs.Unique(strings.Repeat("x", 1001)), jobs.ErrInvalidOption},

		"an empty UniqueWaiting key":  {jobs.UniqueWaiting(""), jobs.ErrInvalidOption},
		"a Latest key of 1,001 bytes": {jobs.Latest(strings.Repeat("x", 1001)), jobs.ErrInvalidOption},
		"a nil option":                {nil, jobs.ErrInvalidOption},

		"an empty idempotency key":          {jobs.IdempotencyKey(""), jobs.ErrInvalidOption},
		"an idempotency key of 1,001 bytes": {jobs.IdempotencyKey(strings.Repeat("x", 1001)), jobs.ErrInvalidOption},
	} {
		_, err := e.s.Trigger(e.ctx, "test.job", nil, c.opt)
		require.ErrorIs(e, err, c.want, "Trigger with %s", what)
		e.manyRefused(nil, c.want, "with "+what, c.opt)
		e.manyRefused([]any{nil}, c.want, "with "+what, c.opt)
	}
	e.manyRefused(nil, jobs.ErrInvalidOption, "with Unique", jobs.Unique("x"))
	e.manyRefused([]any{nil}, jobs.ErrInvalidOption, "with Unique", jobs.Unique("x"))
	e.manyRefused([]any{nil}, jobs.ErrInvalidOption, "with UniqueWaiting", jobs.UniqueWaiting("x"))
	e.manyRefused([]any{nil}, jobs.ErrInvalidOption, "with Latest", jobs.Latest("x"))
	e.manyRefused(nil, jobs.ErrInvalidOption, "with IdempotencyKey", jobs.IdempotencyKey("x"))
	e.manyRefused([]any{nil}, jobs.ErrInvalidOption, "with IdempotencyKey", jobs.IdempotencyKey("x"))
	_, err := e.s.Trigger(e.ctx, "test.job", nil, jobs.IdempotencyKey("x"), jobs.Unique("x"))
	require.ErrorIs(e, err, jobs.ErrInvalidOption, "Trigger with both kinds of keys")
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
	e.trigger("test.job", nil, jobs.IdempotencyKey(strings.Repeat("x", 1000)))
	e.trigger("test.job", nil, jobs.Unique(strings.Repeat("x", 1000)), jobs.Priority(4), jobs.At(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
}

func unknownJobIsRefused(e *env) {
	e.noError(e.s.RegisterDelayed("test.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	for _, name := range []string{"test.unknown", "test.jo", "test.job.", "", "test.job\x00", strings.Repeat("x.", 1000)} {
		_, err := e.s.Trigger(e.ctx, name, nil)
		require.ErrorIs(e, err, jobs.ErrUnknownJob, "Trigger of %.20q", name)
		for _, data := range [][]any{nil, {nil}} {
			_, err = e.s.TriggerMany(e.ctx, name, data)
			require.ErrorIs(e, err, jobs.ErrUnknownJob, "TriggerMany of %.20q with %d data", name, len(data))
		}
		_, err = e.s.QueueSize(e.ctx, name)
		require.ErrorIs(e, err, jobs.ErrUnknownJob, "QueueSize of %.20q", name)
	}
	require.Zero(e, e.queueSize("test.job"), "QueueSize")
}

// manyRefused requires TriggerMany and TriggerBulk to refuse the options, with or without data.
func (e *env) manyRefused(data []any, want error, what string, opts ...jobs.TriggerOption) {
	e.Helper()
	ids, err := e.s.TriggerMany(e.ctx, "test.job", data, opts...)
	require.ErrorIs(e, err, want, "TriggerMany of %d jobs %s", len(data), what)
	require.Empty(e, ids, "IDs of a TriggerMany of %d jobs %s", len(data), what)
	if bulk, ok := e.s.(jobs.BulkTriggerer); ok {
		_, err := bulk.TriggerBulk(e.ctx, "test.job", data, opts...)
		require.ErrorIs(e, err, want, "TriggerBulk of %d jobs %s", len(data), what)
	}
}

// registered requires that n jobs are registered, so that refused registrations left nothing behind.
func (e *env) registered(n int) {
	e.Helper()
	all, err := e.s.Jobs(e.ctx)
	e.noError(err)
	require.Len(e, all, n, "registered jobs")
}
