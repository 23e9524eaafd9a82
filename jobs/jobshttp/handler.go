package jobshttp

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
)

// An Action is what a request asks to do. See [Options].Authorize.
type Action string

// The actions.
const (
	ActionRead    Action = "read"    // see a job; without a job, see the page, its assets and the list
	ActionTrigger Action = "trigger" // run a job now, with data
	ActionCancel  Action = "cancel"  // cancel a run
	ActionRetry   Action = "retry"   // retry a run
	ActionPause   Action = "pause"   // pause or resume a job
	ActionProbe   Action = "probe"   // call /livez, /readyz or /healthz
)

// Options configure the handler that [New] returns.
type Options struct {
	// Authorize returns nil if the request may perform action on the named job, or, if job
	// is "", on no particular job. It does not log users in; middleware around the handler
	// does. A page calls Authorize several times for each job, so it must be fast. Its error
	// is logged at debug level and never shown. The answer is status 401 if the error wraps
	// [ErrUnauthenticated], otherwise 403 or 404. Defaults to refusing every request with
	// status 403. [BasicAuth] returns an Authorize for names and passwords.
	Authorize func(r *http.Request, action Action, job string) error
	// Challenge is the header WWW-Authenticate of answers with status 401, such as "Bearer".
	// Defaults to basic authentication, for which browsers ask for a name and a password.
	Challenge string
	// TrustedOrigins lists origins other than the handler's own whose pages may send POST
	// requests, such as "https://admin.example.com". A proxy that changes the Host header
	// needs its public origin here: without that, forms are refused in old browsers, and in
	// all browsers unless the page is served over TLS. An origin that is not of the form
	// scheme://host or scheme://host:port is logged as an error and not trusted.
	TrustedOrigins []string
	// Who returns the user's name for the log. Defaults to the remote address.
	Who func(r *http.Request) string
	// Logger logs who triggered, cancelled, retried, paused or resumed what, without the
	// data, and when the scheduler stops answering. Defaults to discarding everything.
	Logger *slog.Logger
	// ShowData shows the data and output of runs to everyone who may read the job. Defaults
	// to hiding both.
	ShowData bool
	// Title is the heading of the pages, for example the name of the environment. Defaults
	// to "Jobs".
	Title string
	// LogURL returns the address of a run's log, which its page links to, such as a search for
	// its ID at the place where logs are kept, or "" for no link. The run has neither data nor
	// output unless ShowData is set. It is called for each run that a page shows, so it must be
	// fast. An address with another scheme than http or https is logged as an error and not
	// shown. Defaults to no links.
	LogURL func(jobs.Run) string
}

// callTimeout bounds a call of the scheduler.
const callTimeout = 3 * time.Second

// healthTimeout bounds a call of Health. It is shorter than callTimeout, so that a scheduler
// which returns its reasons at the end of its context is heard.
const healthTimeout = callTimeout - 500*time.Millisecond

// maxBody is the largest request body in bytes: a job's data with white space around it.
const maxBody = 2 * jobs.MaxDataBytes

//go:embed assets
var assets embed.FS

// route is a row of the table in the package documentation.
type route struct {
	method, pattern string // {name} and {id} stand for a segment of the path
	action          Action
	serve           func(*handler, http.ResponseWriter, *http.Request)
}

// page reports whether the route serves a page, not JSON.
func (rt *route) page() bool {
	first, _, _ := strings.Cut(rt.pattern[1:], "/")
	return slices.Contains([]string{"", "job", "runs", "processes"}, first)
}

var routes = []route{
	{"GET", "/", ActionRead, (*handler).listPage},
	{"GET", "/job/{name}", ActionRead, (*handler).jobPage},
	{"POST", "/job/{name}/trigger", ActionTrigger, form("trigger")},
	{"POST", "/job/{name}/pause", ActionPause, form("pause")},
	{"POST", "/job/{name}/resume", ActionPause, form("resume")},
	{"POST", "/job/{name}/runs/{id}/cancel", ActionCancel, form("cancel")},
	{"POST", "/job/{name}/runs/{id}/retry", ActionRetry, form("retry")},
	{"GET", "/runs", ActionRead, (*handler).runsPage},
	{"GET", "/runs/retry", ActionRetry, confirmPage("retry")},
	{"POST", "/runs/retry", ActionRetry, formMany("retry")},
	{"GET", "/runs/cancel", ActionCancel, confirmPage("cancel")},
	{"POST", "/runs/cancel", ActionCancel, formMany("cancel")},
	{"GET", "/runs/{id}", ActionRead, (*handler).runPage},
	{"GET", "/processes", ActionRead, (*handler).processesPage},
	{"GET", "/assets/style.css", ActionRead, asset("text/css; charset=utf-8")},
	{"GET", "/assets/script.js", ActionRead, asset("text/javascript; charset=utf-8")},
	{"GET", "/assets/icon.svg", ActionRead, asset("image/svg+xml")},

	{"GET", "/api/jobs", ActionRead, get((*handler).apiJobs)},
	{"GET", "/api/jobs/{name}", ActionRead, get((*handler).apiJob, "runs")},
	{"GET", "/api/jobs/{name}/size", ActionRead, get((*handler).apiSize)},
	{"GET", "/api/jobs/{name}/runs/{id}", ActionRead, get((*handler).apiJobRun)},
	{"POST", "/api/jobs/{name}/trigger", ActionTrigger, post((*handler).apiTrigger, triggerParameters...)},
	{"POST", "/api/jobs/{name}/pause", ActionPause, post((*handler).apiPause)},
	{"POST", "/api/jobs/{name}/resume", ActionPause, post((*handler).apiResume)},
	{"POST", "/api/jobs/{name}/runs/{id}/cancel", ActionCancel, post((*handler).apiCancel)},
	{"POST", "/api/jobs/{name}/runs/{id}/retry", ActionRetry, post((*handler).apiRetry)},
	{"GET", "/api/runs", ActionRead, get((*handler).apiRuns, "name", "state", "since", "until", "after", "limit")},
	{"GET", "/api/runs/{id}", ActionRead, get((*handler).apiRun)},
	{"POST", "/api/runs/cancel", ActionCancel, post((*handler).apiCancelMany, bulkParameters...)},
	{"POST", "/api/runs/retry", ActionRetry, post((*handler).apiRetryMany, bulkParameters...)},
	{"GET", "/api/processes", ActionRead, get((*handler).apiProcesses)},
	{"GET", "/api/activity", ActionRead, get((*handler).apiActivity, "span")},
	{"GET", "/api/openapi.json", ActionRead, get((*handler).apiDescription)},

	{"GET", "/livez", ActionProbe, (*handler).live},
	{"GET", "/readyz", ActionProbe, (*handler).ready},
	{"GET", "/healthz", ActionProbe, (*handler).healthy},
}

type handler struct {
	Options
	s      jobs.Scheduler
	origin *http.CrossOriginProtection
	badLog sync.Once // LogURL has returned an invalid address

	statuses  *cached[[]jobs.Status]
	health    *cached[jobs.Health]
	hour, day *cached[jobs.Activity]
	latest    *cached[map[string][]jobs.Run]
	running   *cached[[]jobs.Run]
	processes *cached[[]jobs.Process]
}

// New returns the status page and admin API of s. If opts is nil or has no Authorize, the
// handler refuses every request. It is safe for concurrent use. Its goroutines end within 3
// seconds of the request that started them, if the scheduler respects its context.
func New(s jobs.Scheduler, opts *Options) http.Handler {
	h := &handler{Options: *cmp.Or(opts, &Options{}), s: s, origin: http.NewCrossOriginProtection()}
	h.Logger = cmp.Or(h.Logger, slog.New(slog.DiscardHandler))
	h.Title = cmp.Or(h.Title, "Jobs")
	h.Challenge = cmp.Or(h.Challenge, `Basic realm="jobs", charset="UTF-8"`)
	for _, origin := range h.TrustedOrigins {
		if err := h.origin.AddTrustedOrigin(origin); err != nil {
			h.Logger.Error("jobshttp does not trust this origin; write it as https://host or https://host:port",
				"origin", origin, "error", err)
		}
	}
	if h.Who == nil {
		h.Who = func(r *http.Request) string { return r.RemoteAddr }
	}
	if s == nil {
		h.Logger.Error("jobshttp has no scheduler and refuses every request")
		h.Authorize = nil
	}
	h.statuses = newCached(h.Logger, "jobs", time.Second, func(ctx context.Context) ([]jobs.Status, error) {
		return s.Jobs(ctx)
	})
	h.health = newCached(h.Logger, "health", time.Second, func(ctx context.Context) (jobs.Health, error) {
		ctx, cancel := context.WithTimeout(ctx, healthTimeout)
		defer cancel()
		return s.Health(ctx)
	})
	h.hour = newCached(h.Logger, "activity of the last hour", 10*time.Second, h.loadActivity(time.Minute, 60))
	h.day = newCached(h.Logger, "activity of the last day", 10*time.Second, h.loadActivity(time.Hour, 24))
	h.latest = newCached(h.Logger, "latest runs", 10*time.Second, h.loadLatest)
	h.running = newCached(h.Logger, "running runs", 5*time.Second, h.loadRunning)
	h.processes = newCached(h.Logger, "processes", 5*time.Second, h.loadProcesses)
	return h
}

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	w := compress(to, r)
	defer w.close()
	for name, value := range map[string]string{
		"Cache-Control": "no-store",
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
			"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Referrer-Policy":              "same-origin", // no-referrer would make browsers send forms with Origin: null
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
	} {
		w.Header().Set(name, value)
	}
	rt, allow := find(r)
	if rt == nil {
		if err := h.authorize(r, ActionRead, ""); err != nil {
			h.deny(w, r, err)
			return
		}
		if allow == nil {
			h.problem(w, r, http.StatusNotFound, "no such page")
			return
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		h.problem(w, r, http.StatusMethodNotAllowed, "method not allowed; use "+strings.Join(allow, " or "))
		return
	}
	name := r.PathValue("name")
	if err := h.authorize(r, rt.action, name); errors.Is(err, ErrUnauthenticated) {
		h.deny(w, r, err)
		return
	} else if err != nil || name != "" && !h.known(r.Context(), name) {
		h.refuse(w, r, rt.action)
		return
	}
	if rt.method == http.MethodPost {
		if h.origin.Check(r) != nil {
			h.report(w, r, &fault{
				status: http.StatusForbidden, code: "cross_origin",
				text: "requests from other origins are refused, unless the handler's options trust them",
			})
			return
		}
		want := "application/json"
		if rt.page() {
			want = "application/x-www-form-urlencoded"
		}
		if got, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); got != want {
			h.problem(w, r, http.StatusUnsupportedMediaType, "Content-Type must be "+want)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	rt.serve(h, w, r)
}

// segments returns the segments of the path. The handler does not use [http.ServeMux], which
// redirects to a cleaned path without the prefix that was stripped.
func segments(r *http.Request) []string {
	return strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
}

// find returns the route of a request and sets its path values. If there is no route, allow
// has the methods that the path allows, nil if the path does not exist. A path that a pattern
// has literally belongs to no pattern with a placeholder.
func find(r *http.Request) (_ *route, allow []string) {
	if rt, allow := findAmong(r, true); rt != nil || allow != nil {
		return rt, allow
	}
	return findAmong(r, false)
}

// findAmong is find among the patterns without placeholders, or those with one.
func findAmong(r *http.Request, literal bool) (_ *route, allow []string) {
	have := segments(r)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range routes {
		rt := &routes[i]
		if literal == strings.Contains(rt.pattern, "{") {
			continue
		}
		want := strings.Split(rt.pattern[1:], "/")
		values := map[string]string{}
		if !slices.EqualFunc(want, have, func(want, have string) bool {
			if !strings.HasPrefix(want, "{") {
				return want == have
			}
			value, err := url.PathUnescape(have)
			values[want[1:len(want)-1]] = value
			return err == nil && value != ""
		}) {
			continue
		}
		if rt.method == method {
			for key, value := range values {
				r.SetPathValue(key, value)
			}
			return rt, nil
		}
		if allow = append(allow, rt.method); rt.method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	return nil, allow
}

// isPage reports whether an error is shown as a page, not as JSON.
func isPage(r *http.Request) bool {
	switch segments(r)[0] {
	case "", "job", "runs", "processes":
		return true
	case "api", "assets", "livez", "readyz", "healthz":
		return false
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// base returns the relative URL of the handler's root.
func base(r *http.Request) string {
	if n := len(segments(r)) - 1; n > 0 {
		return strings.Repeat("../", n)
	}
	mounted, _, _ := strings.Cut(r.RequestURI, "?")
	if r.URL.Path == "" && !strings.HasSuffix(mounted, "/") && mounted != "" {
		return "./" + path.Base(mounted) + "/" // as for /admin/jobs without the trailing slash
	}
	return "./"
}

func (h *handler) allowed(r *http.Request, action Action, job string) bool {
	return h.authorize(r, action, job) == nil
}

// known reports whether the job exists. It is checked before anything that depends on the
// request: another error would reveal that the job exists and is only refused.
func (h *handler) known(ctx context.Context, name string) bool {
	if _, ok := byName(h.statuses.peek().value, name); ok { // jobs are never unregistered
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := h.s.QueueSize(ctx, name)
	return !errors.Is(err, jobs.ErrUnknownJob) && !errors.Is(err, jobs.ErrInvalidName)
}

// act performs and logs an action, with text as the data of a trigger and opts as its options.
// It returns the ID of the run.
func (h *handler) act(r *http.Request, verb, text string, opts ...jobs.TriggerOption) (id string, err error) {
	name, id := r.PathValue("name"), r.PathValue("id")
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	err = fmt.Errorf("the scheduler cannot %s jobs: %w", verb, errors.ErrUnsupported)
	switch verb {
	case "trigger":
		var data any
		if data, err = payload(text); err == nil {
			id, err = h.s.Trigger(ctx, name, data, opts...)
		}
	case "pause":
		if s, ok := jobs.As[jobs.Pauser](h.s); ok {
			err = s.Pause(ctx, name)
		}
	case "resume":
		if s, ok := jobs.As[jobs.Pauser](h.s); ok {
			err = s.Resume(ctx, name)
		}
	case "cancel":
		if s, ok := jobs.As[jobs.Canceller](h.s); ok {
			err = s.Cancel(ctx, name, id)
		}
	case "retry":
		if s, ok := jobs.As[jobs.Retrier](h.s); ok {
			err = s.Retry(ctx, name, id)
		}
	}
	h.expire()
	if err == nil {
		attrs := []any{"action", verb, "job", name}
		if id != "" {
			attrs = append(attrs, "job_id", id)
		}
		h.Logger.InfoContext(r.Context(), "manual action", append(attrs, "who", h.Who(r))...)
	}
	return id, err
}

// expire makes the next requests see the effect of an action.
func (h *handler) expire() {
	h.statuses.expire()
	h.latest.expire()
	h.running.expire()
	h.health.expire()
}

func asset(contentType string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(_ *handler, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		body, _ := assets.ReadFile("assets/" + path.Base(r.URL.Path)) // the routes name embedded files only
		_, _ = w.Write(body)
	}
}
