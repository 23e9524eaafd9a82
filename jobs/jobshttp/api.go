package jobshttp

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// bounded returns the request's context with the timeout of a call.
func bounded(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), callTimeout)
}

func byName(all []jobs.Status, name string) (jobs.Status, bool) {
	for _, st := range all {
		if st.Name == name {
			return st, true
		}
	}
	return jobs.Status{}, false
}

// readable returns the jobs that r may read, and the names of the others.
func (h *handler) readable(r *http.Request, all []jobs.Status) (visible []jobs.Status, hidden []string) {
	for _, st := range all {
		if h.allowed(r, ActionRead, st.Name) {
			visible = append(visible, st)
		} else {
			hidden = append(hidden, st.Name)
		}
	}
	return visible, hidden
}

// get returns the serve function of a GET route of the API, with the query parameters it knows.
func get(
	serve func(h *handler, r *http.Request, query url.Values) (any, error), known ...string,
) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		query, err := parameters(r, known)
		var answer any
		if err == nil {
			answer, err = serve(h, r, query)
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		writeCacheable(w, r, answer)
	}
}

// reply is the answer to a POST request of the API.
type reply struct {
	status   int
	location string // relative to the URL of the request; "" for none
	body     any
}

// post returns the serve function of a POST route of the API, with the query parameters it knows.
func post(
	serve func(h *handler, r *http.Request, query url.Values, body string) (reply, error), known ...string,
) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		query, err := parameters(r, known)
		var body []byte
		if err == nil {
			body, err = io.ReadAll(r.Body)
			if err != nil {
				err = fmt.Errorf("%w: body: %w", errBody, err)
			}
		}
		var answer reply
		if err == nil {
			answer, err = serve(h, r, query, string(body))
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if answer.location != "" {
			w.Header().Set("Location", answer.location)
		}
		writeJSON(w, answer.status, answer.body)
	}
}

// readStatuses returns the status of all jobs.
func (h *handler) readStatuses(r *http.Request) ([]jobs.Status, error) {
	ctx, cancel := bounded(r)
	defer cancel()
	snap := h.statuses.get(ctx)
	return snap.value, snap.err
}

func (h *handler) apiJobs(r *http.Request, _ url.Values) (any, error) {
	all, err := h.readStatuses(r)
	if err != nil {
		return nil, err
	}
	visible, _ := h.readable(r, all)
	return map[string][]statusJSON{"jobs": each(visible, statusOf)}, nil
}

func (h *handler) apiJob(r *http.Request, _ url.Values) (any, error) {
	limit, err := runLimit(r, 20)
	if err != nil {
		return nil, err
	}
	all, err := h.readStatuses(r)
	if err != nil {
		return nil, err
	}
	st, ok := byName(all, r.PathValue("name"))
	if !ok {
		return nil, errUnknownJob
	}
	out := struct {
		Job  statusJSON `json:"job"`
		Runs *[]runJSON `json:"runs,omitempty"` // nil if the scheduler cannot list runs
	}{Job: statusOf(st)}
	ctx, cancel := bounded(r)
	defer cancel()
	runs, err := h.runs(ctx, st.Name, limit)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return out, nil
	case err != nil:
		return nil, err
	}
	forms := each(runs, runOf)
	forms = forms[:fitting(forms)]
	out.Runs = &forms
	return out, nil
}

// maxRuns is the most runs that a [jobs.RunLister] lists.
const maxRuns = 1000

// runLimit returns the query parameter runs, or the default if there is none.
func runLimit(r *http.Request, byDefault int) (int, error) {
	text := r.URL.Query().Get("runs")
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxRuns {
		return byDefault, invalid("runs must be a number from 1 to %d", maxRuns)
	}
	return n, nil
}

// runs returns the latest runs, without their data unless ShowData is set.
func (h *handler) runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	lister, ok := jobs.As[jobs.RunLister](h.s)
	if !ok {
		return nil, unsupported("list runs")
	}
	runs, err := lister.Runs(ctx, name, limit)
	return h.withoutData(runs), err
}

// withoutData removes the data and output of runs unless ShowData is set.
func (h *handler) withoutData(runs []jobs.Run) []jobs.Run {
	if h.ShowData {
		return runs
	}
	return noData(runs)
}

// unsupported returns the error for a role that the scheduler lacks.
func unsupported(what string) error {
	return fmt.Errorf("the scheduler cannot %s: %w", what, errors.ErrUnsupported)
}

func (h *handler) apiSize(r *http.Request, _ url.Values) (any, error) {
	ctx, cancel := bounded(r)
	defer cancel()
	name := r.PathValue("name")
	n, err := h.s.QueueSize(ctx, name)
	return map[string]any{"name": name, "queue_size": n}, err
}

func (h *handler) apiTrigger(r *http.Request, query url.Values, body string) (reply, error) {
	opts, err := triggerOptions(query, r.Header.Values("Idempotency-Key"))
	if err != nil {
		return reply{}, err
	}
	id, err := h.act(r, "trigger", body, opts...)
	return accepted(id, "runs/"+url.PathEscape(id)), err
}

func accepted(id, location string) reply {
	return reply{http.StatusAccepted, location, map[string]string{"id": id}}
}

// onRun cancels or retries the run in the path.
func (h *handler) onRun(r *http.Request, verb, body string) (reply, error) {
	if err := empty(body); err != nil {
		return reply{}, err
	}
	id, err := h.act(r, verb, "")
	return accepted(id, "../"+url.PathEscape(id)), err
}

func (h *handler) apiCancel(r *http.Request, _ url.Values, body string) (reply, error) {
	return h.onRun(r, "cancel", body)
}

func (h *handler) apiRetry(r *http.Request, _ url.Values, body string) (reply, error) {
	return h.onRun(r, "retry", body)
}

// onJob pauses or resumes the job in the path.
func (h *handler) onJob(r *http.Request, verb, body string) (reply, error) {
	if err := empty(body); err != nil {
		return reply{}, err
	}
	_, err := h.act(r, verb, "")
	return reply{http.StatusOK, "", map[string]any{"name": r.PathValue("name"), "paused": verb == "pause"}}, err
}

func (h *handler) apiPause(r *http.Request, _ url.Values, body string) (reply, error) {
	return h.onJob(r, "pause", body)
}

func (h *handler) apiResume(r *http.Request, _ url.Values, body string) (reply, error) {
	return h.onJob(r, "resume", body)
}

// payload returns the data for Trigger: nil if text is blank, otherwise the JSON as it is.
func payload(text string) (any, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var data json.RawMessage
	if err := json.Unmarshal([]byte(text), &data); err != nil { // Trigger's error would name Go types
		return nil, fmt.Errorf("%w: not valid JSON: %w", jobs.ErrInvalidData, err)
	}
	if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		return nil, fmt.Errorf("%w: want a JSON object, such as {\"id\": 7}", jobs.ErrInvalidData)
	}
	return data, nil
}

// empty returns an error unless text is blank or an empty object.
func empty(text string) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	var fields map[string]json.RawMessage
	switch err := json.Unmarshal([]byte(text), &fields); {
	case err != nil || fields == nil:
		return fmt.Errorf("%w: the body must be empty or {}", errBody)
	case len(fields) > 0:
		names := slices.Sorted(maps.Keys(fields))
		return fmt.Errorf("%w: unknown field %q: the body must be empty or {}", errBody, names[0])
	}
	return nil
}

func (h *handler) apiActivity(r *http.Request, query url.Values) (any, error) {
	which := h.hour
	switch query.Get("span") {
	case "", "hour":
	case "day":
		which = h.day
	default:
		return nil, invalid("span must be hour or day")
	}
	ctx, cancel := bounded(r)
	defer cancel()
	snap := which.get(ctx)
	if snap.err != nil {
		return nil, snap.err
	}
	a := snap.value
	a.Jobs = map[string][]jobs.Outcomes{}
	for name, steps := range snap.value.Jobs {
		if h.allowed(r, ActionRead, name) {
			a.Jobs[name] = steps
		}
	}
	return activityOf(a), nil
}

// loadActivity returns a function that loads the activity for a cache.
func (h *handler) loadActivity(step time.Duration, n int) func(context.Context) (jobs.Activity, error) {
	return func(ctx context.Context) (jobs.Activity, error) {
		reporter, ok := jobs.As[jobs.ActivityReporter](h.s)
		if !ok {
			return jobs.Activity{}, unsupported("report activity")
		}
		return reporter.Activity(ctx, step, n)
	}
}

func (h *handler) live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]bool{"live": true})
}

func (h *handler) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	_, _ = h.health.begin() // load both concurrently
	all, health := h.statuses.get(ctx), h.health.get(ctx)
	// A scheduler with overdue or failing jobs still accepts work, and one that only triggers
	// is never started.
	if all.err != nil || health.err != nil || !health.value.Started && !health.value.Healthy {
		writeJSON(w, http.StatusServiceUnavailable, map[string]bool{"ready": false})
		return
	}
	writeJSON(w, http.StatusOK, map[string]bool{"ready": true})
}

func (h *handler) healthy(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	_, _ = h.statuses.begin()
	snap := h.health.get(ctx)
	var all snapshot[[]jobs.Status]
	if snap.err == nil {
		all = h.statuses.get(ctx)
	} else {
		snap.value = jobs.Health{Started: snap.value.Started, Reasons: []jobs.Reason{{Text: unanswered(snap.err)}}}
	}
	status := http.StatusOK
	if !snap.value.Healthy {
		status = http.StatusServiceUnavailable
	}
	_, hidden := h.readable(r, all.value)
	writeJSON(w, status, healthOf(h.censor(r, snap.value, all.at.IsZero() || len(hidden) > 0)))
}

// unanswered says why there is no health to report. Other errors are in the log only, because
// they may contain details of the database.
func unanswered(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("the database does not answer: no reply to the health check within %s", healthTimeout)
	}
	return "the health check failed; see the log"
}

// censor removes from health what r may not read: reasons name jobs, and totals count them.
// partly means that r may not read all jobs, or that the jobs are unknown.
func (h *handler) censor(r *http.Request, health jobs.Health, partly bool) jobs.Health {
	if !h.allowed(r, ActionRead, "") {
		return jobs.Health{Healthy: health.Healthy, Started: health.Started}
	}
	if partly {
		health.Totals, health.OldestWaiting = nil, 0
	}
	health.Reasons = slices.DeleteFunc(slices.Clone(health.Reasons), func(reason jobs.Reason) bool {
		return reason.Job != "" && !h.allowed(r, ActionRead, reason.Job)
	})
	return health
}

// encode returns v as indented JSON.
func encode(status int, v any) (int, []byte) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // only if a provider returns data that is not JSON
		status = http.StatusServiceUnavailable
		body = []byte(`{"error": {"code": "unavailable", "message": "the scheduler returned data that is not JSON"}}`)
	}
	return status, append(body, '\n')
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	status, body := encode(status, v)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

// writeCacheable answers a GET request with v and its ETag, or with status 304 if the client
// has it.
func writeCacheable(w http.ResponseWriter, r *http.Request, v any) {
	status, body := encode(http.StatusOK, v)
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusOK {
		hash := sha256.Sum256(body)
		tag := fmt.Sprintf(`W/"%x"`, hash[:16]) // weak, because proxies may compress the body
		w.Header().Set("ETag", tag)
		w.Header().Set("Cache-Control", "private, no-cache") // ask again each time
		w.Header().Add("Vary", "Authorization, Cookie")
		if matches(r.Header.Values("If-None-Match"), tag) {
			w.Header().Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

// matches reports whether a header If-None-Match contains tag, by weak comparison. Our tags
// contain no commas.
func matches(headers []string, tag string) bool {
	opaque := strings.TrimPrefix(tag, "W/")
	for _, header := range headers {
		for one := range strings.SplitSeq(header, ",") {
			if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == opaque || one == "*" {
				return true
			}
		}
	}
	return false
}
