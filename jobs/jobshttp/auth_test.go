package jobshttp_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs/jobshttp"
)

func TestErrUnauthenticated_AsksForALogin(t *testing.T) {
	t.Parallel()
	for challenge, want := range map[string]string{"": `Basic realm="jobs", charset="UTF-8"`, "Bearer": "Bearer"} {
		s := newFake(time.Now())
		h := jobshttp.New(s, &jobshttp.Options{Challenge: challenge, Authorize: func(*http.Request, jobshttp.Action, string) error {
			return fmt.Errorf("secret reason: %w", jobshttp.ErrUnauthenticated)
		}})
		for _, route := range jobshttp.Routes() {
			for _, name := range []string{"demo.flaky", "no.such"} {
				w := send(h, route[0], path(route[1], name, "12"), "")
				require.Equal(t, http.StatusUnauthorized, w.Code, "%v", route)
				require.Equal(t, want, w.Header().Get("WWW-Authenticate"))
				require.NotContains(t, w.Body.String(), "secret")
				if strings.HasPrefix(route[1], "/api/") {
					require.Equal(t, "unauthenticated", code(w), "%v", route)
				}
			}
		}
		for _, p := range strange {
			require.Equal(t, http.StatusUnauthorized, sendPath(h, "GET", p).Code, p)
		}
		require.Empty(t, s.calls, "calls of the scheduler")
	}
}

func TestBasicAuth_LetsInUsersWithTheirPassword(t *testing.T) {
	t.Parallel()
	h := jobshttp.New(newFake(time.Now()), &jobshttp.Options{
		Authorize: jobshttp.BasicAuth(map[string]string{"ann": "secret", "bob": "pa:ss wörd", "none": "", "": "nobody", "long": strings.Repeat("x", 1000)}),
	})
	for _, row := range []struct {
		user, password string
		want           int
	}{
		{"ann", "secret", 200},
		{"bob", "pa:ss wörd", 200},
		{"", "nobody", 200},
		{"long", strings.Repeat("x", 1000), 200},
		{"long", strings.Repeat("x", 999), 401},
		{"ann", "secre", 401},
		{"ann", "secret ", 401},
		{"ann", "Secret", 401},
		{"ann", "", 401},
		{"ann", "pa:ss wörd", 401},
		{"bob", "secret", 401},
		{"bob:pa", "ss wörd", 200}, // the same header as bob's
		{"anns", "ecret", 401},
		{"none", "", 401},
		{"eve", "", 401},
		{"eve", "secret", 401},
		{"", "", 401},
	} {
		r := httptest.NewRequest("GET", "/api/jobs", nil)
		r.SetBasicAuth(row.user, row.password)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, row.want, w.Code, "%q %q", row.user, row.password)
	}
	for header, want := range map[string]int{
		"": 401, "Basic": 401, "Basic !": 401, "Basic YW5u": 401, "Bearer secret": 401, "Basic YW5uOnNlY3JldA==": 200, "basic YW5uOnNlY3JldA==": 200,
	} {
		require.Equal(t, want, send(h, "GET", "/", "", "Authorization", header).Code, header)
	}
	for _, p := range []string{"/livez", "/readyz", "/healthz"} {
		require.Equal(t, http.StatusOK, send(h, "GET", p, "").Code, p)
	}
	require.NotContains(t, send(h, "GET", "/healthz", "").Body.String(), "totals", "probes show nothing else to strangers")
	nobody := jobshttp.New(newFake(time.Now()), &jobshttp.Options{Authorize: jobshttp.BasicAuth(nil)})
	require.Equal(t, http.StatusUnauthorized, send(nobody, "GET", "/", "", "Authorization", "Basic Og==").Code)
}

// What browsers send depends on their age and on whether the page is served over TLS.
func TestTrustedOrigins_LetsFormsThroughAProxy(t *testing.T) {
	t.Parallel()
	const form, api = "/job/demo.flaky/pause", "/api/jobs/demo.flaky/pause"
	for name, row := range map[string]struct {
		trusted []string
		header  []string
		want    bool
	}{
		"same host":                              {nil, []string{"Origin", "http://jobs.example"}, true},
		"the proxy's host is not known":          {nil, []string{"Origin", "https://admin.example.com"}, false},
		"the proxy's host is trusted":            {[]string{"https://admin.example.com"}, []string{"Origin", "https://admin.example.com"}, true},
		"a modern browser behind the proxy":      {nil, []string{"Origin", "https://admin.example.com", "Sec-Fetch-Site", "same-origin"}, true},
		"another port":                           {[]string{"https://admin.example.com"}, []string{"Origin", "https://admin.example.com:8443"}, false},
		"the same host without TLS":              {[]string{"https://admin.example.com"}, []string{"Origin", "http://admin.example.com"}, false},
		"a trusted site":                         {[]string{"https://portal.example.com"}, []string{"Origin", "https://portal.example.com", "Sec-Fetch-Site", "same-site"}, true},
		"another site":                           {[]string{"https://portal.example.com"}, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, false},
		"an opaque origin":                       {[]string{"https://portal.example.com"}, []string{"Origin", "null"}, false},
		"a trusted origin with a path":           {[]string{"https://portal.example.com/"}, []string{"Origin", "https://portal.example.com"}, false},
		"a good origin after one that is wrong":  {[]string{"portal", "https://portal.example.com"}, []string{"Origin", "https://portal.example.com"}, true},
		"a program that sends none of these":     {nil, nil, true},
		"several trusted origins, the last asks": {[]string{"https://a.example", "https://b.example:444"}, []string{"Origin", "https://b.example:444"}, true},
	} {
		var log bytes.Buffer
		h := jobshttp.New(newFake(time.Now()), &jobshttp.Options{
			Authorize: everybody, TrustedOrigins: row.trusted, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		wrong := strings.Contains(name, "wrong") || strings.Contains(name, "path")
		require.Equal(t, wrong, strings.Contains(log.String(), "level=ERROR"), "%s: %s", name, log.String())
		for p, ok := range map[string]int{form: http.StatusSeeOther, api: http.StatusOK} {
			w := send(h, "POST", p, "", row.header...)
			if row.want {
				require.Equal(t, ok, w.Code, name)
				continue
			}
			require.Equal(t, http.StatusForbidden, w.Code, name)
			if p == api {
				require.Equal(t, "cross_origin", code(w), name)
			}
		}
	}
}

// sendPath sends a request for a path that need not be valid.
func sendPath(h http.Handler, method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://jobs.example/", nil)
	r.URL.Path = path
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
