package jobshttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

func (h *handler) apiList(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	snap := h.statuses.get(ctx)
	if snap.err != nil {
		h.fail(w, r, snap.err)
		return
	}
	visible, _ := h.readable(r, snap.value)
	writeJSON(w, http.StatusOK, each(visible, statusOf))
}

func (h *handler) apiJob(w http.ResponseWriter, r *http.Request) {
	limit, err := runLimit(r, 20)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	ctx, cancel := bounded(r)
	defer cancel()
	snap := h.statuses.get(ctx)
	if snap.err != nil {
		h.fail(w, r, snap.err)
		return
	}
	var out struct {
		Job  statusJSON `json:"job"`
		Runs *[]runJSON `json:"runs,omitempty"` // nil if the scheduler cannot list runs
	}
	st, ok := byName(snap.value, r.PathValue("name"))
	if !ok {
		h.refuse(w, r, ActionRead)
		return
	}
	out.Job = statusOf(st)
	switch runs, err := h.runs(ctx, st.Name, limit); {
	case err == nil:
		out.Runs = new(each(runs, runOf))
	case !errors.Is(err, errors.ErrUnsupported):
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, out)
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
		return byDefault, fmt.Errorf("%w: runs must be a number from 1 to %d", errBody, maxRuns)
	}
	return n, nil
}

// runs returns the latest runs, without their data unless ShowData is set.
func (h *handler) runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	lister, ok := jobs.As[jobs.RunLister](h.s)
	if !ok {
		return nil, fmt.Errorf("the scheduler cannot list runs: %w", errors.ErrUnsupported)
	}
	runs, err := lister.Runs(ctx, name, limit)
	if !h.ShowData {
		runs = slices.Clone(runs)
		for i := range runs {
			runs[i].Data = nil
		}
	}
	return runs, err
}

func (h *handler) apiSize(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	n, err := h.s.QueueSize(ctx, r.PathValue("name"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"name": r.PathValue("name"), "queue_size": n})
}

// api returns a handler for an action of the JSON API.
func api(verb string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			h.fail(w, r, fmt.Errorf("%w: body: %w", errBody, err))
			return
		}
		id, err := h.act(r, verb, string(body))
		switch {
		case err != nil:
			h.fail(w, r, err)
		case verb == "pause" || verb == "resume":
			writeJSON(w, http.StatusOK, map[string]any{"name": r.PathValue("name"), "paused": verb == "pause"})
		default:
			writeJSON(w, http.StatusAccepted, map[string]string{"id": id})
		}
	}
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
	return data, nil
}

func (h *handler) apiActivity(w http.ResponseWriter, r *http.Request) {
	which := h.hour
	switch r.URL.Query().Get("span") {
	case "", "hour":
	case "day":
		which = h.day
	default:
		h.fail(w, r, fmt.Errorf("%w: span must be hour or day", errBody))
		return
	}
	ctx, cancel := bounded(r)
	defer cancel()
	snap := which.get(ctx)
	if snap.err != nil {
		h.fail(w, r, snap.err)
		return
	}
	a := snap.value
	a.Jobs = map[string][]jobs.Outcomes{}
	for name, steps := range snap.value.Jobs {
		if h.allowed(r, ActionRead, name) {
			a.Jobs[name] = steps
		}
	}
	writeJSON(w, http.StatusOK, activityOf(a))
}

// loadActivity returns a function that loads the activity for a cache.
func (h *handler) loadActivity(step time.Duration, n int) func(context.Context) (jobs.Activity, error) {
	return func(ctx context.Context) (jobs.Activity, error) {
		reporter, ok := jobs.As[jobs.ActivityReporter](h.s)
		if !ok {
			return jobs.Activity{}, fmt.Errorf("the scheduler does not report activity: %w", errors.ErrUnsupported)
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
	if snap.err != nil {
		snap.value = jobs.Health{Started: snap.value.Started, Reasons: []jobs.Reason{{Text: unanswered(snap.err)}}}
	}
	status := http.StatusOK
	if !snap.value.Healthy {
		status = http.StatusServiceUnavailable
	}
	all := h.statuses.get(ctx)
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

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // only if a provider returns data that is not JSON
		status, body = http.StatusServiceUnavailable, []byte(`{"error": "the scheduler returned data that is not JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may have gone
}
