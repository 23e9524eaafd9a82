package jobshttp

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/everytick/everytick/jobs"
)

// A fault is an error as pages and the API report it.
type fault struct {
	status int
	code   string // for programs; openapi.json lists all codes
	text   string
	count  int // of the runs that a bulk action had changed before it failed
}

// Error implements error.
func (f *fault) Error() string { return f.text }

type faultJSON struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Count   int    `json:"count,omitempty"`
}

// invalid returns the fault for an invalid parameter.
func invalid(format string, args ...any) error {
	return &fault{status: http.StatusBadRequest, code: "invalid_parameter", text: fmt.Sprintf(format, args...)}
}

// codes has the code of each status for which no other is given.
var codes = map[int]string{
	http.StatusUnauthorized:          "unauthenticated",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusRequestEntityTooLarge: "body_too_large",
	http.StatusUnsupportedMediaType:  "unsupported_media_type",
	http.StatusNotImplemented:        "unsupported",
	http.StatusInternalServerError:   "internal",
	http.StatusServiceUnavailable:    "unavailable",
}

// errBody is returned for an invalid body.
var errBody = errors.New("bad request")

// faultOf returns the fault for an error. An error that the client cannot fix is logged and
// not shown, because it may contain details of the database.
func (h *handler) faultOf(r *http.Request, err error) *fault {
	var tooLarge *http.MaxBytesError
	given := func(status int, code, text string) *fault { return &fault{status: status, code: code, text: text} }
	if f := (*fault)(nil); errors.As(err, &f) {
		return f
	}
	switch {
	case errors.As(err, &tooLarge):
		return given(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("body: at most %d bytes are allowed", maxBody))
	case errors.Is(err, errBody):
		return given(http.StatusBadRequest, "invalid_body", err.Error())
	case errors.Is(err, jobs.ErrInvalidData):
		return given(http.StatusBadRequest, "invalid_data", "invalid data: "+after(err, jobs.ErrInvalidData))
	case errors.Is(err, jobs.ErrInvalidOption):
		return given(http.StatusBadRequest, "invalid_parameter", "invalid option: "+after(err, jobs.ErrInvalidOption))
	case errors.Is(err, jobs.ErrInvalidSchedule):
		return given(http.StatusBadRequest, "invalid_parameter", "invalid time: "+after(err, jobs.ErrInvalidSchedule))
	case errors.Is(err, jobs.ErrUnknownID):
		return given(http.StatusNotFound, "unknown_run", "no such run of this job")
	case errors.Is(err, jobs.ErrNotRetryable):
		return given(http.StatusConflict, "not_retryable",
			"only a run that failed, was cancelled or skipped, or waits for its next attempt can be retried")
	case errors.Is(err, jobs.ErrKeyReused):
		return given(http.StatusUnprocessableEntity, "idempotency_key_reused",
			"the Idempotency-Key belongs to a trigger with other data or parameters")
	case errors.Is(err, errors.ErrUnsupported):
		text, _, _ := strings.Cut(err.Error(), ": "+errors.ErrUnsupported.Error())
		return given(http.StatusNotImplemented, "unsupported", text)
	}
	if r.Context().Err() == nil { // otherwise the client has gone
		h.Logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	text := "the scheduler returned an error, or the database did not answer; see the log"
	if r.Method == http.MethodPost {
		text += ". The request may have taken effect anyway"
	}
	return given(http.StatusServiceUnavailable, "unavailable", text)
}

// after returns the text of err that follows the text of kind, which it wraps, and the name of
// the job: the rest is for readers of Go code.
func after(err, kind error) string {
	text := err.Error()
	if _, rest, ok := strings.Cut(text, kind.Error()); ok {
		text = rest
	}
	if rest, ok := strings.CutPrefix(text, ` for "`); ok {
		_, text, _ = strings.Cut(rest, `"`)
	}
	return strings.TrimPrefix(text, ": ")
}

// explain returns the status and text of the fault for an error.
func (h *handler) explain(r *http.Request, err error) (status int, text string) {
	f := h.faultOf(r, err)
	return f.status, f.text
}

// fail answers with err.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, jobs.ErrUnknownJob) || errors.Is(err, jobs.ErrInvalidName) {
		if r.PathValue("name") == "" { // the query named it
			h.report(w, r, errUnknownJob)
			return
		}
		h.refuse(w, r, ActionRead)
		return
	}
	h.report(w, r, h.faultOf(r, err))
}

// problem answers with the usual code of a status.
func (h *handler) problem(w http.ResponseWriter, r *http.Request, status int, text string) {
	h.report(w, r, &fault{status: status, code: codes[status], text: text})
}

// report answers with a fault, as a page or as JSON. A page shows its text as a sentence.
func (h *handler) report(w http.ResponseWriter, r *http.Request, f *fault) {
	if isPage(r) {
		text := strings.ToUpper(f.text[:1]) + strings.TrimSuffix(f.text[1:], ".") + "."
		heading := fmt.Sprintf("%d %s", f.status, http.StatusText(f.status))
		h.render(w, r, f.status, "error", &view{Heading: heading, Text: text})
		return
	}
	writeJSON(w, f.status, map[string]faultJSON{"error": {f.code, f.text, f.count}})
}
