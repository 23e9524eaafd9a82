package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"riverqueue.com/riverui"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// newHandler returns the demo's HTTP interface over the scheduler, with River UI
// at /riverui. The caller starts the River UI handler that is returned with it.
func newHandler(s *river.Scheduler, m *metrics, log *slog.Logger) (http.Handler, *riverui.Handler, error) {
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(s.Client(), nil),
		Logger:    slog.New(slog.DiscardHandler), // it logs every request
		Prefix:    "/riverui",
	})
	if err != nil {
		return nil, nil, fmt.Errorf("river ui: %w", err)
	}
	a := api{s, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.index)
	mux.HandleFunc("GET /healthz", a.health)
	mux.Handle("GET /metrics", m.handler(s, log))
	mux.HandleFunc("GET /jobs", a.list)
	mux.HandleFunc("GET /jobs/{name}/size", a.size)
	mux.HandleFunc("POST /jobs/{name}/trigger", a.trigger)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, fmt.Errorf("no such resource: %s %s", r.Method, r.URL.Path))
	})
	mux.Handle("/riverui/", ui)
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, errors.New("cross-origin requests are refused"))
	}))
	return protection.Handler(mux), ui, nil
}

type api struct {
	s   *river.Scheduler
	log *slog.Logger
}

// maxBody is the largest request body: a job's data and white space.
const maxBody = 2 * jobs.MaxDataBytes

func (a api) index(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, listOfURLs("http://"+r.Host))
}

func (a api) health(w http.ResponseWriter, r *http.Request) {
	h, err := a.s.Health(r.Context())
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, err)
		return
	}
	status := http.StatusOK
	if !h.Healthy {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, h)
}

func (a api) list(w http.ResponseWriter, r *http.Request) {
	all, err := a.s.Jobs(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	type job struct {
		Name      string    `json:"name"`
		Schedule  string    `json:"schedule"`
		Zone      string    `json:"zone,omitempty"`
		NextRun   time.Time `json:"next_run,omitzero"`
		QueueSize int       `json:"queue_size"`
		Running   int       `json:"running"`
	}
	out := make([]job, len(all))
	for i, st := range all {
		out[i] = job{st.Name, st.Schedule, st.Zone, st.NextTick, st.Waiting, st.Running}
	}
	writeJSON(w, http.StatusOK, out)
}

func (a api) size(w http.ResponseWriter, r *http.Request) {
	n, err := a.s.QueueSize(r.Context(), r.PathValue("name"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"name": r.PathValue("name"), "queue_size": n})
}

func (a api) trigger(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		writeError(w, http.StatusRequestEntityTooLarge, fmt.Errorf("body: at most %d bytes are allowed", maxBody))
		return
	case err != nil:
		writeError(w, http.StatusBadRequest, fmt.Errorf("body: %w", err))
		return
	}
	var data any
	if len(body) > 0 {
		if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/json" {
			writeError(w, http.StatusUnsupportedMediaType, errors.New("Content-Type: want application/json"))
			return
		}
		data = json.RawMessage(body)
	}
	id, err := a.s.Trigger(r.Context(), r.PathValue("name"), data)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.log.InfoContext(r.Context(), "triggered by hand", "job", r.PathValue("name"), "job_id", id)
	writeJSON(w, http.StatusAccepted, map[string]string{"id": id})
}

// fail answers with the status that the error deserves.
func (a api) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, jobs.ErrUnknownJob):
		writeError(w, http.StatusNotFound, err)
	case errors.Is(err, jobs.ErrInvalidData):
		writeError(w, http.StatusBadRequest, err)
	case r.Context().Err() != nil: // nobody is there to read an answer
	default:
		a.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		writeError(w, http.StatusServiceUnavailable, errors.New("the database does not answer; see the log"))
	}
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may have gone
}
