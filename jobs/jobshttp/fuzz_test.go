package jobshttp_test

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs/jobshttp"
)

// No request makes the API fail, whatever its parameters, headers and body: it answers, or says in JSON what is wrong.
func FuzzAPI(f *testing.F) {
	for _, query := range []string{
		"", "name=demo.flaky", "name=", "name=no.such&name=demo.flaky", "state=failed&state=x", "since=2026-11-30T08:00:00Z", "since=-1",
		"until=9999-12-31T23:59:59.999999999Z", "limit=1000", "limit=-1", "limit=99999999999999999999", "after=", "after=%00", "after=-5",
		"delay=1e9", "delay=0.5", "at=0000-01-01T00:00:00Z", "at=2026-11-30T25:00:00Z", "priority=4.0", "unique=%ff", "dry_run=TRUE", "runs=1",
		"span=day", "&&&", "=", "%", "a;b", "name=demo.flaky;state=failed",
	} {
		f.Add(query, "{}", "key", `W/"x"`)
	}
	f.Add("", `{"a": "\u0000"}`, `"`, "*")
	f.Add("state=failed", `{"__proto__": 1}`, strings.Repeat("k", 2000), `"a`)
	f.Fuzz(func(t *testing.T, query, body, key, tag string) {
		h, _ := open(t)
		for _, route := range jobshttp.Routes() {
			if !strings.HasPrefix(route[1], "/api/") {
				continue
			}
			r := httptest.NewRequest(route[0], "http://jobs.example/", strings.NewReader(body))
			r.URL = &url.URL{Path: strings.NewReplacer("{name}", "demo.flaky", "{id}", "12").Replace(route[1]), RawQuery: query}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", key)
			r.Header.Set("If-None-Match", tag)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Less(t, w.Code, 500, "%v?%s: %s", route, query, w.Body)
			if w.Code != 304 {
				require.True(t, json.Valid(w.Body.Bytes()), "%v?%s: %s", route, query, w.Body)
			}
			if w.Code >= 400 {
				require.Regexp(t, `^[a-z_]+$`, code(w), "%v?%s: %s", route, query, w.Body)
			}
		}
	})
}
