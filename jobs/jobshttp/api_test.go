package jobshttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// code returns the code of an error of the API.
func code(w *httptest.ResponseRecorder) string {
	var answer struct{ Error struct{ Code string } }
	_ = json.Unmarshal(w.Body.Bytes(), &answer)
	return answer.Error.Code
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) (v T) {
	require.Less(t, w.Code, 300, w.Body)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
	return v
}

func TestAPITrigger_TakesOptions(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	at := time.Date(2026, 11, 30, 7, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		query string
		want  jobs.Request
	}{
		{"", jobs.Request{}},
		{"delay=90", jobs.Request{Delay: 90 * time.Second}},
		{"delay=0.001", jobs.Request{Delay: time.Millisecond}},
		{"delay=999999999.999", jobs.Request{Delay: 999999999999 * time.Millisecond}},
		{"delay=0", jobs.Request{}},
		{"at=2026-11-30T07:00:00Z", jobs.Request{At: at}},
		{"at=2026-11-30T08:00:00%2B01:00", jobs.Request{At: at}},
		{"priority=4", jobs.Request{Priority: 4}},
		{"unique=order+7", jobs.Request{Unique: "order 7"}},
		{"unique_waiting=k", jobs.Request{Unique: "k", UniqueMode: jobs.UniqueModeWaiting}},
		{"latest=k&delay=5", jobs.Request{Unique: "k", UniqueMode: jobs.UniqueModeLatest, Delay: 5 * time.Second}},
		{"unique=k&priority=1&delay=1", jobs.Request{Unique: "k", Priority: 1, Delay: time.Second}},
	} {
		w := send(h, "POST", "/api/jobs/demo.flaky/trigger?"+row.query, "")
		require.Equal(t, http.StatusAccepted, w.Code, "%s: %s", row.query, w.Body)
		row.want.Name, row.want.Data = "demo.flaky", []byte("{}")
		require.Equal(t, row.want, *s.requests[len(s.requests)-1], row.query)
	}
}

func TestAPI_RefusesInvalidParameters(t *testing.T) {
	t.Parallel()
	const trigger, runs = "/api/jobs/demo.flaky/trigger", "/api/runs"
	for _, row := range []struct {
		method, path, query, want, contains string
	}{
		{"POST", trigger, "delay=-1", "invalid_parameter", "number of seconds"},
		{"POST", trigger, "delay=1m", "invalid_parameter", "such as 90 or 1.5"},
		{"POST", trigger, "delay=1e3", "invalid_parameter", "number of seconds"},
		{"POST", trigger, "delay=0.0001", "invalid_parameter", "three decimals"},
		{"POST", trigger, "delay=1000000000", "invalid_parameter", "999999999.999"},
		{"POST", trigger, "delay=NaN", "invalid_parameter", "number of seconds"},
		{"POST", trigger, "delay=1&at=2026-11-30T07:00:00Z", "invalid_parameter", "exclude each other"},
		{"POST", trigger, "at=tomorrow", "invalid_parameter", "such as 2026-11-30T08:00:00Z"},
		{"POST", trigger, "at=2026-11-30T08:00:00+01:00", "invalid_parameter", "%2B"},
		{"POST", trigger, "at=0001-01-01T00:00:00Z", "invalid_parameter", "must be a time"},
		{"POST", trigger, "at=0001-01-01T00:30:00%2B01:00", "invalid_parameter", "years 1 to 9999"},
		{"POST", trigger, "priority=0", "invalid_parameter", "from 1"},
		{"POST", trigger, "priority=5", "invalid_parameter", "to 4"},
		{"POST", trigger, "unique=" + strings.Repeat("x", 1001), "invalid_parameter", "1001 bytes, must be 1 to 1000"},
		{"POST", trigger, "latest=" + strings.Repeat("x", 1001), "invalid_parameter", "latest has 1001 bytes"},
		{"POST", trigger, "unique=a&latest=a", "invalid_parameter", "exclude each other"},
		{"POST", trigger, "unique_waiting=a&latest=a", "invalid_parameter", "exclude each other"},
		{"POST", trigger, "unique=", "invalid_parameter", "unique is empty"},
		{"POST", trigger, "delay=1&delay=2", "invalid_parameter", "delay is given 2 times"},
		{"POST", trigger, "dely=1", "unknown_parameter", `"dely": this path takes at, delay, latest, priority, unique, unique_waiting`},
		{"POST", trigger, "delay=%zz", "invalid_parameter", "malformed"},
		{"POST", trigger, "delay=1;priority=2", "invalid_parameter", "malformed"},
		{"GET", "/api/jobs", "q=x", "unknown_parameter", "takes none"},
		{"GET", runs, "state=done", "invalid_parameter", "scheduled, waiting, running"},
		{"GET", runs, "state=failed&state=", "invalid_parameter", "state is empty"},
		{"GET", runs, "name=", "invalid_parameter", "name is empty"},
		{"GET", runs, "name=no.such", "unknown_job", "no such job"},
		{"GET", runs, "name=demo.flaky&name=No", "unknown_job", "no such job"},
		{"GET", runs, "since=1h", "invalid_parameter", "since must be a time"},
		{"GET", runs, "until=1h", "invalid_parameter", "until must be a time"},
		{"GET", runs, "since=2026-11-30T08:00:00Z&until=2026-11-30T08:00:00Z", "invalid_parameter", "before until"},
		{"GET", runs, "limit=0", "invalid_parameter", "from 1 to 1000"},
		{"GET", runs, "limit=1001", "invalid_parameter", "from 1 to 1000"},
		{"GET", runs, "after=nonsense", "invalid_parameter", "the page before"},
		{"POST", runs + "/retry", "", "missing_filter", "name, state, since or until"},
		{"POST", runs + "/cancel", "dry_run=true", "missing_filter", "name, state, since or until"},
		{"POST", runs + "/cancel", "state=failed&dry_run=1", "invalid_parameter", "true or false"},
		{"POST", runs + "/cancel", "state=failed&limit=5", "unknown_parameter", "dry_run, name, since, state, until"},
	} {
		h, s := open(t)
		w := send(h, row.method, row.path+"?"+row.query, "")
		about := fmt.Sprintf("%s %s?%s: %s", row.method, row.path, row.query, w.Body)
		require.GreaterOrEqual(t, w.Code, 400, about)
		require.Less(t, w.Code, 500, about)
		require.Equal(t, row.want, code(w), about)
		var answer struct{ Error struct{ Message string } }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), about)
		require.Contains(t, answer.Error.Message, row.contains, about)
		require.NotContains(t, answer.Error.Message, "jobs: ", about)
		require.Empty(t, s.requests, about)
		require.Zero(t, s.calls["RetryMany"]+s.calls["CancelMany"], about)
	}
}

func TestAPI_RefusesFieldsThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/api/jobs/demo.flaky/pause", "/api/jobs/demo.flaky/resume", "/api/jobs/demo.flaky/runs/12/cancel",
		"/api/jobs/demo.flaky/runs/12/retry", "/api/runs/retry?state=failed", "/api/runs/cancel?state=waiting",
	} {
		h, _ := open(t)
		for body, want := range map[string]string{
			`{"reason": "maintenance"}`: `unknown field \"reason\"`, "null": "empty or {}", "[]": "empty or {}", "{": "empty or {}", "x": "empty or {}",
		} {
			w := send(h, "POST", path, body)
			require.Equal(t, http.StatusBadRequest, w.Code, "%s %s", path, body)
			require.Equal(t, "invalid_body", code(w))
			require.Contains(t, w.Body.String(), want)
		}
		for _, body := range []string{"", " \n", "{}", " { } "} {
			require.Less(t, send(h, "POST", path, body).Code, 300, "%s %s", path, body)
		}
	}
}

// The Location of an accepted action leads to the run, also below a prefix.
func TestAPI_LocationLeadsToTheRun(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"41", "a/b c?d#e%20"} {
		s := newFake(time.Now())
		s.set(func() {
			s.newID = id
			s.runs["demo.flaky"] = append(s.runs["demo.flaky"], jobs.Run{ID: id, Name: "demo.flaky", State: jobs.StateFailed})
		})
		srv := httptest.NewServer(http.StripPrefix("/admin", jobshttp.New(s, &jobshttp.Options{Authorize: everybody})))
		defer srv.Close()
		run := srv.URL + "/admin/api/jobs/demo.flaky/runs/" + url.PathEscape(id)
		for _, at := range []string{srv.URL + "/admin/api/jobs/demo.flaky/trigger?delay=1", run + "/cancel", run + "/retry"} {
			res, err := srv.Client().Post(at, "application/json", nil)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, http.StatusAccepted, res.StatusCode, at)
			to, err := res.Location()
			require.NoError(t, err)
			res, err = srv.Client().Get(to.String())
			require.NoError(t, err)
			var found struct{ ID, Name string }
			require.NoError(t, json.NewDecoder(res.Body).Decode(&found))
			res.Body.Close()
			require.Equal(t, id, found.ID, to)
			require.Equal(t, "demo.flaky", found.Name)
		}
	}
}

func TestAPITrigger_TakesAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	const trigger = "/api/jobs/demo.flaky/trigger"
	for header, want := range map[string]string{
		`8e03978e-40d5`: "8e03978e-40d5", `"8e03978e-40d5"`: "8e03978e-40d5", `"with \"quotes\" and \\"`: `with "quotes" and \`,
		strings.Repeat("k", 1000): strings.Repeat("k", 1000), `"` + strings.Repeat("k", 1000) + `"`: strings.Repeat("k", 1000),
	} {
		h, s := open(t)
		require.Equal(t, http.StatusAccepted, send(h, "POST", trigger, "", "Idempotency-Key", header).Code, header)
		require.Equal(t, want, s.requests[0].IdempotencyKey)
	}
	for _, header := range []string{"", `""`, `"`, `"open`, `open"`, "two words", `"a", "b"`, "a,b", "ü", `"\x"`, "a\x00", strings.Repeat("k", 1001)} {
		h, s := open(t)
		w := send(h, "POST", trigger, "", "Idempotency-Key", header)
		require.Equal(t, http.StatusBadRequest, w.Code, header)
		require.Equal(t, "invalid_parameter", code(w))
		require.Empty(t, s.requests)
	}
	h, _ := open(t)
	require.Equal(t, http.StatusBadRequest, send(h, "POST", trigger+"?unique=a", "", "Idempotency-Key", "b").Code)
}

// A request can be repeated until the run is deleted.
func TestAPITrigger_CanBeRepeatedWithAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(&memory.Config{Retention: time.Hour})
		require.NoError(t, err)
		n := 0
		require.NoError(t, s.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error { n++; return nil }))
		require.NoError(t, s.Start(t.Context()))
		defer func() { require.NoError(t, s.Shutdown(context.WithoutCancel(t.Context()))) }()
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		repeat := func(query, body string) *httptest.ResponseRecorder {
			return send(h, "POST", "/api/jobs/email.send/trigger"+query, body, "Idempotency-Key", `"key"`)
		}
		first := repeat("?delay=5", `{"to": "ann"}`)
		for range 3 {
			again := repeat("?delay=5", ` {"to":"ann"}`)
			require.Equal(t, first.Code, again.Code)
			require.Equal(t, first.Body, again.Body)
			require.Equal(t, first.Header(), again.Header())
			time.Sleep(4 * time.Second)
		}
		require.Equal(t, 1, n)
		for _, w := range []*httptest.ResponseRecorder{repeat("?delay=5", `{"to": "bob"}`), repeat("?delay=6", `{"to": "ann"}`), repeat("", `{"to": "ann"}`)} {
			require.Equal(t, http.StatusUnprocessableEntity, w.Code)
			require.Equal(t, "idempotency_key_reused", code(w))
		}
		time.Sleep(2 * time.Hour)
		later := repeat("?delay=5", `{"to": "ann"}`)
		require.Equal(t, http.StatusAccepted, later.Code)
		require.NotEqual(t, first.Body, later.Body, "the first run is deleted")
	})
}

type runPage struct {
	Runs []struct {
		ID, Name string
		State    jobs.State
	}
	Next string
}

func TestAPIRuns_FiltersAndPages(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	ids := func(query string) string {
		page := decode[runPage](t, send(h, "GET", "/api/runs?"+query, ""))
		var all []string
		for _, run := range page.Runs {
			all = append(all, run.ID)
		}
		return strings.TrimSuffix(strings.Join(all, " ")+" next="+page.Next, " next=")
	}
	require.Equal(t, "12 11 10 21", ids(""))
	require.Equal(t, "12 11 10", ids("name=demo.flaky"))
	require.Equal(t, "12 11 10 21", ids("name=demo.flaky&name=email.send"))
	require.Equal(t, "12 11", ids("state=failed&state=retrying"))
	require.Equal(t, "12 11 next=2", ids("limit=2"))
	require.Equal(t, "10 21", ids("limit=2&after=2"))
	s.set(func() { s.queries = nil })
	ids("name=demo.flaky&state=failed&since=2026-11-30T08:00:00Z&until=2026-11-30T10:00:00%2B01:00&limit=7&after=3")
	require.Equal(t, []jobs.RunQuery{{
		Names: []string{"demo.flaky"}, States: []jobs.State{jobs.StateFailed}, After: "3", Limit: 7,
		Since: time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC),
	}}, utc(s.queries))
}

func utc(all []jobs.RunQuery) []jobs.RunQuery {
	for i := range all {
		all[i].Since, all[i].Until = all[i].Since.UTC(), all[i].Until.UTC()
	}
	return all
}

func TestAPIRuns_ShowsOnlyWhatTheCallerMayRead(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	h := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, action jobshttp.Action, job string) error {
		return refuseUnless(job != "demo.flaky" && (action == jobshttp.ActionRead || job != "email.stuck"))
	}})
	require.Len(t, decode[runPage](t, send(h, "GET", "/api/runs", "")).Runs, 1)
	require.Equal(t, []string{"audit.retention", "email.send", "email.stuck", "notifs.cleanup"}, s.queries[0].Names)
	for _, method := range []string{"GET", "POST"} {
		for _, at := range map[string][]string{"GET": {"/api/runs"}, "POST": {"/api/runs/retry", "/api/runs/cancel"}}[method] {
			hidden, none := send(h, method, at+"?name=demo.flaky", ""), send(h, method, at+"?name=demo.other", "")
			require.Equal(t, http.StatusNotFound, hidden.Code, at)
			require.Equal(t, none.Body, hidden.Body, at)
			require.Equal(t, none.Header(), hidden.Header(), at)
		}
	}
	hidden, none := send(h, "GET", "/api/runs/12", ""), send(h, "GET", "/api/runs/99", "")
	require.Equal(t, http.StatusNotFound, hidden.Code)
	require.Equal(t, none.Body, hidden.Body)
	require.Equal(t, http.StatusNotFound, send(h, "GET", "/api/jobs/email.send/runs/12", "").Code, "a run of another job")
	require.Equal(t, http.StatusOK, send(h, "GET", "/api/jobs/email.send/runs/21", "").Code)
	require.NotContains(t, send(h, "GET", "/api/processes", "").Body.String(), "demo.flaky")

	require.Equal(t, http.StatusForbidden, send(h, "POST", "/api/runs/retry?name=email.stuck", "").Code, "may be read only")
	s.set(func() { s.queries = nil })
	require.Equal(t, http.StatusOK, send(h, "POST", "/api/runs/cancel?state=running", "").Code)
	require.Equal(t, []string{"audit.retention", "email.send", "notifs.cleanup"}, s.queries[0].Names)

	nothing := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, _ jobshttp.Action, job string) error {
		return refuseUnless(job == "")
	}})
	s.set(func() { s.queries = nil })
	require.JSONEq(t, `{"runs": []}`, send(nothing, "GET", "/api/runs", "").Body.String())
	require.JSONEq(t, `{"count": 0, "dry_run": false}`, send(nothing, "POST", "/api/runs/cancel?state=waiting", "").Body.String())
	require.Empty(t, s.queries, "no query that would mean all jobs")
}

func TestAPIRuns_HidesDataUnlessShowDataIsSet(t *testing.T) {
	t.Parallel()
	for _, show := range []bool{false, true} {
		h := jobshttp.New(newFake(time.Now()), &jobshttp.Options{Authorize: everybody, ShowData: show})
		for _, path := range []string{"/api/runs", "/api/runs/12", "/api/jobs/demo.flaky/runs/12"} {
			body := send(h, "GET", path, "").Body.String()
			require.Equal(t, show, strings.Contains(body, "ann@example.com"), "data of %s", path)
			require.Equal(t, show, strings.Contains(body, "bob@example.com"), "output of %s", path)
		}
	}
}

func TestAPIBulk_CountsOrActs(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := newFake(time.Now())
	h := jobshttp.New(s, &jobshttp.Options{
		Authorize: everybody, Logger: slog.New(slog.NewTextHandler(&log, nil)), Who: func(*http.Request) string { return "ann" },
	})
	for _, row := range []struct{ path, want, called string }{
		{"/api/runs/retry?state=failed&state=retrying&dry_run=true", `{"count": 2, "dry_run": true}`, "CountRetryable"},
		{"/api/runs/retry?state=failed", `{"count": 1, "dry_run": false}`, "RetryMany"},
		{"/api/runs/cancel?name=email.send&dry_run=true", `{"count": 1, "dry_run": true}`, "CountCancellable"},
		{"/api/runs/cancel?name=demo.flaky&name=email.send&dry_run=false", `{"count": 2, "dry_run": false}`, "CancelMany"},
	} {
		s.set(func() { s.calls = nil })
		log.Reset()
		w := send(h, "POST", row.path, "")
		require.Equal(t, http.StatusOK, w.Code, row.path)
		require.JSONEq(t, row.want, w.Body.String(), row.path)
		require.Equal(t, 1, s.called(row.called), row.path)
		for _, other := range []string{"CountRetryable", "RetryMany", "CountCancellable", "CancelMany"} {
			require.True(t, other == row.called || s.called(other) == 0, "%s calls %s", row.path, other)
		}
		if strings.HasPrefix(row.called, "Count") {
			require.Empty(t, log.String(), "counting is no action")
		} else {
			require.Contains(t, log.String(), `msg="manual action" action=`)
			require.Contains(t, log.String(), "who=ann")
		}
	}
	s.set(func() { s.halfway = errors.New("dial tcp 10.1.2.3: connection reset") })
	w := send(h, "POST", "/api/runs/retry?state=failed&state=retrying", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), `"count": 2`)
	require.NotContains(t, w.Body.String(), "10.1.2.3")
	require.Contains(t, log.String(), "runs=2", "what was done is logged")
}

func TestAPIProcesses_ListsThem(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	now := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	s.processes = []jobs.Process{
		{
			ID: "one", Host: "web-1", PID: 7, Version: "v1.2.3", StartedAt: now.Add(-time.Hour), SeenAt: now, Alive: true,
			Leader: true, Self: true, Jobs: []string{"audit.retention", "demo.flaky"}, Workers: 100, Busy: 3,
		},
		{ID: "two", Host: "web-2", PID: 8, StartedAt: now.Add(-time.Minute), SeenAt: now.Add(-time.Minute)},
	}
	require.JSONEq(t, `{"processes": [
		{"id": "one", "host": "web-1", "pid": 7, "version": "v1.2.3", "started_at": "2026-11-30T07:00:00Z", "seen_at": "2026-11-30T08:00:00Z",
			"alive": true, "leader": true, "self": true, "jobs": ["audit.retention", "demo.flaky"], "workers": 100, "busy": 3},
		{"id": "two", "host": "web-2", "pid": 8, "started_at": "2026-11-30T07:59:00Z", "seen_at": "2026-11-30T07:59:00Z",
			"alive": false, "leader": false, "self": false, "jobs": [], "workers": 0, "busy": 0}]}`,
		send(h, "GET", "/api/processes", "").Body.String())
}

func TestAPI_AnswersNotModified(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	for _, path := range []string{"/api/jobs", "/api/jobs/demo.flaky", "/api/runs", "/api/runs/12", "/api/processes", "/api/openapi.json"} {
		w := send(h, "GET", path, "")
		tag := w.Header().Get("ETag")
		require.Regexp(t, `^W/"[0-9a-f]{32}"$`, tag, path)
		for _, header := range []string{tag, `"x", ` + tag, strings.TrimPrefix(tag, "W/"), "*"} {
			w := send(h, "GET", path, "", "If-None-Match", header)
			require.Equal(t, http.StatusNotModified, w.Code, "%s %s", path, header)
			require.Equal(t, tag, w.Header().Get("ETag"))
			require.Empty(t, w.Body.String())
		}
		require.Equal(t, http.StatusOK, send(h, "GET", path, "", "If-None-Match", `"x"`).Code, path)
	}
	before := send(h, "GET", "/api/runs/12", "").Header().Get("ETag")
	s.set(func() { s.runs["demo.flaky"][0].Attempt++ })
	require.Equal(t, http.StatusOK, send(h, "GET", "/api/runs/12", "", "If-None-Match", before).Code, "it has changed")
	s.set(func() { s.down = errors.New("no route to host") })
	w := send(h, "GET", "/api/runs/12", "", "If-None-Match", "*")
	require.Equal(t, http.StatusServiceUnavailable, w.Code, "an error has no tag")
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}

// Lists of runs have a limited size, and pages still have every run once.
func TestAPI_BoundsListsOfRuns(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	const n = 40
	s.set(func() {
		s.runs = map[string][]jobs.Run{}
		for i := range n {
			s.runs["demo.flaky"] = append(s.runs["demo.flaky"], jobs.Run{
				ID: fmt.Sprint(i), Name: "demo.flaky", State: jobs.StateFailed, EndedAt: time.Unix(int64(1000-i), 0),
				Data: json.RawMessage(`{"x": "` + strings.Repeat("x", 300_000) + `"}`),
			})
		}
	})
	h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody, ShowData: true})
	var seen []string
	after := ""
	for {
		w := send(h, "GET", "/api/runs?limit=40"+after, "")
		require.LessOrEqual(t, w.Body.Len(), jobshttp.MaxRunsBytes+1000)
		page := decode[runPage](t, w)
		for _, run := range page.Runs {
			seen = append(seen, run.ID)
		}
		if page.Next == "" {
			break
		}
		after = "&after=" + url.QueryEscape(page.Next)
	}
	require.Len(t, seen, n)
	for i, id := range seen {
		require.Equal(t, fmt.Sprint(i), id)
	}
	w := send(h, "GET", "/api/jobs/demo.flaky?runs=40", "")
	require.LessOrEqual(t, w.Body.Len(), jobshttp.MaxRunsBytes+1000)
	require.NotEmpty(t, decode[runPage](t, w).Runs)

	s.set(func() { // a single run is shown, however large, with the latest errors
		run := &s.runs["demo.flaky"][0]
		for i := range 30 {
			run.Errors = append(run.Errors, jobs.RunError{Attempt: i + 1, Text: strings.Repeat("x", jobshttp.MaxErrors/10)})
		}
	})
	run := decode[struct {
		Errors  []struct{ Attempt int }
		Omitted int `json:"errors_omitted"`
	}](t, send(h, "GET", "/api/runs/0", ""))
	require.Len(t, run.Errors, 10)
	require.Equal(t, 20, run.Omitted)
	require.Equal(t, 30, run.Errors[9].Attempt)
}

// The API of a scheduler of the memory provider, from the trigger to the bulk retry.
func TestAPI_WithTheMemoryProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(nil)
		require.NoError(t, err)
		broken := true
		require.NoError(t, s.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error {
			if broken {
				return jobs.Permanent(errors.New("smtp: connection refused"))
			}
			return nil
		}))
		require.NoError(t, s.Start(t.Context()))
		defer func() { require.NoError(t, s.Shutdown(context.WithoutCancel(t.Context()))) }()
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody, ShowData: true})
		const trigger = "/api/jobs/email.send/trigger"
		for i := range 3 {
			require.Equal(t, http.StatusAccepted, send(h, "POST", trigger, fmt.Sprintf(`{"n": %d}`, i)).Code)
		}
		first := decode[struct{ ID string }](t, send(h, "POST", trigger+"?unique=k&delay=3600", ""))
		require.Equal(t, first, decode[struct{ ID string }](t, send(h, "POST", trigger+"?unique=k", "")))
		time.Sleep(11 * time.Second)
		require.Len(t, decode[runPage](t, send(h, "GET", "/api/runs?state=failed", "")).Runs, 3)
		page := decode[runPage](t, send(h, "GET", "/api/runs?limit=3", ""))
		require.Equal(t, first.ID, page.Runs[0].ID, "is due last")
		rest := decode[runPage](t, send(h, "GET", "/api/runs?limit=3&after="+url.QueryEscape(page.Next), ""))
		require.Len(t, rest.Runs, 1)
		require.Empty(t, rest.Next)
		require.Equal(t, "invalid_parameter", code(send(h, "GET", "/api/runs?after=nonsense", "")))
		require.Contains(t, send(h, "GET", "/api/runs/"+rest.Runs[0].ID, "").Body.String(), "connection refused")

		broken = false
		require.JSONEq(t, `{"count": 3, "dry_run": true}`, send(h, "POST", "/api/runs/retry?name=email.send&dry_run=true", "").Body.String())
		require.JSONEq(t, `{"count": 3, "dry_run": false}`, send(h, "POST", "/api/runs/retry?name=email.send", "").Body.String())
		time.Sleep(11 * time.Second)
		require.Len(t, decode[runPage](t, send(h, "GET", "/api/runs?state=completed", "")).Runs, 3)
		require.JSONEq(t, `{"count": 1, "dry_run": false}`, send(h, "POST", "/api/runs/cancel?state=scheduled", "").Body.String())
		require.Equal(t, jobs.StateCancelled, decode[struct{ State jobs.State }](t, send(h, "GET", "/api/runs/"+first.ID, "")).State)
		all := decode[struct{ Processes []struct{ Self bool } }](t, send(h, "GET", "/api/processes", ""))
		require.Len(t, all.Processes, 1)
		require.True(t, all.Processes[0].Self)
	})
}
