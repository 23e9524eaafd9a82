package jobshttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func everybody(*http.Request, jobshttp.Action, string) error { return nil }

// open returns a handler that allows every request, and its scheduler.
func open(t testing.TB) (http.Handler, *full) {
	s := newFake(time.Now())
	return jobshttp.New(s, &jobshttp.Options{Authorize: everybody}), s
}

// send sends a request and returns the response. POST bodies are forms for pages, otherwise JSON.
func send(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://jobs.example/", strings.NewReader(body))
	var err error
	if r.URL, err = url.Parse(path); err != nil { // httptest would parse the path of a CONNECT differently
		panic(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/job/") || strings.HasPrefix(r.URL.Path, "/runs/") {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func isPage(path string) bool {
	return path == "/" || path == "/processes" || strings.HasPrefix(path, "/job/") || strings.HasPrefix(path, "/runs")
}

func path(pattern, name, id string) string {
	if pattern == "/api/runs/cancel" || pattern == "/api/runs/retry" {
		return pattern + "?state=retrying"
	}
	return strings.NewReplacer("{name}", name, "{id}", id).Replace(pattern)
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "NONSENSE"}

// strange has paths without a route.
var strange = []string{
	"/nowhere", "/api", "/api/", "/api/jobs/", "/jobs", "/api/runs/", "/job", "/job/", "/api/jobs/demo.flaky/", "/api/jobs//size", "//", "/api/jobs/../healthz", "/job/%2e%2e/trigger",
	"/assets/", "/assets/page.html", "/assets/../handler.go", "/assets/%2e%2e/handler.go", "/api/jobs/demo.flaky/runs", "/%zz", "/favicon.ico", "*",
}

func TestNew_RefusesEverythingByDefault(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	for name, h := range map[string]http.Handler{
		"no options":    jobshttp.New(s, nil),
		"zero options":  jobshttp.New(s, &jobshttp.Options{}),
		"no scheduler":  jobshttp.New(nil, &jobshttp.Options{Authorize: everybody}),
		"no permission": jobshttp.New(s, &jobshttp.Options{Authorize: func(*http.Request, jobshttp.Action, string) error { return errors.New("secret reason") }}),
	} {
		paths := slices.Clone(strange)
		for _, route := range jobshttp.Routes() {
			paths = append(paths, path(route[1], "demo.flaky", "12"), path(route[1], "no.such", "12"))
		}
		for _, p := range paths {
			for _, method := range methods {
				r := httptest.NewRequest(method, "http://jobs.example/", strings.NewReader(`{}`))
				r.URL = &url.URL{}
				r.URL.Path, r.URL.RawQuery, _ = strings.Cut(p, "?")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				require.Equal(t, http.StatusForbidden, w.Code, "%s: %s %s", name, method, p)
				require.NotContains(t, w.Body.String(), "secret", name)
				requireHeaders(t, w.Header())
			}
		}
	}
	require.Empty(t, s.calls, "calls of the scheduler")
}

func requireHeaders(t testing.TB, h http.Header) {
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		require.Equal(t, want, h.Get(name), name)
	}
	if h.Get("ETag") == "" {
		require.Equal(t, "no-store", h.Get("Cache-Control"))
	} else {
		require.Equal(t, "private, no-cache", h.Get("Cache-Control"), "browsers ask again each time")
	}
	csp := h.Get("Content-Security-Policy")
	require.Contains(t, csp, "default-src 'none'")
	require.Contains(t, csp, "frame-ancestors 'none'")
	require.NotContains(t, csp, "unsafe")
}

func TestHandler_ServesEachRouteWithItsOwnMethodOnly(t *testing.T) {
	t.Parallel()
	want := map[string]int{ // status for the route's own method
		"/": 200, "/job/{name}": 200, "/job/{name}/trigger": 303, "/job/{name}/pause": 303, "/job/{name}/resume": 303,
		"/job/{name}/runs/{id}/cancel": 303, "/job/{name}/runs/{id}/retry": 303,
		"/runs": 200, "/runs/retry": 200, "/runs/cancel": 200, "/runs/{id}": 200, "/processes": 200,
		"/assets/style.css": 200, "/assets/script.js": 200, "/assets/icon.svg": 200,
		"/api/jobs": 200, "/api/jobs/{name}": 200, "/api/jobs/{name}/size": 200, "/api/jobs/{name}/trigger": 202, "/api/jobs/{name}/pause": 200,
		"/api/jobs/{name}/resume": 200, "/api/jobs/{name}/runs/{id}/cancel": 202, "/api/jobs/{name}/runs/{id}/retry": 202,
		"/api/jobs/{name}/runs/{id}": 200, "/api/runs": 200, "/api/runs/{id}": 200, "/api/runs/cancel": 200, "/api/runs/retry": 200,
		"/api/processes": 200, "/api/openapi.json": 200,
		"/api/activity": 200, "/livez": 200, "/readyz": 200, "/healthz": 200,
	}
	unsupported := []string{
		"/job/{name}/pause", "/job/{name}/resume", "/job/{name}/runs/{id}/cancel", "/job/{name}/runs/{id}/retry", "/api/activity",
		"/runs", "/runs/retry", "/runs/cancel", "/runs/{id}", "/processes",
		"/api/jobs/{name}/runs/{id}", "/api/runs", "/api/runs/{id}", "/api/runs/cancel", "/api/runs/retry", "/api/processes",
		"/api/jobs/{name}/pause", "/api/jobs/{name}/resume", "/api/jobs/{name}/runs/{id}/cancel", "/api/jobs/{name}/runs/{id}/retry",
	}
	h, s := open(t)
	poor := jobshttp.New(&core{statuses: s.statuses, health: s.health}, &jobshttp.Options{Authorize: everybody})
	both := []string{"/runs/retry", "/runs/cancel"} // a page and the form on it
	require.Len(t, jobshttp.Routes(), len(want)+len(both))
	for _, route := range jobshttp.Routes() {
		for _, method := range methods {
			p := path(route[1], "demo.flaky", "12")
			w := send(h, method, p, "")
			status := want[route[1]]
			if slices.Contains(both, p) && method == "POST" {
				status = http.StatusSeeOther
			} else if method != route[0] && (method != "HEAD" || route[0] != "GET") && (!slices.Contains(both, p) || method != "GET" && method != "HEAD") {
				status = http.StatusMethodNotAllowed
				require.Contains(t, w.Header().Get("Allow"), route[0])
			}
			require.Equal(t, status, w.Code, "%s %s: %s", method, p, w.Body)
			requireHeaders(t, w.Header())
			if w.Code != http.StatusSeeOther && !strings.HasPrefix(p, "/assets/") && !isPage(p) {
				require.Equal(t, "application/json", w.Header().Get("Content-Type"))
				require.True(t, json.Valid(w.Body.Bytes()))
			}
			if status != http.StatusMethodNotAllowed && slices.Contains(unsupported, route[1]) {
				status = http.StatusNotImplemented
			}
			require.Equal(t, status, send(poor, method, p, "").Code, "without roles: %s %s", method, p)
		}
	}
	for _, p := range strange {
		for _, method := range methods {
			r := httptest.NewRequest(method, "http://jobs.example/", nil)
			r.URL = &url.URL{Path: p}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Contains(t, []int{404, 405}, w.Code, "%s %s", method, p)
		}
	}
}

func TestRoutes_AreInThePackageDocumentation(t *testing.T) {
	t.Parallel()
	doc := readFile(t, "doc.go")
	for _, route := range jobshttp.Routes() {
		if strings.HasPrefix(route[1], "/assets/") {
			continue
		}
		require.Regexp(t, `(?m)^//\t`+route[0]+` +`+regexp.QuoteMeta(route[1])+` `, doc)
	}
}

func TestHandler_Answers(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		method, path, body string
		header             []string
		want               int
		contains           string
	}{
		"list of jobs":                  {"GET", "/api/jobs", "", nil, 200, `"overdue_reason": "no process works this queue"`},
		"job":                           {"GET", "/api/jobs/demo.flaky", "", nil, 200, `"id": "12"`},
		"runs of a job":                 {"GET", "/api/jobs/demo.flaky?runs=1", "", nil, 200, `"state": "retrying"`},
		"too many runs":                 {"GET", "/api/jobs/demo.flaky?runs=1001", "", nil, 400, "from 1 to 1000"},
		"zero runs":                     {"GET", "/api/jobs/demo.flaky?runs=0", "", nil, 400, "from 1 to 1000"},
		"runs not a number":             {"GET", "/api/jobs/demo.flaky?runs=x", "", nil, 400, "from 1 to 1000"},
		"size":                          {"GET", "/api/jobs/email.send/size", "", nil, 200, `"queue_size": 7`},
		"unknown job":                   {"GET", "/api/jobs/no.such", "", nil, 404, "no such job"},
		"size of an unknown job":        {"GET", "/api/jobs/no.such/size", "", nil, 404, "no such job"},
		"trigger an unknown job":        {"POST", "/api/jobs/no.such/trigger", "{}", nil, 404, "no such job"},
		"trigger":                       {"POST", "/api/jobs/demo.flaky/trigger", `{"a": 1}`, nil, 202, `"id": "41"`},
		"trigger without a body":        {"POST", "/api/jobs/demo.flaky/trigger", "", nil, 202, `"id": "41"`},
		"trigger without Content-Type":  {"POST", "/api/jobs/demo.flaky/trigger", "", []string{"Content-Type", ""}, 415, "application/json"},
		"trigger with a charset":        {"POST", "/api/jobs/demo.flaky/trigger", "{}", []string{"Content-Type", "application/json; charset=utf-8"}, 202, "41"},
		"form sent to the API":          {"POST", "/api/jobs/demo.flaky/trigger", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "application/json"},
		"pause with a wrong type":       {"POST", "/api/jobs/demo.flaky/pause", "", []string{"Content-Type", "text/plain"}, 415, "application/json"},
		"data not an object":            {"POST", "/api/jobs/demo.flaky/trigger", "[1]", nil, 400, "want a JSON object"},
		"data not JSON":                 {"POST", "/api/jobs/demo.flaky/trigger", "{", nil, 400, "invalid data"},
		"trigger with too large a body": {"POST", "/api/jobs/demo.flaky/trigger", strings.Repeat("x", jobshttp.MaxBody+1), nil, 413, "at most"},
		"pause with too large a body":   {"POST", "/api/jobs/demo.flaky/pause", strings.Repeat("x", jobshttp.MaxBody+1), nil, 413, "at most"},
		"from another origin":           {"POST", "/api/jobs/demo.flaky/trigger", "{}", []string{"Origin", "https://evil.example"}, 403, "other origins"},
		"from another site":             {"POST", "/api/jobs/demo.flaky/trigger", "{}", []string{"Sec-Fetch-Site", "cross-site"}, 403, "other origins"},
		"form from another site":        {"POST", "/job/demo.flaky/trigger", "", []string{"Sec-Fetch-Site", "same-site"}, 403, "other origins"},
		"JSON sent to a form":           {"POST", "/job/demo.flaky/trigger", "{}", []string{"Content-Type", "application/json"}, 415, "x-www-form-urlencoded"},
		"cancel":                        {"POST", "/api/jobs/demo.flaky/runs/12/cancel", "", nil, 202, `"id": "12"`},
		"cancel an unknown run":         {"POST", "/api/jobs/demo.flaky/runs/99/cancel", "", nil, 404, "no such run"},
		"retry":                         {"POST", "/api/jobs/demo.flaky/runs/11/retry", "", nil, 202, `"id": "11"`},
		"retry a completed run":         {"POST", "/api/jobs/demo.flaky/runs/10/retry", "", nil, 409, "can be retried"},
		"pause":                         {"POST", "/api/jobs/demo.flaky/pause", "", nil, 200, `"paused": true`},
		"resume":                        {"POST", "/api/jobs/demo.flaky/resume", "", nil, 200, `"paused": false`},
		"activity":                      {"GET", "/api/activity", "", nil, 200, `"step_seconds": 60`},
		"activity of the day":           {"GET", "/api/activity?span=day", "", nil, 200, `"step_seconds": 3600`},
		"activity of a year":            {"GET", "/api/activity?span=year", "", nil, 400, "hour or day"},
		"health":                        {"GET", "/healthz", "", nil, 200, `"healthy": true`},
		"ready":                         {"GET", "/readyz", "", nil, 200, `"ready": true`},
		"unknown path":                  {"GET", "/nowhere", "", nil, 404, `"error"`},
		"unknown path in a browser":     {"GET", "/nowhere", "", []string{"Accept", "text/html"}, 404, "<h1>404 Not Found</h1>"},
		"page of an unknown job":        {"GET", "/job/no.such", "", nil, 404, "<p>No such job.</p>"},
		"run ID with a slash":           {"POST", "/api/jobs/demo.flaky/runs/a%2Fb/cancel", "", nil, 404, "no such run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _ := open(t)
			w := send(h, row.method, row.path, row.body, row.header...)
			require.Equal(t, row.want, w.Code, w.Body.String())
			require.Contains(t, w.Body.String(), row.contains)
			if w.Code >= 400 && w.Header().Get("Content-Type") == "application/json" {
				var answer struct {
					Error struct{ Code, Message string }
				}
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
				require.Regexp(t, "^[a-z_]+$", answer.Error.Code)
				require.NotEmpty(t, answer.Error.Message)
				require.NotRegexp(t, `jobs: |json\.|json: |struct|RawMessage`, answer.Error.Message, "words of Go")
			}
		})
	}
}

func TestTrigger_PassesData(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	send(h, "POST", "/api/jobs/demo.flaky/trigger", ` {"a": [1, 2]} `)
	send(h, "POST", "/api/jobs/demo.flaky/trigger", " \n")
	send(h, "POST", "/job/demo.flaky/trigger", url.Values{"data": {"{\r\n\"b\": 2}"}}.Encode())
	send(h, "POST", "/job/demo.flaky/trigger", "")
	require.Equal(t, []string{`{"a":[1,2]}`, `{}`, `{"b":2}`, `{}`}, s.data)
}

func TestAuthorize_DoesNotRevealThatAForbiddenJobExists(t *testing.T) {
	t.Parallel()
	const secret, none = "demo.flaky", "demo.other"
	for name, authorize := range map[string]func(*http.Request, jobshttp.Action, string) error{
		"only one other job is allowed": func(_ *http.Request, _ jobshttp.Action, job string) error {
			return refuseUnless(job == "" || job == "email.send")
		},
		"the status page is forbidden": func(_ *http.Request, _ jobshttp.Action, job string) error { return refuseUnless(job == "email.send") },
		"only that job is forbidden": func(_ *http.Request, _ jobshttp.Action, job string) error {
			return refuseUnless(job != secret)
		},
		"only reading other jobs is allowed": func(_ *http.Request, action jobshttp.Action, job string) error {
			return refuseUnless(action == jobshttp.ActionRead && job != secret)
		},
		"only triggering is allowed": func(_ *http.Request, action jobshttp.Action, _ string) error {
			return refuseUnless(action == jobshttp.ActionTrigger)
		},
	} {
		s := newFake(time.Now())
		h := jobshttp.New(s, &jobshttp.Options{Authorize: authorize})
		for _, down := range []bool{false, true} {
			if down {
				s.set(func() { s.down = errors.New("no route to host") })
			}
			for _, route := range jobshttp.Routes() {
				if !strings.Contains(route[1], "{name}") || authorize(nil, actionOf(route), secret) == nil {
					continue
				}
				for _, header := range [][]string{nil, {"Content-Type", "text/plain"}, {"Sec-Fetch-Site", "cross-site"}} {
					a, b := send(h, route[0], path(route[1], secret, "12"), "{", header...), send(h, route[0], path(route[1], none, "12"), "{", header...)
					require.Equal(t, b.Code, a.Code, "%s: %v %v", name, route, header)
					require.Equal(t, b.Header(), a.Header(), "%s: %v", name, route)
					same := func(w *httptest.ResponseRecorder) string {
						return regexp.MustCompile(`<time id="asof".*?</time>`).ReplaceAllString(w.Body.String(), "")
					}
					require.Equal(t, same(b), same(a), "%s: %v", name, route)
				}
			}
		}
	}
}

func actionOf(route [2]string) jobshttp.Action {
	switch route[1][strings.LastIndex(route[1], "/")+1:] {
	case "trigger":
		return jobshttp.ActionTrigger
	case "cancel":
		return jobshttp.ActionCancel
	case "retry":
		return jobshttp.ActionRetry
	case "pause", "resume":
		return jobshttp.ActionPause
	case "livez", "readyz", "healthz":
		return jobshttp.ActionProbe
	}
	return jobshttp.ActionRead
}

func refuseUnless(allowed bool) error {
	if allowed {
		return nil
	}
	return errors.New("not yours")
}

func TestAuthorize_DecidesEachActionSeparately(t *testing.T) {
	t.Parallel()
	for _, action := range []jobshttp.Action{
		jobshttp.ActionRead, jobshttp.ActionTrigger, jobshttp.ActionCancel, jobshttp.ActionRetry, jobshttp.ActionPause, jobshttp.ActionProbe,
	} {
		h := jobshttp.New(newFake(time.Now()), &jobshttp.Options{Authorize: func(_ *http.Request, a jobshttp.Action, _ string) error {
			return refuseUnless(a == action)
		}})
		for _, route := range jobshttp.Routes() {
			w := send(h, route[0], path(route[1], "demo.flaky", "12"), "")
			require.Equal(t, actionOf(route) != action, w.Code == http.StatusForbidden, "%s: %v: %d", action, route, w.Code)
		}
		if action == jobshttp.ActionRead {
			for _, p := range []string{"/", "/job/demo.flaky"} {
				require.NotContains(t, send(h, "GET", p, "").Body.String(), `method="post"`, "buttons that are not allowed")
			}
		}
	}
}

func TestAuthorize_HidesJobsThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	s.health = jobs.Health{Started: true, Reasons: []jobs.Reason{{Job: "email.stuck", Text: "is overdue by 12m0s"}, {Text: "no leader"}}, Totals: map[jobs.State]jobs.Count{jobs.StateFailed: {N: 3}}}
	h := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, _ jobshttp.Action, job string) error {
		return refuseUnless(job == "" || job == "audit.retention")
	}})
	for _, p := range []string{"/", "/api/jobs", "/api/activity", "/api/activity?span=day", "/healthz", "/job/audit.retention", "/?done=trigger&job=email.stuck&run=5"} {
		body := send(h, "GET", p, "").Body.String()
		for _, hidden := range []string{"demo.", "email.", "notifs.", `"failed": 3`} {
			require.NotContains(t, body, hidden, p)
		}
	}
	require.Contains(t, send(h, "GET", "/api/jobs", "").Body.String(), "audit.retention")
	require.Contains(t, send(h, "GET", "/api/activity", "").Body.String(), "audit.retention")
	require.Contains(t, send(h, "GET", "/healthz", "").Body.String(), "no leader")
	require.Contains(t, send(h, "GET", "/", "").Body.String(), "<b>1</b> job<")

	// Callers who may only probe see no reasons.
	h = jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, action jobshttp.Action, _ string) error {
		return refuseUnless(action == jobshttp.ActionProbe)
	}})
	w := send(h, "GET", "/healthz", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.JSONEq(t, `{"healthy": false, "started": true, "oldest_waiting_seconds": 0}`, w.Body.String())
}

func TestLogger_RecordsActionsWithoutData(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	opts := &jobshttp.Options{Authorize: everybody, Logger: slog.New(slog.NewJSONHandler(&log, nil))}
	s := newFake(time.Now())
	h := jobshttp.New(s, opts)
	send(h, "POST", "/api/jobs/demo.flaky/trigger", `{"password": "hunter2"}`)
	require.Contains(t, log.String(), `"action":"trigger","job":"demo.flaky","job_id":"41","who":"192.0.2.1:1234"`)
	opts.Who = func(*http.Request) string { return "ann" }
	h = jobshttp.New(s, opts)
	send(h, "POST", "/job/demo.flaky/trigger", `data={"password":"hunter2"}`)
	send(h, "POST", "/job/demo.flaky/trigger", `data={"password":hunter2`)
	for _, verb := range []string{"pause", "resume", "runs/12/cancel", "runs/11/retry"} {
		log.Reset()
		send(h, "POST", "/api/jobs/demo.flaky/"+verb, "")
		require.Contains(t, log.String(), `"who":"ann"`)
		require.Contains(t, log.String(), `"action":"`+verb[strings.LastIndex(verb, "/")+1:]+`","job":"demo.flaky"`)
	}
	require.NotContains(t, log.String(), "hunter2")
}

func TestShowData_DefaultsToHidingData(t *testing.T) {
	t.Parallel()
	for _, show := range []bool{false, true} {
		h := jobshttp.New(newFake(time.Now()), &jobshttp.Options{Authorize: everybody, ShowData: show})
		for _, p := range []string{"/job/demo.flaky", "/api/jobs/demo.flaky", "/", "/api/jobs"} {
			found := strings.Contains(send(h, "GET", p, "").Body.String(), "ann@example.com")
			require.Equal(t, show && strings.Contains(p, "flaky"), found, p)
		}
	}
}

func readFile(t testing.TB, name string) string {
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// Follows every link and submits every form of the pages.
func TestHandler_WorksUnderAnyPrefix(t *testing.T) {
	t.Parallel()
	for mounted, start := range map[string]string{"": "/", "/admin/jobs": "/admin/jobs/", "/admin": "/admin", "/a/b/c/": "/a/b/c/"} {
		h, _ := open(t)
		if mounted != "" {
			h = http.StripPrefix(mounted, h)
		}
		srv := httptest.NewServer(h)
		defer srv.Close()
		client := srv.Client()
		seen, todo := map[string]bool{}, []string{srv.URL + start}
		posted := 0
		for len(todo) > 0 {
			at := todo[0]
			todo = todo[1:]
			if seen[at] {
				continue
			}
			seen[at] = true
			res, err := client.Get(at)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			require.NoError(t, err)
			require.Equal(t, 200, res.StatusCode, "%q at %s", mounted, at)
			if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
				continue
			}
			page, err := url.Parse(at)
			require.NoError(t, err)
			resolve := func(ref string) string {
				to, err := page.Parse(strings.ReplaceAll(ref, "&amp;", "&"))
				require.NoError(t, err)
				to.Fragment = ""
				return to.String()
			}
			for _, m := range regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(string(body), -1) {
				todo = append(todo, resolve(m[1]))
			}
			for _, m := range regexp.MustCompile(`(?s)method="post" action="([^"]*)"(.*?)</form>`).FindAllStringSubmatch(string(body), -1) {
				form := url.Values{}
				if strings.Contains(m[2], `value="list"`) {
					form.Set("back", "list")
				}
				res, err := client.PostForm(resolve(m[1]), form) // follows the redirect
				require.NoError(t, err)
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				require.NoError(t, err)
				require.Equal(t, 200, res.StatusCode, "%q: %s", mounted, m[1])
				require.Contains(t, string(text), `id="notice"`)
				back := strings.TrimSuffix(strings.TrimSuffix(mounted, "/"), "/") + "/"
				require.True(t, strings.HasPrefix(res.Request.URL.Path, back), "%s leads to %s", m[1], res.Request.URL)
				require.Equal(t, strings.Contains(m[2], `value="list"`), res.Request.URL.Path == back)
				posted++
			}
		}
		require.Greater(t, len(seen), 10, mounted)
		require.Greater(t, posted, 10, mounted)
	}
}

// The pages work under a strict content security policy and with a screen reader.
func TestPages_HaveNoInlineScriptsAndLabelEveryControl(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	pages := map[string]string{
		"list":     send(h, "GET", "/?done=trigger&job=demo.flaky&run=41", "").Body.String(),
		"filtered": send(h, "GET", "/?q=nothing-like-it", "").Body.String(),
		"job":      send(h, "GET", "/job/demo.flaky?done=cancel&job=demo.flaky&run=12", "").Body.String(),
		"paused":   send(h, "GET", "/job/notifs.cleanup", "").Body.String(),
		"refused":  send(h, "POST", "/job/demo.flaky/trigger", "data=%5B").Body.String(),
		"missing":  send(h, "GET", "/job/no.such", "").Body.String(),
		"closed":   send(jobshttp.New(s, nil), "GET", "/", "").Body.String(),
		"data":     send(jobshttp.New(s, &jobshttp.Options{Authorize: everybody, ShowData: true}), "GET", "/job/demo.flaky", "").Body.String(),
		"runs":     send(h, "GET", "/runs?state=failed&state=retrying&name=demo&since=2026-01-01T00:00", "").Body.String(),
		"no runs":  send(h, "GET", "/runs?name=nothing-like-it", "").Body.String(),
		"bad runs": send(h, "GET", "/runs?since=yesterday", "").Body.String(),
		"retry":    send(h, "GET", "/runs/retry?state=failed", "").Body.String(),
		"cancel":   send(h, "GET", "/runs/cancel?name=nothing-like-it", "").Body.String(),
		"run":      send(h, "GET", "/runs/11", "").Body.String(),
		"hit":      send(h, "GET", "/?q=1", "").Body.String(),
		"shown":    send(h, "GET", "/?show=failing", "").Body.String(),
		"machines": send(h, "GET", "/processes", "").Body.String(),
		"empty":    send(jobshttp.New(&full{}, &jobshttp.Options{Authorize: everybody}), "GET", "/", "").Body.String(),
		"poor":     send(jobshttp.New(&core{statuses: s.statuses}, &jobshttp.Options{Authorize: everybody}), "GET", "/", "").Body.String(),
	}
	s.set(func() { s.down = errors.New("no route to host") })
	fresh := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
	pages["down"] = send(fresh, "GET", "/", "").Body.String()
	for name, page := range pages {
		dec := xml.NewDecoder(strings.NewReader(page))
		dec.Strict, dec.AutoClose, dec.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
		ids, labelled, controls, open := map[string]bool{}, map[string]bool{}, []string{}, []string{}
		for {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
			switch el := token.(type) {
			case xml.StartElement:
				attr := map[string]string{}
				for _, a := range el.Attr {
					attr[a.Name.Local] = a.Value
					require.False(t, strings.HasPrefix(a.Name.Local, "on"), "%s: %s has an inline event handler", name, el.Name.Local)
					require.NotEqual(t, "style", a.Name.Local, name)
					require.NotContains(t, a.Value, "javascript:", name)
				}
				tag := el.Name.Local
				require.NotEqual(t, "style", tag, name)
				if tag == "script" {
					require.NotEmpty(t, attr["src"], name)
				}
				if id, ok := attr["id"]; ok {
					require.False(t, ids[id], "%s: duplicate id %q", name, id)
					ids[id] = true
				}
				if target := attr["for"]; target != "" {
					labelled[target] = true
				}
				if (tag == "input" || tag == "textarea" || tag == "select") && attr["type"] != "hidden" && !slices.Contains(open, "label") {
					controls = append(controls, attr["id"])
				}
				if tag == "time" {
					_, err := time.Parse(time.RFC3339Nano, attr["datetime"])
					require.NoError(t, err, name)
				}
				open = append(open, tag)
			case xml.EndElement:
				require.Equal(t, open[len(open)-1], el.Name.Local, name)
				open = open[:len(open)-1]
			case xml.CharData:
				if len(open) > 0 && open[len(open)-1] == "script" {
					require.Empty(t, strings.TrimSpace(string(el)), "%s: inline script", name)
				}
			}
		}
		for _, id := range controls {
			require.True(t, labelled[id], "%s: the control %q has no label", name, id)
		}
		for id := range labelled {
			require.True(t, ids[id], "%s: label for the missing control %q", name, id)
		}
		require.True(t, ids["main"] && strings.Contains(page, `<html lang="en">`) && strings.Contains(page, "<h1"), name)
		require.NotContains(t, page, "ZgotmplZ", name)
		require.NotContains(t, page, "://", "%s: absolute URL", name)
	}
	require.NotContains(t, readFile(t, "assets/style.css"), "url(")
	require.NotContains(t, readFile(t, "assets/script.js"), "innerHTML")
}

// visible returns the visible text of a page, with single spaces.
func visible(page string) string {
	page = regexp.MustCompile(`(?s)<(script|title)[^>]*>.*?</(script|title)>|<[^>]*>`).ReplaceAllString(page, " ")
	return strings.NewReplacer(" ,", ",", " .", ".").Replace(strings.Join(strings.Fields(page), " "))
}

func TestListPage_ShowsEveryJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // starts at midnight on 1 January 2000
		time.Sleep(15 * time.Hour)
		s := newFake(time.Now())
		s.health = jobs.Health{Started: true, Reasons: []jobs.Reason{{Job: "email.stuck", Text: "is overdue by 12m0s: no process works this queue"}, {Text: "no leader for 40s"}}}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody, Title: "Shop"})
		w := send(h, "GET", "/", "")
		require.Equal(t, http.StatusOK, w.Code)
		require.Contains(t, w.Body.String(), "<title>unhealthy, 1 overdue, 1 failing · Shop</title>")
		text := visible(w.Body.String())
		for _, want := range []string{
			"✗ Unhealthy 1 overdue 1 failing 5 jobs 1 paused 1 running 5 waiting 1 retrying",
			"no leader for 40s email.stuck is overdue by 12 min 0 s: no process works this queue",
			"demo.flaky is failing: smtp: &lt;b&gt;421&lt;/b&gt; busy run of demo.flaky 1 more: 1 paused notifs.cleanup has been paused since 14:00:00 UTC",
			"Next: demo.flaky in 3 min 0 s",
			"Last hour", "41 done", "2 failed", "1 skipped or cancelled",
			"audit audit.retention every day at 03:00 0 3 * * * Europe/Berlin ✓ done 9 h 0 min ago 06:00:00 UTC in 15 h 0 min 2 Jan, 06:00 UTC 1 done empty",
			"every 5 minutes ✗ failed 2 min ago 14:58:00 UTC, also covers 2 earlier ticks last success 12 min ago", "1 waiting 1 of them retrying",
			"email.send ● running on demand ● running 2 s ago", "4 waiting 1 running",
			"! overdue by 12 min 0 s no process works this queue every 10 minutes */10 * * * * UTC", "due 12 min ago",
			"‖ paused since 14:00:00 UTC, 1 h 0 min ago", "no runs recorded skipped in 1 min 0 s",
			"Run now", "Data (JSON object)",
		} {
			require.Contains(t, text, want)
		}
		require.Contains(t, w.Body.String(), `aria-label="last 24 hours: 40 done, 2 failed, 1 skipped or cancelled"`)
		require.Contains(t, w.Body.String(), `<noscript><meta http-equiv="refresh" content="30"></noscript>`)
		require.Contains(t, w.Body.String(), `<time datetime="2000-01-01T14:58:00Z">14:58:00 UTC</time>`)

		text = visible(send(h, "GET", "/?q=STUCK", "").Body.String())
		require.Contains(t, text, "1 of 5")
		require.NotContains(t, text, "every hour")
		require.Contains(t, visible(send(h, "GET", "/?q=zzz", "").Body.String()), "No job matches.")
	})
}

func TestJobPage_ShowsRunsAndActions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		h, _ := open(t)
		w := send(h, "GET", "/job/demo.flaky", "")
		require.Equal(t, http.StatusOK, w.Code)
		text := visible(w.Body.String())
		for _, want := range []string{
			"12 ↻ retrying in 8 s tick 14:58:00 UTC 1 min ago 14:59:00 UTC – 1 of 3 smtp: &lt;b&gt;421&lt;/b&gt; busy Retry run 12 Cancel run 12",
			"11 ✗ failed tick 14:53:00 UTC 6 min ago 14:54:00 UTC 340 ms waited 1 min 0 s 3 of 3 panic: boom … all 3 lines panic: boom main.f /a.go:1 Retry run 11",
			"10 ✓ done triggered 14:40:00 UTC 20 min ago 14:40:00 UTC 1 min 0 s 1 of 3 –",
			"Pause", "Data is hidden.",
		} {
			require.Contains(t, text, want)
		}
		require.NotContains(t, text, "Resume")
		require.Contains(t, visible(send(h, "GET", "/job/email.send", "").Body.String()), "2.0 s so far")
		text = visible(send(h, "GET", "/job/notifs.cleanup", "").Body.String())
		require.Contains(t, text, "‖ Paused since 14:00:00 UTC, 1 h 0 min ago.")
		require.Contains(t, text, "Resume")
		require.Contains(t, text, "No runs to show.")
		require.Contains(t, visible(send(h, "GET", "/job/audit.retention", "").Body.String()), "2 Jan, 07:00 CET")
		require.Contains(t, visible(send(h, "GET", "/job/email.stuck", "").Body.String()), "The next run is overdue by 12 min 0 s: no process works this queue.")
	})
}

func TestListPage_ShowsTheReasonOfTheSkippedRunOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFake(time.Now())
		st := &s.statuses[1]
		st.PrevState, st.Missed, st.Retrying, st.Waiting = jobs.StateSkipped, 1, 0, 0
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		text := visible(send(h, "GET", "/", "").Body.String())
		require.Contains(t, text, "skipped")
		require.Contains(t, text, "also covers 1 earlier tick last success 12 min ago")
		require.NotContains(t, text, "smtp", "error of another run")

		time.Sleep(time.Minute)
		run := &s.runs["demo.flaky"][0]
		run.State, run.Error = jobs.StateSkipped, "skipped: another run of this job is in progress"
		require.Contains(t, visible(send(h, "GET", "/", "").Body.String()), run.Error)
	})
}

func TestForm_RedirectsBackWithANotice(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	w := send(h, "POST", "/job/demo.flaky/trigger", "back=list&data=%7B%7D")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "../../?done=trigger&job=demo.flaky&run=41", w.Header().Get("Location"))
	require.Contains(t, visible(send(h, "GET", "/?done=trigger&job=demo.flaky&run=41", "").Body.String()), "✓ Triggered. demo.flaky, run 41")
	require.Equal(t, "../../../../job/demo.flaky?done=cancel&job=demo.flaky&run=12", send(h, "POST", "/job/demo.flaky/runs/12/cancel", "").Header().Get("Location"))

	require.NotContains(t, visible(send(h, "GET", "/job/demo.flaky", "").Body.String()), "Paused since")
	require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/demo.flaky/pause", "").Code)
	require.Contains(t, visible(send(h, "GET", "/job/demo.flaky", "").Body.String()), "Paused since", "the page shows the change at once")

	w = send(h, "POST", "/job/demo.flaky/trigger", url.Values{"data": {`{"typed": </textarea>`}}.Encode())
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), "✗ invalid data")
	require.Contains(t, w.Body.String(), `{&#34;typed&#34;: &lt;/textarea&gt;</textarea>`, "keeps the data that was typed")
	require.NotContains(t, w.Body.String(), `http-equiv="refresh"`)

	w = send(h, "POST", "/job/demo.flaky/runs/10/retry", "")
	require.Equal(t, http.StatusConflict, w.Code)
	require.Contains(t, w.Body.String(), "can be retried")
	require.Equal(t, http.StatusRequestEntityTooLarge, send(h, "POST", "/job/demo.flaky/trigger", "data="+strings.Repeat("x", jobshttp.MaxBody)).Code)
	require.Equal(t, http.StatusBadRequest, send(h, "POST", "/job/demo.flaky/trigger", "data=%zz").Code)
	s.set(func() { s.down = errors.New("dial tcp 10.1.2.3: no route to host") })
	w = send(h, "POST", "/job/demo.flaky/trigger", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), "may have taken effect anyway")
	require.NotContains(t, w.Body.String(), "10.1.2.3")

	for _, q := range []string{"done=nonsense&job=demo.flaky", "done=trigger&job=no.such", "done=trigger"} {
		require.NotContains(t, send(h, "GET", "/?"+q, "").Body.String(), `id="notice"`)
	}
}

func TestHandler_ShowsTheLastKnownStateWhileTheDatabaseIsDown(t *testing.T) {
	t.Parallel()
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			s := newFake(time.Now())
			h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			fail := func() { s.down, s.hang = errors.New("password is hunter2"), hang }
			s.set(fail)
			text := visible(send(h, "GET", "/", "").Body.String())
			require.Contains(t, text, "The database does not answer, and there is no earlier state to show.")
			time.Sleep(time.Minute)
			synctest.Wait()

			s.set(func() { s.down, s.hang = nil, false })
			require.Equal(t, http.StatusOK, send(h, "GET", "/", "").Code, "recovers")
			time.Sleep(time.Minute)
			s.set(fail)
			for _, p := range []string{"/", "/job/demo.flaky", "/api/jobs", "/api/jobs/demo.flaky", "/api/jobs/demo.flaky/size", "/healthz", "/readyz", "/api/activity", "/job/demo.flaky"} {
				before := time.Now()
				w := send(h, "GET", p, "")
				require.Equal(t, http.StatusServiceUnavailable, w.Code, p)
				require.LessOrEqual(t, time.Since(before), jobshttp.CallTimeout, p)
				require.NotContains(t, w.Body.String(), "hunter2", p)
			}
			text = visible(send(h, "GET", "/", "").Body.String())
			require.Contains(t, text, "The database does not answer. Showing the state as of 00:01")
			require.Contains(t, text, "1 min ago")
			require.Contains(t, text, "audit.retention every day at 03:00")
			require.Contains(t, text, "? Health unknown")
			require.Contains(t, text, "email.stuck is overdue by 12 min 0 s: no process works this queue")
			require.Contains(t, visible(send(h, "GET", "/job/demo.flaky", "").Body.String()), "Runs cannot be listed while the database does not answer.")
			require.Contains(t, send(h, "GET", "/", "").Body.String(), "<title>database does not answer")
			require.Equal(t, http.StatusOK, send(h, "GET", "/livez", "").Code)
			require.Equal(t, http.StatusServiceUnavailable, send(h, "POST", "/api/jobs/demo.flaky/trigger", "{}").Code)

			s.set(func() { s.down, s.hang = nil, false })
			time.Sleep(5 * time.Second)
			require.Equal(t, http.StatusOK, send(h, "GET", "/", "").Code, "recovers again")
			require.Equal(t, http.StatusOK, send(h, "GET", "/readyz", "").Code)
			require.Equal(t, 2, strings.Count(log.String(), "the scheduler answers again\" query=jobs"))
			synctest.Wait() // the bubble fails if a goroutine is left
		})
	}
}

func TestProbes_FollowHealth(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		health         jobs.Health
		ready, healthy int
	}{
		"healthy":                {jobs.Health{Healthy: true, Started: true}, 200, 200},
		"a job is overdue":       {jobs.Health{Started: true, Reasons: []jobs.Reason{{Job: "email.stuck", Text: "is overdue"}}}, 200, 503},
		"not started":            {jobs.Health{Reasons: []jobs.Reason{{Text: "not started"}}}, 503, 503},
		"triggers only, healthy": {jobs.Health{Healthy: true}, 200, 200},
	} {
		s := newFake(time.Now())
		s.health = row.health
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		require.Equal(t, http.StatusOK, send(h, "GET", "/livez", "").Code, name)
		require.Empty(t, s.calls, "livez calls no scheduler")
		require.Equal(t, row.ready, send(h, "GET", "/readyz", "").Code, name)
		require.Equal(t, row.healthy, send(h, "GET", "/healthz", "").Code, name)
	}
}

func TestCached_SharesCallsBetweenViewers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, s := open(t)
		s.before = func(string) { time.Sleep(100 * time.Millisecond) } // as a database would
		look := func() {
			var tabs sync.WaitGroup
			for range 50 {
				tabs.Go(func() { send(h, "GET", "/", "") })
			}
			tabs.Wait()
		}
		look()
		first := maps.Clone(s.calls)
		require.Equal(t, map[string]int{"Jobs": 1, "Health": 1, "Activity": 2, "Runs": 3, "FindRuns": 1, "Processes": 1}, first)
		look()
		require.Equal(t, first, s.calls, "calls within a second")
		time.Sleep(1500 * time.Millisecond)
		look()
		require.Equal(t, map[string]int{"Jobs": 2, "Health": 2, "Activity": 2, "Runs": 3, "FindRuns": 1, "Processes": 1}, s.calls)
		time.Sleep(10 * time.Second)
		look()
		require.Equal(t, 4, s.called("Activity"))
	})
}

func TestHandler_SurvivesASchedulerThatPanicsOrIgnoresItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, s := open(t)
		s.before = func(method string) {
			if method == "Health" || method == "Activity" {
				panic("oh no")
			}
		}
		w := send(h, "GET", "/", "")
		require.Equal(t, http.StatusOK, w.Code)
		require.Contains(t, w.Body.String(), "Health unknown")

		h, s = open(t)
		gate := make(chan struct{})
		s.before = func(string) { <-gate }
		before := time.Now()
		require.Equal(t, http.StatusServiceUnavailable, send(h, "GET", "/", "").Code)
		require.Equal(t, jobshttp.CallTimeout, time.Since(before))
		close(gate)
	})
}

func TestHandler_ServesConcurrentRequests(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	var all sync.WaitGroup
	for worker := range 20 {
		all.Go(func() {
			for i := range 25 {
				route := jobshttp.Routes()[(worker+i)%len(jobshttp.Routes())]
				if w := send(h, route[0], path(route[1], "demo.flaky", "12"), ""); w.Code >= 400 {
					panic(fmt.Sprint(route, w.Code, w.Body))
				}
				if i == 10 {
					s.set(func() { s.statuses[0].Waiting++ })
				}
			}
		})
	}
	all.Wait()
}

func TestListPage_WithoutJobs(t *testing.T) {
	t.Parallel()
	s := &full{}
	s.health = jobs.Health{Healthy: true, Started: true}
	h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
	require.Contains(t, visible(send(h, "GET", "/", "").Body.String()), "No jobs No jobs are registered in this process, or you may not see any of them.")
	require.JSONEq(t, `{"jobs": []}`, send(h, "GET", "/api/jobs", "").Body.String())
}

func FuzzTrigger(f *testing.F) {
	for _, name := range []string{"demo.flaky", "no.such", "", "..", "%2e%2e", "a/b", "demo.flaky/../x", "\x00", "ü"} {
		for _, body := range []string{"", "{}", `{"a":"<script>"}`, "[", "null", "\xff", `{"\u0000":1}`, `{"a":1e9999}`} {
			f.Add(name, body)
		}
	}
	f.Fuzz(func(t *testing.T, name, body string) {
		h, s := open(t)
		for _, prefix := range []string{"/api/jobs/", "/job/"} {
			contentType, sent := "application/json", body
			if prefix == "/job/" {
				contentType, sent = "application/x-www-form-urlencoded", url.Values{"data": {body}}.Encode()
			}
			r := httptest.NewRequest("POST", "http://jobs.example/", strings.NewReader(sent))
			r.URL = &url.URL{Path: prefix + name + "/trigger"}
			r.Header.Set("Content-Type", contentType)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Contains(t, []int{202, 303, 200, 400, 404, 405, 413}, w.Code, "%s", w.Body)
			if w.Code >= 400 && prefix == "/api/jobs/" {
				require.True(t, json.Valid(w.Body.Bytes()))
			}
			require.NotContains(t, w.Body.String(), "<script>")
		}
		for _, data := range s.data {
			require.True(t, json.Valid([]byte(data)))
		}
	})
}

func TestHealth_HidesReasonsOfJobsThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	_, s := open(t)
	s.set(func() {
		s.health = jobs.Health{Started: true, Reasons: []jobs.Reason{
			{Job: "audit.sync-all", Text: "is overdue"}, {Job: "audit.sync", Text: "is overdue"}, {Job: "elsewhere.job", Text: "is overdue"}, {Text: "no leader"},
		}}
	})
	h := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, _ jobshttp.Action, job string) error {
		return refuseUnless(job == "" || job == "audit.sync-all")
	}})
	var health struct{ Reasons []jobs.Reason }
	require.NoError(t, json.Unmarshal(send(h, "GET", "/healthz", "").Body.Bytes(), &health))
	require.Equal(t, []jobs.Reason{{Job: "audit.sync-all", Text: "is overdue"}, {Text: "no leader"}}, health.Reasons)
	page := send(h, "GET", "/", "").Body.String()
	require.Contains(t, page, "no leader")
	require.NotContains(t, page, "elsewhere.job")
}

func TestHealth_HidesTotalsUnlessAllJobsMayBeRead(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	s.health.OldestWaiting = time.Hour
	s.health.Totals = map[jobs.State]jobs.Count{jobs.StateCompleted: {N: 12, AtLeast: true}}
	for _, all := range []bool{true, false} {
		h := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, _ jobshttp.Action, job string) error {
			return refuseUnless(all || job != "email.stuck")
		}})
		want := `{"healthy": true, "started": true, "oldest_waiting_seconds": 0}`
		if all {
			want = `{"healthy": true, "started": true, "oldest_waiting_seconds": 3600, "totals": {"completed": 12}, "at_least": ["completed"]}`
		}
		require.JSONEq(t, want, send(h, "GET", "/healthz", "").Body.String())
	}
}

// jobless is a scheduler whose Jobs fails.
type jobless struct{ *full }

func (jobless) Jobs(context.Context) ([]jobs.Status, error) { return nil, errors.New("no answer") }

func TestHealth_HidesTotalsIfTheJobsAreUnknown(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	s.health = jobs.Health{
		Started: true, Reasons: []jobs.Reason{{Job: "email.stuck", Text: "is overdue by 12m0s"}, {Text: "no leader"}}, OldestWaiting: time.Hour,
		Totals: map[jobs.State]jobs.Count{jobs.StateCompleted: {N: 12}},
	}
	h := jobshttp.New(jobless{s}, &jobshttp.Options{Authorize: func(_ *http.Request, _ jobshttp.Action, job string) error {
		return refuseUnless(job != "email.stuck")
	}})
	w := send(h, "GET", "/healthz", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.JSONEq(t, `{"healthy": false, "started": true, "oldest_waiting_seconds": 0, "reasons": [{"text": "no leader"}]}`, w.Body.String())
}

func TestHandler_AllowsHeadWhereverGetIsAllowed(t *testing.T) {
	t.Parallel()
	h, _ := open(t)
	require.Equal(t, "GET, HEAD", send(h, "DELETE", "/api/jobs", "").Header().Get("Allow"))
	require.Equal(t, "POST", send(h, "GET", "/api/jobs/demo.flaky/trigger", "").Header().Get("Allow"))
}

func TestCached_ExpiresAfterAnAction(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	look := func() (health, runs, all int) {
		send(h, "GET", "/", "")
		send(h, "GET", "/healthz", "")
		return s.called("Health"), s.called("Runs"), s.called("Jobs")
	}
	health, runs, all := look()
	require.Equal(t, http.StatusAccepted, send(h, "POST", "/api/jobs/demo.flaky/trigger", "").Code)
	health2, runs2, all2 := look()
	require.Greater(t, health2, health)
	require.Greater(t, runs2, runs)
	require.Greater(t, all2, all)
}

func TestAPIJob_ListsNoRunsAsAnEmptyArray(t *testing.T) {
	t.Parallel()
	h, _ := open(t)
	var out map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(send(h, "GET", "/api/jobs/audit.retention", "").Body.Bytes(), &out))
	require.Equal(t, "[]", string(out["runs"]))
}

// slow is a scheduler whose first call of Jobs blocks until release is closed.
type slow struct {
	*full
	answered       *atomic.Bool
	asked, release chan struct{}
}

func (s slow) Jobs(ctx context.Context) ([]jobs.Status, error) {
	all, err := s.full.Jobs(ctx)
	if !s.answered.Swap(true) {
		close(s.asked)
		<-s.release
	}
	return all, err
}

func TestCached_DropsResultsLoadedBeforeAnAction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := slow{newFake(time.Now()), new(atomic.Bool), make(chan struct{}), make(chan struct{})}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		first := make(chan string, 1)
		go func() { first <- send(h, "GET", "/api/jobs/demo.flaky", "").Body.String() }()
		<-s.asked
		require.Equal(t, http.StatusOK, send(h, "POST", "/api/jobs/demo.flaky/pause", "").Code)
		require.Contains(t, send(h, "GET", "/api/jobs/demo.flaky", "").Body.String(), "paused_since")
		close(s.release)
		<-first
		synctest.Wait()
		require.Contains(t, send(h, "GET", "/api/jobs/demo.flaky", "").Body.String(), "paused_since")
	})
}

func TestCached_KeepsAnErrorForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, s := open(t)
		s.set(func() { s.down = errors.New("no answer") })
		require.Equal(t, http.StatusServiceUnavailable, send(h, "GET", "/api/activity", "").Code)
		s.set(func() { s.down = nil })
		time.Sleep(1100 * time.Millisecond)
		require.Equal(t, http.StatusOK, send(h, "GET", "/api/activity", "").Code)
	})
}
