package providertest

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// The data of ticks.
var dataRules = []rule{
	{name: "a tick has the data of its registration, in each attempt and after a restart", check: tickHasTheData},
	{name: "data of ticks that cannot be stored is refused, and Data of a job without ticks", check: invalidTickDataIsRefused},
}

func tickHasTheData(e *env) {
	var failed atomic.Bool
	p := e.probe(func(context.Context, *jobs.Job) error {
		if failed.CompareAndSwap(false, true) {
			return jobs.RetryAfter(0, errAgain)
		}
		return nil
	})
	data := map[string]any{"bucket": "día ✓", "n": json.Number("12345678901234567890"), "nested": map[string]any{"x": []int{1, 2}}}
	const encoded = `{"bucket": "día ✓", "n": 12345678901234567890, "nested": {"x": [1, 2]}}`
	large := strings.Repeat("x", jobs.MaxDataBytes-len(`{"x":""}`)-1)
	e.noError(e.s.RegisterInterval("test.tick", time.Second, p.handle, jobs.Data(data)))
	without, big := e.probe(nil), e.probe(nil)
	e.noError(e.s.RegisterInterval("test.without", time.Second, without.handle))
	e.noError(e.s.RegisterInterval("test.large", time.Second, big.handle, jobs.Data(map[string]string{"x": large})))
	data["bucket"] = "changed after the registration"
	e.start()
	for i := range 4 {
		if i == 3 {
			e.stop()
			e.drain(p)
			e.start()
		}
		r := p.next()
		require.JSONEq(e, encoded, string(r.Data), "Data of tick %v, attempt %d", r.Tick, r.Attempt)
		require.Contains(e, string(r.Data), "12345678901234567890", "a large number")
	}
	require.Equal(e, "{}", string(without.next().Data), "Data of a tick without data")
	require.Contains(e, string(big.next().Data), large, "Data just below 1 MiB")
	triggered, other := e.trigger("test.tick", map[string]int{"n": 7}), e.trigger("test.tick", nil)
	for seen := 0; seen < 2; {
		switch r := p.next(); r.ID {
		case triggered:
			require.JSONEq(e, `{"n": 7}`, string(r.Data), "Data of a triggered run")
			seen++
		case other:
			require.Equal(e, "{}", string(r.Data), "Data of a run triggered without data")
			seen++
		}
	}
}

func invalidTickDataIsRefused(e *env) {
	h := e.probe(nil).handle
	for what, data := range map[string]any{
		"a string":           "text",
		"a slice":            []int{1},
		"a nil pointer":      (*struct{})(nil),
		"a channel":          make(chan int),
		"1 MiB":              map[string]string{"x": strings.Repeat("x", jobs.MaxDataBytes)},
		"invalid UTF-8":      map[string]string{"x": "a\xffb"},
		"the character zero": map[string]string{"x": "a\x00b"},
	} {
		require.ErrorIs(e, e.s.RegisterCron("test.tick", "@daily", h, jobs.Data(data)), jobs.ErrInvalidData, "RegisterCron with %s", what)
		require.ErrorIs(e, e.s.RegisterInterval("test.tick", time.Hour, h, jobs.Data(data)), jobs.ErrInvalidData, "RegisterInterval with %s", what)
	}
	require.ErrorIs(e, e.s.RegisterDelayed("test.job", 0, h, jobs.Data(map[string]int{"n": 1})), jobs.ErrInvalidOption, "Data of a job without ticks")
	e.registered(0)
	e.noError(e.s.RegisterInterval("test.tick", time.Hour, h, jobs.Data(nil)))
}
