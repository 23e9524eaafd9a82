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
	// is logged at debug level and never shown. Defaults to refusing every request with
	// status 403.
	Authorize func(r *http.Request, action Action, job string) error
	// Who returns the user's name for the log. Defaults to the remote address.
	Who func(r *http.Request) string
	// Logger logs who triggered, cancelled, retried, paused or resumed what, without the
	// data, and when the scheduler stops answering. Defaults to discarding everything.
	Logger *slog.Logger
	// ShowData shows the data of runs to everyone who may read the job. Defaults to hiding
	// it.
	ShowData bool
	// Title is the heading of the pages, for example the name of the environment. Defaults
	// to "Jobs".
	Title string
}

// callTimeout bounds a call of the scheduler.
const callTimeout = 3 * time.Second

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
func (rt *route) page() bool { return rt.pattern == "/" || strings.HasPrefix(rt.pattern, "/job/") }

var routes = []route{
	{"GET", "/", ActionRead, (*handler).listPage},
	{"GET", "/job/{name}", ActionRead, (*handler).jobPage},
	{"POST", "/job/{name}/trigger", ActionTrigger, form("trigger")},
	{"POST", "/job/{name}/pause", ActionPause, form("pause")},
	{"POST", "/job/{name}/resume", ActionPause, form("resume")},
	{"POST", "/job/{name}/runs/{id}/cancel", ActionCancel, form("cancel")},
	{"POST", "/job/{name}/runs/{id}/retry", ActionRetry, form("retry")},
	{"GET", "/assets/style.css", ActionRead, asset("text/css; charset=utf-8")},
	{"GET", "/assets/script.js", ActionRead, asset("text/javascript; charset=utf-8")},
	{"GET", "/assets/icon.svg", ActionRead, asset("image/svg+xml")},

	{"GET", "/jobs", ActionRead, (*handler).apiList},
	{"GET", "/jobs/{name}", ActionRead, (*handler).apiJob},
	{"GET", "/jobs/{name}/size", ActionRead, (*handler).apiSize},
	{"POST", "/jobs/{name}/trigger", ActionTrigger, api("trigger")},
	{"POST", "/jobs/{name}/pause", ActionPause, api("pause")},
	{"POST", "/jobs/{name}/resume", ActionPause, api("resume")},
	{"POST", "/jobs/{name}/runs/{id}/cancel", ActionCancel, api("cancel")},
	{"POST", "/jobs/{name}/runs/{id}/retry", ActionRetry, api("retry")},
	{"GET", "/activity", ActionRead, (*handler).apiActivity},

	{"GET", "/livez", ActionProbe, (*handler).live},
	{"GET", "/readyz", ActionProbe, (*handler).ready},
	{"GET", "/healthz", ActionProbe, (*handler).healthy},
}

type handler struct {
	Options
	s      jobs.Scheduler
	origin *http.CrossOriginProtection

	statuses  *cached[[]jobs.Status]
	health    *cached[jobs.Health]
	hour, day *cached[jobs.Activity]
	latest    *cached[map[string][]jobs.Run]
}

// New returns the status page and admin API of s. If opts is nil or has no Authorize, the
// handler refuses every request. It is safe for concurrent use. Its goroutines end within 3
// seconds of the request that started them, if the scheduler respects its context.
func New(s jobs.Scheduler, opts *Options) http.Handler {
	h := &handler{Options: *cmp.Or(opts, &Options{}), s: s, origin: http.NewCrossOriginProtection()}
	h.Logger = cmp.Or(h.Logger, slog.New(slog.DiscardHandler))
	h.Title = cmp.Or(h.Title, "Jobs")
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
		return s.Health(ctx)
	})
	h.hour = newCached(h.Logger, "activity of the last hour", 10*time.Second, h.loadActivity(time.Minute, 60))
	h.day = newCached(h.Logger, "activity of the last day", 10*time.Second, h.loadActivity(time.Hour, 24))
	h.latest = newCached(h.Logger, "latest runs", 10*time.Second, h.loadLatest)
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
		if !h.allowed(r, ActionRead, "") {
			h.problem(w, r, http.StatusForbidden, errForbidden)
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
	if !h.allowed(r, rt.action, name) || name != "" && !h.known(r.Context(), name) {
		h.refuse(w, r, rt.action)
		return
	}
	if rt.method == http.MethodPost {
		if h.origin.Check(r) != nil {
			h.problem(w, r, http.StatusForbidden, "requests from other origins are refused")
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
// has the methods that the path allows, nil if the path does not exist.
func find(r *http.Request) (_ *route, allow []string) {
	have := segments(r)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range routes {
		rt := &routes[i]
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
	case "", "job":
		return true
	case "jobs", "activity", "assets", "livez", "readyz", "healthz":
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
	if h.Authorize == nil {
		return false
	}
	err := h.Authorize(r, action, job)
	if err != nil {
		h.Logger.DebugContext(r.Context(), "not authorized", "action", action, "job", job, "error", err)
	}
	return err == nil
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

const errForbidden = "you are not allowed to do this"

// refuse answers a request for a job that does not exist or that the caller may not act on.
// Only a caller who may read the job can tell the two apart.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, action Action) {
	name := r.PathValue("name")
	switch {
	case name == "",
		action != ActionRead && !h.allowed(r, action, name) && h.allowed(r, ActionRead, name) && h.known(r.Context(), name),
		!h.allowed(r, ActionRead, ""):
		h.problem(w, r, http.StatusForbidden, errForbidden)
	default:
		h.problem(w, r, http.StatusNotFound, "no such job")
	}
}

// act performs and logs an action, with text as the data of a trigger. It returns the ID of
// the run.
func (h *handler) act(r *http.Request, verb, text string) (id string, err error) {
	name, id := r.PathValue("name"), r.PathValue("id")
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	err = fmt.Errorf("the scheduler cannot %s jobs: %w", verb, errors.ErrUnsupported)
	switch verb {
	case "trigger":
		var data any
		if data, err = payload(text); err == nil {
			id, err = h.s.Trigger(ctx, name, data)
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
	h.statuses.expire()
	h.latest.expire()
	h.health.expire()
	if err == nil {
		attrs := []any{"action", verb, "job", name}
		if id != "" {
			attrs = append(attrs, "job_id", id)
		}
		h.Logger.InfoContext(r.Context(), "manual action", append(attrs, "who", h.Who(r))...)
	}
	return id, err
}

// explain returns the status and text for an error. An error that the client cannot fix is
// logged and not shown, because it may contain details of the database.
func (h *handler) explain(r *http.Request, err error) (status int, text string) {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("body: at most %d bytes are allowed", maxBody)
	case errors.Is(err, errBody), errors.Is(err, jobs.ErrInvalidData), errors.Is(err, jobs.ErrInvalidOption):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, jobs.ErrUnknownID):
		return http.StatusNotFound, "no such run of this job"
	case errors.Is(err, jobs.ErrNotRetryable):
		text = "only a run that failed, was cancelled or skipped, or waits for its next attempt can be retried"
		return http.StatusConflict, text
	case errors.Is(err, errors.ErrUnsupported):
		return http.StatusNotImplemented, err.Error()
	}
	if r.Context().Err() == nil { // otherwise the client has gone
		h.Logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	text = "the scheduler returned an error, or the database did not answer; see the log"
	if r.Method == http.MethodPost {
		text += ". The request may have taken effect anyway"
	}
	return http.StatusServiceUnavailable, text
}

// errBody is returned for an invalid body or parameter.
var errBody = errors.New("bad request")

// fail answers with err.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, jobs.ErrUnknownJob) || errors.Is(err, jobs.ErrInvalidName) {
		h.refuse(w, r, ActionRead)
		return
	}
	status, text := h.explain(r, err)
	h.problem(w, r, status, text)
}

// problem answers with an error, as a page or as JSON. A page shows text as a sentence.
func (h *handler) problem(w http.ResponseWriter, r *http.Request, status int, text string) {
	if isPage(r) {
		text = strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
		heading := fmt.Sprintf("%d %s", status, http.StatusText(status))
		h.render(w, r, status, "error", &view{Heading: heading, Text: text})
		return
	}
	writeJSON(w, status, map[string]string{"error": text})
}

func asset(contentType string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(_ *handler, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		body, _ := assets.ReadFile("assets/" + path.Base(r.URL.Path)) // the routes name embedded files only
		_, _ = w.Write(body)
	}
}
