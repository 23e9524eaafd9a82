package jobshttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// parameters returns the query of a request, which may have the known parameters only. All but
// name and state may be given once.
func parameters(r *http.Request, known []string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query is malformed: %s", err)
	}
	for key, values := range query {
		switch {
		case !slices.Contains(known, key) && len(known) == 0:
			return nil, unknownParameter(key, "this path takes none")
		case !slices.Contains(known, key):
			return nil, unknownParameter(key, "this path takes "+strings.Join(slices.Sorted(slices.Values(known)), ", "))
		case len(values) > 1 && key != "name" && key != "state":
			return nil, invalid("%s is given %d times; give it once", key, len(values))
		case slices.Contains(values, ""):
			return nil, invalid("%s is empty; leave it out or give it a value", key)
		}
	}
	return query, nil
}

// filterFields are the fields of the filter of runs.
var filterFields = []string{"name", "state", "since", "until"}

// parseForm parses a form, which may have the fields of a filter and those given, and no parameters in the URL: a filter
// that is misspelt or in the wrong place would select everything.
func parseForm(r *http.Request, others ...string) error {
	if err := r.ParseForm(); err != nil {
		return fmt.Errorf("%w: %w", errBody, err)
	}
	if r.URL.RawQuery != "" {
		return invalid("the URL of a form takes no parameters; send them as fields in the body")
	}
	known := slices.Concat(filterFields, others)
	for key := range r.PostForm {
		if !slices.Contains(known, key) {
			return unknownParameter(key, "this form has "+strings.Join(slices.Sorted(slices.Values(known)), ", "))
		}
	}
	return nil
}

func unknownParameter(key, allowed string) error {
	return &fault{
		status: http.StatusBadRequest, code: "unknown_parameter",
		text: "unknown parameter " + strconv.QuoteToASCII(key) + ": " + allowed,
	}
}

// timeOf returns the time that a parameter has, or zero if it is not given.
func timeOf(query url.Values, key string) (time.Time, error) {
	if !query.Has(key) {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, query.Get(key))
	if err != nil || t.IsZero() {
		return time.Time{}, invalid("%s must be a time such as 2026-11-30T08:00:00Z; write the + of a zone as %%2B", key)
	}
	return t, nil
}

var triggerParameters = []string{"at", "delay", "latest", "priority", "unique", "unique_waiting"}

// seconds is the form of a duration. Nine digits are 31 years.
var seconds = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,3})?$`)

// triggerOptions returns the options in the query and in the headers Idempotency-Key of a trigger.
func triggerOptions(query url.Values, headers []string) (opts []jobs.TriggerOption, err error) {
	if query.Has("delay") && query.Has("at") {
		return nil, invalid("delay and at exclude each other")
	}
	if text := query.Get("delay"); text != "" {
		if !seconds.MatchString(text) {
			return nil, invalid("delay must be a number of seconds from 0 to 999999999.999 with at most three decimals, such as 90 or 1.5")
		}
		delay, err := time.ParseDuration(text + "s")
		if err != nil {
			return nil, invalid("delay must be a number of seconds")
		}
		opts = append(opts, jobs.Delay(delay))
	}
	at, err := timeOf(query, "at")
	if err != nil {
		return nil, err
	}
	if !at.IsZero() {
		opts = append(opts, jobs.At(at))
	}
	if text := query.Get("priority"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 4 {
			return nil, invalid("priority must be a number from 1, which starts first, to 4")
		}
		opts = append(opts, jobs.Priority(n))
	}
	keyed, err := keyOption(query, headers)
	if err != nil {
		return nil, err
	}
	if keyed != nil {
		opts = append(opts, keyed)
	}
	return opts, nil
}

// keyOption returns the option that gives a trigger its key, or nil.
func keyOption(query url.Values, headers []string) (opt jobs.TriggerOption, err error) {
	key, err := idempotencyKey(headers)
	if err != nil {
		return nil, err
	}
	given := 0
	if key != "" {
		opt = jobs.IdempotencyKey(key)
		given++
	}
	for _, by := range []struct {
		name   string
		option func(string) jobs.TriggerOption
	}{{"unique", jobs.Unique}, {"unique_waiting", jobs.UniqueWaiting}, {"latest", jobs.Latest}} {
		key := query.Get(by.name)
		switch {
		case key == "":
			continue
		case len(key) > maxKey:
			return nil, invalid("%s has %d bytes, must be 1 to %d", by.name, len(key), maxKey)
		}
		opt = by.option(key)
		given++
	}
	if given > 1 {
		return nil, invalid("a run has one key: Idempotency-Key, unique, unique_waiting and latest exclude each other")
	}
	return opt, nil
}

// maxKey is the most bytes of a key.
const maxKey = 1000

// bare is an idempotency key without quotation marks, as many clients send it.
var bare = regexp.MustCompile(`^[!#-+\--~]+$`)

// quoted is a String of RFC 9651, without the parameters that could follow it.
var quoted = regexp.MustCompile(`^"((?:[ !#-\[\]-~]|\\["\\])+)"$`)

var unescape = strings.NewReplacer(`\"`, `"`, `\\`, `\`)

// idempotencyKey returns the key in the values of the header Idempotency-Key, or "" if there is none.
func idempotencyKey(headers []string) (key string, err error) {
	if len(headers) == 0 {
		return "", nil
	}
	if text := headers[0]; bare.MatchString(text) {
		key = text
	} else if m := quoted.FindStringSubmatch(text); m != nil {
		key = unescape.Replace(m[1])
	}
	if len(headers) > 1 || key == "" || len(key) > maxKey {
		return "", invalid("Idempotency-Key must be given once and have 1 to %d printable ASCII characters, "+
			`such as "8e03978e-40d5-43dd-bc93-6894a57f9324"`, maxKey)
	}
	return key, nil
}

var states = []jobs.State{
	jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying,
	jobs.StateCompleted, jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped,
}

// runQuery returns the filter in the query of a request that performs action on the runs which
// match it. Without names, it names all jobs on which the request may perform action.
func (h *handler) runQuery(r *http.Request, query url.Values, action Action) (q jobs.RunQuery, err error) {
	if q.Since, err = timeOf(query, "since"); err != nil {
		return q, err
	}
	if q.Until, err = timeOf(query, "until"); err != nil {
		return q, err
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return q, invalid("since must be before until")
	}
	for _, text := range query["state"] {
		state := jobs.State(text)
		if !slices.Contains(states, state) {
			return q, invalid("state must be one of %s", join(states))
		}
		q.States = append(q.States, state)
	}
	for _, name := range query["name"] {
		if may := h.allowed(r, action, name); !may && h.allowed(r, ActionRead, name) && h.known(r.Context(), name) {
			return q, &fault{status: http.StatusForbidden, code: "forbidden", text: errForbidden}
		} else if !may || !h.known(r.Context(), name) {
			return q, errUnknownJob
		}
		q.Names = append(q.Names, name)
	}
	if len(q.Names) > 0 {
		return q, nil
	}
	all, err := h.readStatuses(r)
	if err != nil {
		return q, err
	}
	for _, st := range all {
		if h.allowed(r, action, st.Name) {
			q.Names = append(q.Names, st.Name)
		}
	}
	return q, nil
}

func join(all []jobs.State) string {
	return strings.Join(each(all, func(s jobs.State) string { return string(s) }), ", ")
}

// pageJSON is a page of runs.
type pageJSON struct {
	Runs []runJSON `json:"runs"`
	Next string    `json:"next,omitempty"`
}

func (h *handler) apiRuns(r *http.Request, query url.Values) (any, error) {
	finder, ok := jobs.As[jobs.RunFinder](h.s)
	if !ok {
		return nil, unsupported("find runs")
	}
	q, err := h.runQuery(r, query, ActionRead)
	if err != nil {
		return nil, err
	}
	if text := query.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > maxRuns {
			return nil, invalid("limit must be a number from 1 to %d", maxRuns)
		}
	}
	if q.After = query.Get("after"); len(q.Names) == 0 {
		return pageJSON{Runs: []runJSON{}}, nil
	}
	ctx, cancel := bounded(r)
	defer cancel()
	for {
		page, err := finder.FindRuns(ctx, q)
		if errors.Is(err, jobs.ErrInvalidOption) { // all else has been checked
			return nil, invalid("after must be the field next of the page before, with the same filter")
		}
		if err != nil {
			return nil, err
		}
		out := pageJSON{each(h.withoutData(page.Runs), runOf), page.Next}
		n := fitting(out.Runs)
		if n == len(out.Runs) {
			return out, nil
		}
		q.Limit = n // the cursor of the page must be that of its last run
	}
}

// findRun returns the run with the ID in the path.
func (h *handler) findRun(r *http.Request) (run jobs.Run, err error) {
	finder, ok := jobs.As[jobs.RunFinder](h.s)
	if !ok {
		return run, unsupported("find runs")
	}
	ctx, cancel := bounded(r)
	defer cancel()
	run, err = finder.Run(ctx, r.PathValue("id"))
	return h.withoutData([]jobs.Run{run})[0], err
}

func (h *handler) apiJobRun(r *http.Request, _ url.Values) (any, error) {
	run, err := h.findRun(r)
	if err == nil && run.Name != r.PathValue("name") {
		err = jobs.ErrUnknownID
	}
	return runOf(run), err
}

func (h *handler) apiRun(r *http.Request, _ url.Values) (any, error) {
	run, err := h.findRun(r)
	if errors.Is(err, jobs.ErrUnknownID) || err == nil && !h.allowed(r, ActionRead, run.Name) {
		err = &fault{status: http.StatusNotFound, code: "unknown_run", text: "no such run"}
	}
	return runOf(run), err
}

func (h *handler) apiProcesses(r *http.Request, _ url.Values) (any, error) {
	lister, ok := jobs.As[jobs.ProcessLister](h.s)
	if !ok {
		return nil, unsupported("list processes")
	}
	ctx, cancel := bounded(r)
	defer cancel()
	all, err := lister.Processes(ctx)
	forms := each(all, processOf)
	for i := range forms {
		forms[i].Jobs = slices.DeleteFunc(forms[i].Jobs, func(name string) bool { return !h.allowed(r, ActionRead, name) })
	}
	return map[string][]processJSON{"processes": forms}, err
}

var bulkParameters = []string{"name", "state", "since", "until", "dry_run"}

// bulkTimeout bounds a bulk action.
const bulkTimeout = 30 * time.Second

type countJSON struct {
	Count  int  `json:"count"`
	DryRun bool `json:"dry_run"`
}

// bulk counts the runs that match the query, or acts on them.
func (h *handler) bulk(
	r *http.Request, query url.Values, body string, action Action,
	count, act func(context.Context, jobs.RunQuery) (int, error),
) (reply, error) {
	if err := empty(body); err != nil {
		return reply{}, err
	}
	dry := query.Get("dry_run")
	switch dry {
	case "", "true", "false":
	default:
		return reply{}, invalid("dry_run must be true or false")
	}
	if query.Del("dry_run"); len(query) == 0 {
		return reply{}, &fault{
			status: http.StatusBadRequest, code: "missing_filter",
			text: "give a filter: name, state, since or until",
		}
	}
	q, err := h.runQuery(r, query, action)
	if err != nil {
		return reply{}, err
	}
	out := countJSON{DryRun: dry == "true"}
	if len(q.Names) == 0 {
		return reply{http.StatusOK, "", out}, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), bulkTimeout)
	defer cancel()
	if out.DryRun {
		out.Count, err = count(ctx, q)
		return reply{http.StatusOK, "", out}, err
	}
	out.Count, err = act(ctx, q)
	h.expire()
	if out.Count > 0 || err == nil {
		h.Logger.InfoContext(r.Context(), "manual action", "action", string(action), "runs", out.Count,
			"filter", query.Encode(), "who", h.Who(r))
	}
	if f := (*fault)(nil); err != nil && out.Count > 0 {
		f = h.faultOf(r, err)
		return reply{}, &fault{f.status, f.code, f.text, out.Count}
	}
	return reply{http.StatusOK, "", out}, err
}

func (h *handler) apiCancelMany(r *http.Request, query url.Values, body string) (reply, error) {
	s, ok := jobs.As[jobs.BulkCanceller](h.s)
	if !ok {
		return reply{}, unsupported("cancel many runs")
	}
	return h.bulk(r, query, body, ActionCancel, s.CountCancellable, s.CancelMany)
}

func (h *handler) apiRetryMany(r *http.Request, query url.Values, body string) (reply, error) {
	s, ok := jobs.As[jobs.BulkRetrier](h.s)
	if !ok {
		return reply{}, unsupported("retry many runs")
	}
	return h.bulk(r, query, body, ActionRetry, s.CountRetryable, s.RetryMany)
}
