package jobshttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// filter is what the page of all runs lists, as its URL has it.
type filter struct {
	Jobs         string // names or parts of names, separated by spaces
	States       []jobs.State
	Since, Until time.Time
	After        string
}

// parseFilter returns the filter of a URL or form. On an error it is as complete as possible.
func parseFilter(values url.Values) (f filter, err error) {
	f.Jobs, f.After = strings.Join(strings.Fields(values.Get("name")), " "), values.Get("after")
	for _, text := range values["state"] {
		if state := jobs.State(text); slices.Contains(states, state) {
			f.States = append(f.States, state)
		} else if text != "" {
			err = invalid("state must be one of %s", join(states))
		}
	}
	for _, bound := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		var badTime error
		if *bound.to, badTime = parseTime(values.Get(bound.name)); badTime != nil {
			err = invalid("%s must be a time such as 2026-01-31T22:00 in UTC, or 2026-01-31T22:00+01:00", bound.name)
		}
	}
	if err == nil && !f.Since.IsZero() && !f.Until.IsZero() && !f.Until.After(f.Since) {
		err = invalid("until must be after since")
	}
	return f, err
}

// parseTime parses a time as a program or a form sends it. Without a zone it is in UTC. "" is the zero time.
func parseTime(text string) (t time.Time, err error) {
	if text == "" {
		return t, nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00",
	} {
		if t, err = time.Parse(layout, text); err == nil {
			break
		}
	}
	return t.UTC(), err
}

// values returns the filter as the query of a URL, without the cursor.
func (f filter) values() url.Values {
	values := url.Values{}
	if f.Jobs != "" {
		values.Set("name", f.Jobs)
	}
	for _, state := range f.States {
		values.Add("state", string(state))
	}
	for name, t := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !t.IsZero() {
			values.Set(name, t.Format(time.RFC3339Nano))
		}
	}
	return values
}

// matches reports whether the filter lists runs of the job. A term that is a whole name means that job only.
func (f filter) matches(name string, all []*row) bool {
	for term := range strings.FieldsSeq(strings.ToLower(f.Jobs)) {
		whole := slices.ContainsFunc(all, func(row *row) bool { return row.Name == term })
		if name == term || !whole && strings.Contains(name, term) {
			return true
		}
	}
	return f.Jobs == ""
}

// query returns the query for the runs of those jobs that may is true for. It is false if there are none.
func (o *overview) query(f filter, may func(*row) bool) (q jobs.RunQuery, ok bool) {
	q = jobs.RunQuery{States: f.States, Since: f.Since, Until: f.Until, After: f.After}
	for _, row := range o.rows {
		if may(row) && f.matches(row.Name, o.rows) {
			q.Names = append(q.Names, row.Name)
		}
	}
	if ok = len(q.Names) > 0; len(q.Names) == len(o.jobs.value) {
		q.Names = nil // all
	}
	return q, ok
}

// box is a state that can be chosen.
type box struct {
	Value   jobs.State
	Outcome outcome
	Checked bool
}

// quick is a link to runs that are often looked for. If Clock is set, the script replaces the time in the link by that
// time of the day in the reader's zone.
type quick struct{ Text, Link, Clock string }

// listing is the data of the page of all runs.
type listing struct {
	Filter filter
	Boxes  []box
	Quick  []quick
	Failed string // why there is no list
	Older  string // URL of the next page
	Newest string // URL of the first page, if this is another
	Retry  string // URL of the page to confirm a retry of all runs, or ""
	Cancel string

	// On the page to confirm.
	Verb, Do string // such as retry, and Retry
	Fields   url.Values
	N        int
	Jobs     []string // nil means all
	Until    *moment
	Since    *moment
	Back     string
}

// pageSize is the number of runs on a page.
const pageSize = 100

// evening returns the latest time at which clocks in UTC showed 22:00.
func evening(now time.Time) time.Time {
	at := time.Date(now.Year(), now.Month(), now.Day(), 22, 0, 0, 0, time.UTC)
	if at.After(now) {
		at = at.AddDate(0, 0, -1)
	}
	return at
}

// quickLinks returns links to runs that are often looked for.
func quickLinks(now time.Time, root string) []quick {
	now = now.UTC()
	link := func(f filter) string { return root + "runs?" + f.values().Encode() }
	failed := []jobs.State{jobs.StateFailed}
	return []quick{
		{"failed in the last hour", link(filter{States: failed, Since: now.Add(-time.Hour).Truncate(time.Minute)}), ""},
		{"failed since 22:00 UTC", link(filter{States: failed, Since: evening(now)}), "22:00"},
		{"all failed", link(filter{States: failed}), ""},
		{"running", link(filter{States: []jobs.State{jobs.StateRunning}}), ""},
		{"waiting", link(filter{States: []jobs.State{jobs.StateWaiting}}), ""},
		{"retrying", link(filter{States: []jobs.State{jobs.StateRetrying}}), ""},
	}
}

func (h *handler) runsPage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	finder, ok := jobs.As[jobs.RunFinder](h.s)
	if !ok {
		h.fail(w, r, unsupported("find runs"))
		return
	}
	o := h.look(ctx, r)
	f, err := parseFilter(r.URL.Query())
	l := &listing{Filter: f, Quick: quickLinks(o.now, base(r))}
	for _, state := range states {
		l.Boxes = append(l.Boxes, box{state, outcomeOf(state), slices.Contains(f.States, state)})
	}
	v := o.view
	v.Heading, v.Listing, v.Live = "Runs", l, f.After == "" && err == nil
	if v.Notice = doneMany(r.URL.Query()); v.Notice == nil {
		v.Notice = done(r, o.rows)
	}
	here := base(r) + "runs"
	if query := f.values(); len(query) > 0 {
		here += "?" + query.Encode()
	}
	if f.After != "" {
		l.Newest = here
	}
	q, some := o.query(f, func(*row) bool { return true })
	q.Limit = pageSize
	var page jobs.RunPage
	status := http.StatusOK
	switch {
	case err != nil:
	case o.jobs.err != nil:
		err = o.jobs.err
	case some:
		if page, err = finder.FindRuns(ctx, q); errors.Is(err, jobs.ErrInvalidOption) {
			err = invalid("the address of this page of runs is not valid; start with the first page")
		}
	}
	if err != nil {
		var text string
		status, text = h.explain(r, err)
		l.Failed = sentence(text)
	}
	for _, x := range noData(page.Runs) {
		if row := o.byName(x.Name); row != nil {
			shown := h.newRun(r, o, x, row)
			shown.Back = f.values()
			shown.Back.Set("back", "runs")
			v.Runs = append(v.Runs, shown)
		}
	}
	next := f.values()
	if page.Next != "" {
		next.Set("after", page.Next)
		l.Older = base(r) + "runs?" + next.Encode()
	}
	if len(v.Runs) > 0 {
		for _, verb := range []string{"retry", "cancel"} {
			if h.mayDoToMany(r, o, verb, f) {
				link := base(r) + "runs/" + verb + "?" + f.values().Encode()
				if verb == "retry" {
					l.Retry = link
				} else {
					l.Cancel = link
				}
			}
		}
	}
	h.render(w, r, status, "runs", v)
}

// many is an action on many runs.
type many struct {
	states []jobs.State // of runs that it applies to
	may    func(*row) bool
	action Action
}

var manyActions = map[string]many{
	"retry": {
		[]jobs.State{jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped, jobs.StateRetrying},
		func(row *row) bool { return row.CanRetry }, ActionRetry,
	},
	"cancel": {
		[]jobs.State{jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying},
		func(row *row) bool { return row.CanStop }, ActionCancel,
	},
}

// mayDoToMany reports whether the scheduler and the user can do something to the runs of a filter.
func (h *handler) mayDoToMany(r *http.Request, o *overview, verb string, f filter) bool {
	_, can := jobs.As[jobs.BulkRetrier](h.s)
	if verb == "cancel" {
		_, can = jobs.As[jobs.BulkCanceller](h.s)
	}
	m := manyActions[verb]
	applies := func(s jobs.State) bool { return slices.Contains(m.states, s) }
	some := len(f.States) == 0 || slices.ContainsFunc(f.States, applies)
	_, ok := o.query(f, m.may)
	return can && some && ok && h.allowed(r, m.action, "")
}

// ended reports whether the filter lists only runs that have ended.
func (f filter) ended() bool {
	return len(f.States) > 0 && !slices.ContainsFunc(f.States, func(s jobs.State) bool {
		return s != jobs.StateCompleted && s != jobs.StateFailed && s != jobs.StateCancelled && s != jobs.StateSkipped
	})
}

// confirmPage returns a handler for the page that says how many runs an action is for, and asks whether to go on.
func confirmPage(verb string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		h.confirm(w, r, verb, r.URL.Query(), nil, http.StatusOK)
	}
}

func (h *handler) confirm(
	w http.ResponseWriter, r *http.Request, verb string, values url.Values, failure *notice, status int,
) {
	ctx, cancel := bounded(r)
	defer cancel()
	o := h.look(ctx, r)
	f, err := parseFilter(values)
	f.After = ""
	l := &listing{Filter: f, Verb: verb, Do: capital(verb), Fields: f.values()}
	l.Back = base(r) + "runs?" + l.Fields.Encode()
	if err == nil {
		err = o.jobs.err
	}
	if f.Until.IsZero() && f.ended() && o.now.After(f.Since) { // leave out runs that end while the reader decides
		f.Until = o.now.UTC()
		l.Fields.Set("before", f.Until.Format(time.RFC3339Nano))
	}
	var ok bool
	var q jobs.RunQuery
	if err == nil {
		if q, ok = o.query(f, manyActions[verb].may); !ok {
			q.Names = []string{}
		}
		l.N, err = h.countMany(ctx, verb, q, ok)
	}
	switch {
	case err != nil && failure != nil:
		h.problem(w, r, status, strings.TrimSuffix(failure.Text, "."))
		return
	case err != nil:
		h.fail(w, r, err)
		return
	}
	l.Jobs, l.Since, l.Until = q.Names, newMoment(f.Since, o.now), newMoment(f.Until, o.now)
	o.view.Listing, o.view.Notice, o.view.Live = l, failure, false
	o.view.Heading = fmt.Sprintf("%s %s %s?", l.Do, count(l.N), plural(l.N, "run", "runs"))
	h.render(w, r, status, "confirm", o.view)
}

// countMany returns how many runs an action is for.
func (h *handler) countMany(ctx context.Context, verb string, q jobs.RunQuery, some bool) (int, error) {
	if s, ok := jobs.As[jobs.BulkRetrier](h.s); ok && verb == "retry" {
		if !some {
			return 0, nil
		}
		return s.CountRetryable(ctx, q)
	}
	if s, ok := jobs.As[jobs.BulkCanceller](h.s); ok && verb == "cancel" {
		if !some {
			return 0, nil
		}
		return s.CountCancellable(ctx, q)
	}
	return 0, unsupported(verb + " many runs")
}

// formMany returns a handler for the form that does something to many runs.
func formMany(verb string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		err := parseForm(r, "before")
		f, badFilter := parseFilter(r.PostForm)
		before, badTime := parseTime(r.PostForm.Get("before"))
		if badTime != nil {
			badTime = invalid("before must be a time such as 2026-01-31T22:00:00Z")
		}
		n := 0
		if err = cmp.Or(err, badFilter, badTime); err == nil {
			n, err = h.doToMany(r, verb, f, before)
		}
		if err != nil {
			status, text := h.explain(r, err)
			if n > 0 {
				text = fmt.Sprintf("%s %s, then it failed: %s. Repeat it for the others", pastOf(verb), runsOf(n), text)
			}
			h.confirm(w, r, verb, r.PostForm, &notice{Failed: true, Text: sentence(text)}, status)
			return
		}
		query := f.values()
		query.Set("done", verb)
		query.Set("n", strconv.Itoa(n))
		redirect(w, base(r)+"runs?"+query.Encode())
	}
}

// doToMany performs and logs an action on the runs of a filter that ended before a time, unless it is zero.
func (h *handler) doToMany(r *http.Request, verb string, f filter, before time.Time) (n int, err error) {
	ctx, cancel := bounded(r)
	defer cancel()
	o := &overview{jobs: h.statuses.get(ctx)}
	if o.jobs.err != nil {
		return 0, o.jobs.err
	}
	visible, _ := h.readable(r, o.jobs.value)
	o.rows = h.newRows(r, visible, nil, time.Now())
	if !before.IsZero() {
		f.Until = before
	}
	f.After = ""
	q, ok := o.query(f, manyActions[verb].may)
	if !ok {
		return h.countMany(ctx, verb, q, false)
	}
	ctx, cancel = context.WithTimeout(r.Context(), bulkTimeout)
	defer cancel()
	err = unsupported(verb + " many runs")
	if s, ok := jobs.As[jobs.BulkRetrier](h.s); ok && verb == "retry" {
		n, err = s.RetryMany(ctx, q)
	}
	if s, ok := jobs.As[jobs.BulkCanceller](h.s); ok && verb == "cancel" {
		n, err = s.CancelMany(ctx, q)
	}
	h.expire()
	if n > 0 || err == nil {
		h.Logger.InfoContext(r.Context(), "manual action", "action", verb, "runs", n, "jobs", f.Jobs, "states", f.States,
			"since", f.Since, "until", f.Until, "who", h.Who(r))
	}
	return n, err
}

// doneMany returns the notice for the query that formMany redirects to.
func doneMany(values url.Values) *notice {
	n, err := strconv.Atoi(values.Get("n"))
	switch verb := values.Get("done"); {
	case err != nil || n < 0:
	case verb == "retry":
		return &notice{Text: "Retried " + runsOf(n) + ". They start as workers become free."}
	case verb == "cancel":
		return &notice{Text: "Cancelled " + runsOf(n) + ". Those that have started end when their handlers notice."}
	}
	return nil
}

func pastOf(verb string) string {
	if verb == "retry" {
		return "Retried"
	}
	return "Cancelled"
}

func runsOf(n int) string { return count(n) + " " + plural(n, "run", "runs") }

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// sentence returns a text as a sentence.
func sentence(text string) string { return capital(strings.TrimSuffix(text, ".")) + "." }
