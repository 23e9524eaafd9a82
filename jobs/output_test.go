package jobs_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

func TestJob_SetOutput(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		v    any
		want string
	}{
		"a struct":                      {struct{ Sent int }{7}, `{"Sent":7}`},
		"a number":                      {7, `7`},
		"a string":                      {"größe", `"größe"`},
		"a list":                        {[]string{"a"}, `["a"]`},
		"nothing":                       {nil, `null`},
		"raw JSON":                      {json.RawMessage(`{"a": 1}`), `{"a":1}`},
		"the largest":                   {strings.Repeat("x", jobs.MaxOutputBytes-3), `"` + strings.Repeat("x", jobs.MaxOutputBytes-3) + `"`},
		"an intended replacement":       {"\ufffd", "\"\ufffd\""},
		"many numbers written in short": {json.RawMessage(`[` + strings.Repeat("1e1000,", 130) + `1]`), `[` + strings.Repeat("1e1000,", 130) + `1]`},
	} {
		job := &jobs.Job{Name: "a.b"}
		require.Nil(t, job.Output(), name)
		require.NoError(t, job.SetOutput("before"), name)
		require.NoError(t, job.SetOutput(test.v), name)
		require.Equal(t, test.want, string(job.Output()), name)
		job.Output()[0] = 'x'
		require.Equal(t, test.want, string(job.Output()), "Output returns a copy")
	}
}

func TestJob_SetOutputRefusesWhatCannotBeStored(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		v    any
		want string
	}{
		"no JSON":      {make(chan int), "cannot be encoded as JSON"},
		"infinity":     {math.Inf(1), "cannot be encoded as JSON"},
		"too large":    {strings.Repeat("x", jobs.MaxOutputBytes-2), "65536 bytes of JSON, must be fewer than 65536"},
		"U+0000":       {"a\x00b", `\u0000`},
		"no UTF-8":     {"a\xff", "not valid UTF-8"},
		"huge numbers": {json.RawMessage(`[` + strings.Repeat("1e1000,", 140) + `1]`), "without exponents, as PostgreSQL does; must be fewer than 131072"},
		"deep":         {json.RawMessage(strings.Repeat("[", 1001) + strings.Repeat("]", 1001)), "nested deeper than 1000 levels"},
	} {
		job := &jobs.Job{Name: "a.b"}
		require.NoError(t, job.SetOutput("before"), name)
		err := job.SetOutput(test.v)
		require.ErrorIs(t, err, jobs.ErrInvalidData, name)
		require.ErrorContains(t, err, `output of "a.b": `, name)
		require.ErrorContains(t, err, test.want, name)
		require.Equal(t, `"before"`, string(job.Output()), name)
	}
}
