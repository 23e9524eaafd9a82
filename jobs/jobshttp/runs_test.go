package jobshttp_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func TestRunsPage_ListsWhatItsAddressAsksFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		s := newFake(time.Now())
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		for query, want := range map[string][]string{
			"":                             {"12", "21", "11", "10"},
			"state=failed":                 {"11"},
			"state=failed&state=completed": {"11", "10"},
			"name=email.send":              {"21"},
			"name=email":                   {"21"},
			"name=DEMO+nothing-like-it":    {"12", "11", "10"},
			"name=demo.flaky+email.send":   {"12", "21", "11", "10"},
			"name=nothing-like-it":         nil,
			"since=2000-01-01T14:53":       {"12", "11"},
			"since=2000-01-01T14:53Z":      {"12", "11"},
			"since=2000-01-01T15:53%2B01:00&until=2000-01-01T14:59:59": {"11"},
			"until=2000-01-01T14:00&name=demo":                         nil,
			"state=&since=&until=&after=":                              {"12", "21", "11", "10"},
		} {
			w := send(h, "GET", "/runs?"+query, "")
			require.Equal(t, http.StatusOK, w.Code, query)
			var ids []string
			for _, m := range regexp.MustCompile(`<tr id="run-(\d+)"`).FindAllStringSubmatch(w.Body.String(), -1) {
				ids = append(ids, m[1])
			}
			slices.Sort(want)
			slices.Sort(ids)
			require.Equal(t, want, ids, query)
			require.Equal(t, want == nil, strings.Contains(w.Body.String(), "No run matches."), query)
		}
		page := send(h, "GET", "/runs?state=failed&name=demo&since=2000-01-01T12:00", "").Body.String()
		require.Contains(t, page, `value="failed" checked`)
		require.NotContains(t, page, `value="completed" checked`)
		require.Contains(t, page, `name="name" value="demo"`)
		require.Contains(t, page, `name="since" step="1" value="2000-01-01T12:00:00"`)
		require.Contains(t, visible(page), "11 demo.flaky ✗ failed 5 min ago 14:54:00 UTC tick 14:53:00 UTC 340 ms waited 1 min 0 s 3 of 3 panic: boom … all 3 lines panic: boom main.f /a.go:1 Retry run 11")
		require.NotContains(t, page, "ann@example.com")

		// Links to what is often looked for.
		require.Contains(t, page, `<a href="./runs?since=2000-01-01T14%3A00%3A00Z&amp;state=failed">failed in the last hour</a>`)
		require.Contains(t, page, `<a href="./runs?since=1999-12-31T22%3A00%3A00Z&amp;state=failed" data-clock="22:00">failed since 22:00 UTC</a>`)
		require.Contains(t, send(h, "GET", "/", "").Body.String(), `data-clock="22:00">failed since 22:00 UTC</a>`)

		// What a button on the page has done.
		require.Contains(t, visible(send(h, "GET", "/runs?done=retry&job=demo.flaky&run=11&state=failed", "").Body.String()), "✓ The run will be retried now. demo.flaky, run 11")
	})
}

func TestRunsPage_SaysWhatIsWrongWithItsAddress(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	for query, want := range map[string]string{
		"since=yesterday": "Since must be a time such as 2026-01-31T22:00 in UTC",
		"until=25:00":     "Until must be a time",
		"state=broken":    "State must be one of scheduled, waiting, running, retrying, completed, failed, cancelled, skipped",
		"after=nonsense":  "is not valid; start with the first page",
		"since=2026-01-02T00:00&until=2026-01-01T00:00": "Until must be after since",
	} {
		w := send(h, "GET", "/runs?"+query, "")
		require.Equal(t, http.StatusBadRequest, w.Code, query)
		require.Contains(t, w.Body.String(), want)
		require.Contains(t, w.Body.String(), `id="filter"`, "the form can be corrected")
		if !strings.HasPrefix(query, "after") {
			require.Equal(t, http.StatusBadRequest, send(h, "GET", "/runs/retry?"+query, "").Code, query)
			require.Equal(t, http.StatusBadRequest, send(h, "POST", "/runs/retry", query).Code, query)
		}
	}
	require.Equal(t, http.StatusBadRequest, send(h, "POST", "/runs/retry", "before=noon").Code)
	require.Zero(t, s.called("RetryMany"))
	s.set(func() { s.down = errors.New("dial tcp 10.1.2.3: no route to host") })
	for _, w := range []*httptest.ResponseRecorder{
		send(h, "GET", "/runs", ""), send(h, "GET", "/runs/retry", ""), send(h, "POST", "/runs/retry", ""), send(h, "GET", "/runs/11", ""),
	} {
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.NotContains(t, w.Body.String(), "10.1.2.3")
		require.NotContains(t, w.Body.String(), "No run")
	}
}

func TestRunsPage_HasPages(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	now := time.Now()
	s.set(func() {
		s.runs = map[string][]jobs.Run{}
		for i := range 250 {
			s.runs["demo.flaky"] = append(s.runs["demo.flaky"], jobs.Run{
				ID: fmt.Sprint(1000 - i), Name: "demo.flaky", State: jobs.StateFailed, CreatedAt: now, StartedAt: now,
				EndedAt: now.Add(time.Duration(-i) * time.Second), Attempt: 3, MaxAttempts: 3, Error: "broken",
			})
		}
	})
	var ids []string
	at := "/runs?state=failed"
	for n := 1; at != ""; n++ {
		page := send(h, "GET", at, "").Body.String()
		for _, m := range regexp.MustCompile(`<tr id="run-(\d+)"`).FindAllStringSubmatch(page, -1) {
			ids = append(ids, m[1])
		}
		require.Equal(t, n > 1, strings.Contains(page, ">First page<"))
		require.Equal(t, n == 1, strings.Contains(page, `http-equiv="refresh"`), "only the first page refreshes itself")
		at = ""
		if m := regexp.MustCompile(`href="\./(runs\?[^"]*)" rel="next"`).FindStringSubmatch(page); m != nil {
			at = "/" + strings.ReplaceAll(m[1], "&amp;", "&")
			require.Contains(t, at, "state=failed")
		}
	}
	require.Len(t, ids, 250)
	require.Equal(t, "1000", ids[0])
	require.Equal(t, "751", ids[249])
}

func TestRunsPage_RetriesAllThatMatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		var log bytes.Buffer
		s := newFake(time.Now())
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody, Logger: slog.New(slog.NewJSONHandler(&log, nil)), Who: func(*http.Request) string { return "ann" }})
		page := send(h, "GET", "/runs?state=failed&since=2000-01-01T12:00", "").Body.String()
		require.Contains(t, page, `href="./runs/retry?since=2000-01-01T12%3A00%3A00Z&amp;state=failed">Retry all that match …</a>`)
		require.NotContains(t, page, "Cancel all", "failed runs cannot be cancelled")
		require.NotContains(t, send(h, "GET", "/runs?state=completed", "").Body.String(), "all that match")

		page = send(h, "GET", "/runs/retry?since=2000-01-01T12%3A00%3A00Z&state=failed", "").Body.String()
		require.Contains(t, visible(page), "Retry 1 run? All jobs State: failed Since 12:00:00 UTC Until 15:00:00 UTC Retry 1 run Back")
		require.Zero(t, s.called("RetryMany"), "before it is confirmed")
		form := url.Values{}
		for _, m := range regexp.MustCompile(`type="hidden" name="(\w+)" value="([^"]*)"`).FindAllStringSubmatch(page, -1) {
			form.Add(m[1], m[2])
		}
		time.Sleep(time.Minute) // runs that fail meanwhile are not among those counted
		s.set(func() { s.queries = nil })
		w := send(h, "POST", "/runs/retry", form.Encode())
		require.Equal(t, http.StatusSeeOther, w.Code, w.Body)
		require.Equal(t, "../runs?done=retry&n=1&since=2000-01-01T12%3A00%3A00Z&state=failed", w.Header().Get("Location"))
		noon := time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC)
		require.Equal(t, []jobs.RunQuery{{States: []jobs.State{jobs.StateFailed}, Since: noon, Until: noon.Add(3 * time.Hour)}}, s.queries)
		require.Contains(t, log.String(), `"action":"retry","runs":1,"jobs":"","states":["failed"],"since":"2000-01-01T12:00:00Z"`)
		require.Contains(t, log.String(), `"who":"ann"`)
		require.Contains(t, visible(send(h, "GET", "/runs?done=retry&n=4870", "").Body.String()), "✓ Retried 4,870 runs. They start as workers become free.")

		page = visible(send(h, "GET", "/runs/cancel?name=email.send", "").Body.String())
		require.Contains(t, page, "Cancel 1 run? Job: email.send All states in which a run can be cancelled Cancel 1 run Back")
		require.Equal(t, "../runs?done=cancel&n=1&name=email.send", send(h, "POST", "/runs/cancel", "name=email.send").Header().Get("Location"))
		require.Equal(t, []string{"email.send"}, s.queries[len(s.queries)-1].Names)

		page = visible(send(h, "GET", "/runs/retry?name=audit", "").Body.String())
		require.Contains(t, page, "Retry 0 runs? No run that matches can be retried. Back")

		// The scheduler fails halfway.
		s.set(func() { s.halfway = errors.New("dial tcp 10.1.2.3: no route to host") })
		w = send(h, "POST", "/runs/retry", "state=failed")
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Contains(t, visible(w.Body.String()), "✗ Retried 1 run, then it failed: the scheduler returned an error")
		require.NotContains(t, w.Body.String(), "10.1.2.3")
	})
}

// A filter that is misspelt or in the wrong place would select everything.
func TestForm_RefusesUnknownFieldsAndParameters(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	for _, test := range []struct{ path, form, want string }{
		{"/runs/cancel", "names=demo.flaky", "Unknown parameter &#34;names&#34;: this form has before, name, since, state, until"},
		{"/runs/retry?name=demo.flaky", "", "URL of a form takes no parameters; send them as fields in the body"},
		{"/runs/retry?name=demo.flaky", "name=demo.flaky", "takes no parameters"},
		{"/job/demo.flaky/trigger", "dat=%7B%7D", "nknown parameter &#34;dat&#34;"},
		{"/job/demo.flaky/runs/12/cancel?back=list", "", "takes no parameters"},
	} {
		w := send(h, "POST", test.path, test.form)
		require.Equal(t, http.StatusBadRequest, w.Code, test)
		require.Contains(t, visible(w.Body.String()), test.want)
	}
	for _, method := range []string{"CancelMany", "RetryMany", "Trigger", "Cancel"} {
		require.Zero(t, s.called(method), method)
	}
}

// Actions on many runs are limited to the jobs that the caller may read and act on.
func TestRunsPage_LeavesOutJobsThatAreNotAllowed(t *testing.T) {
	t.Parallel()
	s := newFake(time.Now())
	s.runs["audit.retention"] = []jobs.Run{{ID: "31", Name: "audit.retention", State: jobs.StateFailed, EndedAt: time.Now(), Error: "broken"}}
	h := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, action jobshttp.Action, job string) error {
		return refuseUnless(job == "" || job == "demo.flaky" || job == "email.send" && action == jobshttp.ActionRead)
	}})
	page := send(h, "GET", "/runs", "").Body.String()
	require.Contains(t, page, `id="run-12"`)
	require.Contains(t, page, `id="run-21"`)
	require.NotContains(t, page, "audit.retention")
	require.Contains(t, page, "Retry all that match")
	require.NotContains(t, send(h, "GET", "/runs?name=email.send", "").Body.String(), "all that match")
	last := func() []string { return s.queries[len(s.queries)-1].Names }
	for _, verb := range []string{"retry", "cancel"} {
		send(h, "GET", "/runs/"+verb, "")
		require.Equal(t, []string{"demo.flaky"}, last())
		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/runs/"+verb, "").Code)
		require.Equal(t, []string{"demo.flaky"}, last())
		n := len(s.queries)
		w := send(h, "POST", "/runs/"+verb, "name=audit.retention+email.send")
		require.Equal(t, "../runs?done="+verb+"&n=0&name=audit.retention+email.send", w.Header().Get("Location"))
		require.Len(t, s.queries, n, "no job is not all jobs")
	}
	for _, p := range []string{"/runs/31", "/runs/99"} {
		w := send(h, "GET", p, "")
		require.Equal(t, http.StatusNotFound, w.Code)
		require.Contains(t, w.Body.String(), "No such run; it may have been deleted after its retention.")
	}
	require.NotContains(t, send(h, "GET", "/?q=31", "").Body.String(), "audit")
	require.NotContains(t, send(h, "GET", "/processes", "").Body.String(), "audit")
}

func TestListPage_FindsARunByItsID(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	require.Equal(t, "./runs/11", send(h, "GET", "/?q=+11+", "").Header().Get("Location"))
	require.Equal(t, http.StatusSeeOther, send(h, "GET", "/?q=11", "").Code)
	require.Contains(t, visible(send(h, "GET", "/?q=99", "").Body.String()), "0 of 5 jobs · named like “99” show all")
	require.Equal(t, http.StatusOK, send(h, "GET", "/?q="+strings.Repeat("1", 5000), "").Code)

	// A text that is both shows both, the run first.
	s.set(func() { s.runs["demo.flaky"][0].ID = "flaky" })
	page := visible(send(h, "GET", "/?q=flaky", "").Body.String())
	require.Contains(t, page, "1 of 5 jobs · named like “flaky” show all Run flaky of demo.flaky ↻ retrying Jobs by module")
}

// A process that only triggers lists no jobs.
func TestRunPage_SaysWhyAJobCannotBeShown(t *testing.T) {
	t.Parallel()
	h, s := open(t)
	s.set(func() { s.statuses = nil })
	w := send(h, "GET", "/runs/11", "")
	require.Equal(t, http.StatusNotFound, w.Code)
	require.Contains(t, visible(w.Body.String()), "This process has not registered the job demo.flaky; look at its run in one that has")
	h = jobshttp.New(jobless{s}, &jobshttp.Options{Authorize: everybody})
	w = send(h, "GET", "/runs/11", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, visible(w.Body.String()), "obs cannot be listed")
}

func TestRunPage_ShowsEveryAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		now := time.Now()
		s := newFake(now)
		s.statuses[1].Options = jobs.JobOptions{MaxAttempts: 3, Timeout: 5 * time.Minute}
		run := &s.runs["demo.flaky"][1]
		run.Process = "web-1:abc"
		run.Data = json.RawMessage(`{"to":"ann@example.com"}`)
		run.Output = json.RawMessage(`{"sent":"to bob@example.com"}`)
		run.Snoozes, run.SnoozeReason = 3, "the mail server is down"
		run.Errors = []jobs.RunError{
			{Attempt: 1, At: now.Add(-7 * time.Minute), Text: "smtp: <b>421</b> busy"},
			{Attempt: 2, At: now.Add(-6 * time.Minute), Text: "panic: boom\nmain.f\n\t/a.go:1"},
		}
		logs := func(r jobs.Run) string {
			require.Empty(t, r.Data)
			require.Empty(t, r.Output)
			return "https://logs.example/?q=" + url.QueryEscape(r.ID)
		}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody, LogURL: logs})
		w := send(h, "GET", "/runs/11", "")
		require.Equal(t, http.StatusOK, w.Code)
		text := visible(w.Body.String())
		for _, want := range []string{
			"All jobs / demo.flaky Run 11 ✗ failed Retry run 11", "Origin tick 14:53:00 UTC Inserted 12 min ago 14:48:00 UTC Due 7 min ago 14:53:00 UTC",
			"Started 6 min ago 14:54:00 UTC Ended 5 min ago", "Duration 340 ms Wait, from due to start 1 min 0 s", "Attempt 3 of 3 timeout 5 minutes",
			"Process web-1, pid 812 web-1:abc", "Log log of this run",
			"Errors Attempt 2 6 min ago 14:54:00 UTC panic: boom … all 3 lines panic: boom main.f /a.go:1 Attempt 1 7 min ago 14:53:00 UTC smtp: &lt;b&gt;421&lt;/b&gt; busy",
			"Snoozed 3 times the mail server is down", "Data and output are hidden.",
		} {
			require.Contains(t, text, want)
		}
		require.Contains(t, w.Body.String(), `href="https://logs.example/?q=11" rel="noreferrer"`)
		require.NotContains(t, w.Body.String(), "ann@example.com")
		require.NotContains(t, w.Body.String(), "bob@example.com")
		for _, p := range []string{"/runs?state=failed", "/job/demo.flaky"} {
			require.Contains(t, visible(send(h, "GET", p, "").Body.String()), "✗ failed snoozed: the mail server is down")
		}
		require.NotContains(t, send(h, "GET", "/api/runs/11", "").Body.String(), "bob@example.com")
		require.Equal(t, "../../../../runs/11?done=retry&job=demo.flaky&run=11", send(h, "POST", "/job/demo.flaky/runs/11/retry", "back=run").Header().Get("Location"))
		require.Equal(t, "../../../../runs?done=retry&job=demo.flaky&name=demo&run=11&state=failed", send(h, "POST", "/job/demo.flaky/runs/11/retry", "back=runs&state=failed&name=demo").Header().Get("Location"))

		h = jobshttp.New(s, &jobshttp.Options{Authorize: everybody, ShowData: true})
		require.Contains(t, visible(send(h, "GET", "/runs/11", "").Body.String()), "Output {&#34;sent&#34;:&#34;to bob@example.com&#34;} Data {&#34;to&#34;:&#34;ann@example.com&#34;}")
		require.NotContains(t, send(h, "GET", "/runs/11", "").Body.String(), ">Log<")
		require.NotContains(t, send(h, "GET", "/runs", "").Body.String(), "ann@example.com", "lists have no data")
	})
}

func TestLogURL_RefusesSchemesThatRunCode(t *testing.T) {
	t.Parallel()
	for link, shown := range map[string]bool{
		"https://logs.example/?q=1&a=b": true, "/logs?id=1": true, "//logs.example/1": true, "HTTP://logs.example/": true,
		"javascript:alert(1)": false, " javascript:alert(1)": false, "JavaScript:alert(1)": false, "java\nscript:alert(1)": false,
		"data:text/html,x": false, "vbscript:x": false, "https://%zz": false, "": false,
	} {
		var log bytes.Buffer
		h := jobshttp.New(newFake(time.Now()), &jobshttp.Options{
			Authorize: everybody, LogURL: func(jobs.Run) string { return link }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		for range 2 {
			page := send(h, "GET", "/runs/11", "").Body.String()
			require.Equal(t, shown, strings.Contains(page, "log of this run"), "%q", link)
			require.NotContains(t, page, "alert(1)")
		}
		want := 1
		if shown || link == "" {
			want = 0
		}
		require.Equal(t, want, strings.Count(log.String(), "LogURL returned an invalid URL"), "%q", link)
	}
}

func TestProcessesPage_ShowsWhoDoesWhat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		now := time.Now()
		s := newFake(now)
		s.processes = []jobs.Process{
			{ID: "web-1:abc", Host: "web-1", PID: 812, Version: "v1.2.3", StartedAt: now.Add(-2 * time.Hour), SeenAt: now, Alive: true, Leader: true, Self: true, Jobs: []string{"audit.retention", "email.send", "email.stuck", "notifs.cleanup"}, Workers: 100, Busy: 1},
			{ID: "web-2:def", Host: "web-2", PID: 7, StartedAt: now.Add(-time.Hour), SeenAt: now.Add(-10 * time.Minute), Jobs: []string{"demo.flaky"}, Workers: 10},
		}
		s.runs["email.send"][0].DueAt = now.Add(-time.Minute)
		s.runs["email.send"][0].Process = "web-1:abc"
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		page := send(h, "GET", "/processes", "").Body.String()
		text := visible(page)
		require.Contains(t, text, "! No live process has registered this job: demo.flaky")
		require.Contains(t, text, "web-1, pid 812 leader this one web-1:abc 2 h 0 min ago 13:00:00 UTC in 0 s 15:00:00 UTC 1 of 100 busy email.send 21 v1.2.3 4 jobs audit.retention email.send email.stuck notifs.cleanup")
		require.Contains(t, text, "web-2, pid 7 ✗ dead web-2:def 1 h 0 min ago 14:00:00 UTC 10 min ago 14:50:00 UTC 0 of 10 busy – 1 job demo.flaky")
		require.Contains(t, page, `id="process-web-1:abc"`)
		require.Contains(t, visible(send(h, "GET", "/job/demo.flaky", "").Body.String()), "! No live process has registered this job.")
		require.Contains(t, visible(send(h, "GET", "/", "").Body.String()), "demo.flaky is not registered in any live process, so its runs wait")
		require.Contains(t, visible(send(h, "GET", "/runs?name=email.send", "").Body.String()), "web-1, pid 812")

		time.Sleep(10 * time.Second)
		s.set(func() { s.down = errors.New("no route to host") })
		w := send(h, "GET", "/processes", "")
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Contains(t, visible(w.Body.String()), "The database does not answer. Showing the state as of 15:00:00 UTC")
		require.Contains(t, w.Body.String(), "web-1, pid 812")
		s.set(func() { s.down, s.processes = nil, []jobs.Process{} })
		time.Sleep(10 * time.Second)
		require.Contains(t, visible(send(h, "GET", "/processes", "").Body.String()), "No process runs jobs.")
	})
}

func TestJobPage_ShowsOptionsAndUsualDurations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		now := time.Now()
		s := newFake(now)
		s.statuses[0].Options = jobs.JobOptions{
			MaxAttempts: 3, RetryDelay: 5 * time.Second, Timeout: 5 * time.Minute, Priority: 2, Concurrency: 4,
			CatchUp: jobs.CatchUpAll, Overlap: jobs.OverlapSkip, StartWithin: time.Hour,
		}
		s.statuses[3].Options = jobs.JobOptions{MaxAttempts: 1, Timeout: time.Minute, Priority: 1}
		for i := range 300 { // durations of 1 to 300 s, of which the latest 200 count; waits of 1 s, and of 20 s each tenth
			due, wait := now.Add(-time.Hour), time.Second
			if i%10 == 0 {
				wait = 20 * time.Second
			}
			run := jobs.Run{ID: fmt.Sprint(900 - i), Name: "audit.retention", State: jobs.StateCompleted, DueAt: due, StartedAt: due.Add(wait), Attempt: 1, MaxAttempts: 3}
			run.EndedAt = run.StartedAt.Add(time.Duration(i+1) * time.Second)
			s.runs["audit.retention"] = append(s.runs["audit.retention"], run)
		}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		text := visible(send(h, "GET", "/job/audit.retention", "").Body.String())
		require.Contains(t, text, "Usual duration 1 min 40 s 95 % within 3 min 10 s; of the last 200 completed runs Usual wait, from due to start 1.0 s 95 % within 20 s; of the last 200 runs")
		require.Contains(t, text, "Timeout: 5 minutes Attempts: 3 attempts, the second after 5 seconds Concurrency: 4 at once in each process Priority: 2 of 1 to 4 Missed ticks: each runs Overlap: a tick is skipped while another run is in progress Start within: 1 hour, otherwise skipped")
		require.Contains(t, text, "Showing the latest 50.")
		require.Contains(t, text, "then 2 Jan, 21:00 UTC 3 Jan, 12:00 UTC")
		text = visible(send(h, "GET", "/job/email.stuck", "").Body.String())
		require.Contains(t, text, "Usual duration no completed run is kept")
		require.NotContains(t, text, "Usual wait")
		require.Contains(t, text, "Options Timeout: 1 minute Attempts: 1 attempt Actions")
		require.NotContains(t, visible(send(h, "GET", "/job/demo.flaky", "").Body.String()), "Options")
		text = visible(send(h, "GET", "/job/demo.flaky", "").Body.String())
		require.Contains(t, text, "Usual duration 1 min 0 s 95 % within 1 min 0 s; of one completed run")
	})
}

// A scheduler that lacks the roles has a page without what needs them.
func TestPages_LeaveOutWhatNeedsAMissingRole(t *testing.T) {
	t.Parallel()
	h := jobshttp.New(&core{statuses: newFake(time.Now()).statuses, health: jobs.Health{Healthy: true}}, &jobshttp.Options{Authorize: everybody})
	for _, p := range []string{"/", "/job/demo.flaky", "/?q=11"} {
		w := send(h, "GET", p, "")
		require.Equal(t, http.StatusOK, w.Code)
		for _, link := range []string{"runs?", "/runs", "processes", "run ID"} {
			require.NotContains(t, w.Body.String(), link, p)
		}
	}
	require.Contains(t, send(h, "GET", "/runs", "").Body.String(), "The scheduler cannot find runs")
	require.Contains(t, send(h, "GET", "/processes", "").Body.String(), "The scheduler cannot list processes")
}

// The questions of the person on call, on a hundred jobs of which some fail, with real runs.
func TestPages_AnswerTheQuestionsOfAnOperator(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(nil)
		require.NoError(t, err)
		broken, stop := true, make(chan struct{})
		for i := range 106 {
			require.NoError(t, s.RegisterDelayed(fmt.Sprintf("m%d.job-%d", i%9, i), 0, func(context.Context, *jobs.Job) error {
				switch {
				case i == 50:
					<-stop // ignores its context
				case i < 13 && broken:
					return jobs.Permanent(fmt.Errorf("job %d is broken", i))
				}
				return nil
			}, jobs.Timeout(cmp.Or(time.Duration(i/50)*time.Minute, time.Minute))))
		}
		require.NoError(t, s.Start(t.Context()))
		defer func() { require.NoError(t, s.Shutdown(context.WithoutCancel(t.Context()))) }()
		for i := range 106 {
			_, err := s.TriggerMany(t.Context(), fmt.Sprintf("m%d.job-%d", i%9, i), make([]any, cmp.Or(max(0, 13-i)*30, 1)))
			require.NoError(t, err)
			if i%15 == 14 {
				require.NoError(t, s.Pause(t.Context(), fmt.Sprintf("m%d.job-%d", i%9, i)))
			}
		}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		time.Sleep(5 * time.Minute)

		// What is wrong now, and what hangs since when?
		page := send(h, "GET", "/", "").Body.String()
		text, _ := headline(t, page)
		require.Equal(t, "✗ 1 hung 13 failing", text)
		require.Contains(t, visible(page), "106 jobs 7 paused")
		require.Contains(t, visible(page), "m5.job-50 has hung since 00:01:00 UTC, 4 min ago")

		// All failures of the last hour, and retry exactly those.
		link := regexp.MustCompile(`href="\.(/runs\?[^"]*)"[^>]*>failed in the last hour`).FindStringSubmatch(page)[1]
		page = send(h, "GET", strings.ReplaceAll(link, "&amp;", "&"), "").Body.String()
		link = regexp.MustCompile(`href="\.(/runs/retry\?[^"]*)"`).FindStringSubmatch(page)[1]
		page = send(h, "GET", strings.ReplaceAll(link, "&amp;", "&"), "").Body.String()
		require.Contains(t, visible(page), "Retry 2,730 runs? All jobs State: failed")
		broken = false
		w := send(h, "POST", "/runs/retry", strings.ReplaceAll(link[strings.Index(link, "?")+1:], "&amp;", "&"))
		require.Contains(t, w.Header().Get("Location"), "n=2730")
		time.Sleep(time.Minute)
		text, _ = headline(t, send(h, "GET", "/", "").Body.String())
		require.Equal(t, "✗ 1 hung", text)

		// The run with this ID.
		found, err := s.FindRuns(t.Context(), jobs.RunQuery{States: []jobs.State{jobs.StateRunning}})
		require.NoError(t, err)
		require.Equal(t, "./runs/"+found.Runs[0].ID, send(h, "GET", "/?q="+found.Runs[0].ID, "").Header().Get("Location"))
		require.Contains(t, visible(send(h, "GET", "/runs/"+found.Runs[0].ID, "").Body.String()), "! The run has hung")

		// Cancelling it is seen to have no effect.
		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/m5.job-50/runs/"+found.Runs[0].ID+"/cancel", "back=run").Code)
		time.Sleep(time.Minute)
		require.Contains(t, visible(send(h, "GET", "/runs/"+found.Runs[0].ID, "").Body.String()), "It was cancelled 1 min ago and does not stop.")
		close(stop)
		time.Sleep(time.Minute)
		text, _ = headline(t, send(h, "GET", "/", "").Body.String())
		require.Equal(t, "✓ All 106 jobs are fine", text)
	})
}
