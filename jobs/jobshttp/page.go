package jobshttp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

var templates = template.Must(template.New("").Funcs(template.FuncMap{"count": count}).ParseFS(assets, "assets/*.html"))

// view is the data of the templates.
type view struct {
	Title   string // of the window
	Brand   string // Options.Title
	Base    string // relative URL of the handler's root
	Live    bool   // the page refreshes itself
	Now     moment
	Heading string
	Text    string // of an error
	Notice  *notice
	Stale   string // that the database does not answer, and how old the page is
	Health  string // healthy, unhealthy or unknown
	Reasons []reason
	Facts   []fact
	Soonest *row
	Hour    *chart
	HasDay  bool
	Query   string
	Modules []module
	Found   int // jobs that match Query
	Total   int

	Job       *row // on a job's page
	Runs      []run
	RunsError string
	Limit     int
	ShowData  bool
	Typed     string // the data in a form that was refused
}

// notice reports the result of a form.
type notice struct {
	Failed        bool
	Text          string
	Job, Link, ID string
}

// reason is something that needs attention.
type reason struct{ Job, Link, Text string }

// fact is a number in the summary line.
type fact struct {
	N      int
	Text   string
	Class  string // CSS class if N is not 0
	Always bool   // show it even if N is 0
}

type module struct {
	Name string
	Rows []*row
}

// moment is a formatted instant.
type moment struct {
	ISO, Relative string
	Short         string // without the zone
}

// Text returns the time with its zone.
func (m moment) Text() string { return m.Short + " UTC" }

func newMoment(t, now time.Time) *moment {
	if t.IsZero() {
		return nil
	}
	t, now = t.UTC(), now.UTC()
	layout := "2 Jan 2006, 15:04"
	switch {
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		if layout = "15:04:05"; t.Second() == 0 && t.After(now) { // a tick
			layout = "15:04"
		}
	case t.Sub(now).Abs() < 300*24*time.Hour:
		layout = "2 Jan, 15:04"
	}
	return &moment{ISO: t.Format(time.RFC3339Nano), Relative: relative(t, now), Short: t.Format(layout)}
}

// row is a job as the pages show it.
type row struct {
	Name, Module, Link            string
	Words, Pattern, Zone          string
	Overdue, OverdueReason        string // by how much, and why
	Paused                        *moment
	Failing                       bool
	Why                           string // error or reason of the latest failure or skip
	Prev                          outcome
	PrevAt                        *moment
	Missed                        int
	Success                       *moment // latest success, unless it is Prev
	Next                          *moment
	Late                          bool
	Then                          []moment // the ticks after Next
	Local                         string   // Next in the job's zone, if that is not UTC
	Waiting, Running, Retrying    int
	Day                           *chart
	CanTrigger, CanPause, CanStop bool
	CanRetry                      bool

	next time.Time
}

// run is a run as the pages show it.
type run struct {
	jobs.Run
	Outcome              outcome
	Link                 string // prefix of the URLs of its actions
	ForTick              *moment
	Created, Due, Start  *moment
	Took                 string
	ErrorHead, DataShown string
	More                 int // bytes of data not shown
	CanCancel, CanRetry  bool
}

// outcome is a state as a sign and a word, so that it does not depend on colour.
type outcome struct{ Class, Sign, Word string }

func outcomeOf(s jobs.State) outcome {
	switch s {
	case jobs.StateCompleted:
		return outcome{"good", "✓", "done"}
	case jobs.StateFailed:
		return outcome{"bad", "✗", "failed"}
	case jobs.StateRetrying:
		return outcome{"warn", "↻", "retrying"}
	case jobs.StateRunning:
		return outcome{"info", "●", "running"}
	case jobs.StateWaiting:
		return outcome{"", "○", "waiting"}
	case jobs.StateScheduled:
		return outcome{"", "○", "scheduled"}
	case jobs.StateCancelled:
		return outcome{"mute", "–", "cancelled"}
	case jobs.StateSkipped:
		return outcome{"warn", "»", "skipped"}
	}
	return outcome{"mute", "", string(s)}
}

// overdueAfter is how late a tick must be to be shown as overdue. Every tick is due for a
// moment before it starts.
const overdueAfter = 10 * time.Second

// render writes a page.
func (h *handler) render(w http.ResponseWriter, r *http.Request, status int, name string, v *view) {
	v.Brand, v.Base = h.Title, base(r)
	if v.Now.ISO == "" {
		now := time.Now()
		v.Now = *newMoment(now, now)
	}
	v.Title = cmp.Or(v.Title, v.Heading+" · "+v.Brand)
	var body bytes.Buffer
	if err := templates.ExecuteTemplate(&body, name+".html", v); err != nil {
		h.Logger.ErrorContext(r.Context(), "could not render a page", "page", name, "error", err)
		writeJSON(w, http.StatusInternalServerError, map[string]faultJSON{
			"error": {Code: codes[http.StatusInternalServerError], Message: "could not render the page; see the log"},
		})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // the client may have gone
}

// overview holds what both pages have in common.
type overview struct {
	now  time.Time
	jobs snapshot[[]jobs.Status]
	rows []*row // jobs that the request may read
	view *view
}

// look loads everything a page shows, concurrently, until ctx ends.
func (h *handler) look(ctx context.Context, r *http.Request) *overview {
	_, reports := jobs.As[jobs.ActivityReporter](h.s)
	_, lists := jobs.As[jobs.RunLister](h.s)
	_, _ = h.health.begin()
	if reports {
		_, _ = h.hour.begin()
		_, _ = h.day.begin()
	}
	o := &overview{jobs: h.statuses.get(ctx)}
	var latest map[string][]jobs.Run
	if lists {
		if o.jobs.err == nil {
			latest = h.latest.get(ctx).value
		} else { // do not wait for a second timeout
			latest = h.latest.peek().value
		}
	}
	health := h.health.get(ctx)
	o.now = time.Now()
	visible, hidden := h.readable(r, o.jobs.value)
	for _, st := range visible {
		o.rows = append(o.rows, h.newRow(r, st, latest[st.Name], o.now))
	}
	v := &view{Now: *newMoment(o.now, o.now), Live: true, HasDay: reports}
	o.view = v
	if reports {
		hour, day := h.hour.get(ctx), h.day.get(ctx)
		names := make([]string, len(o.rows))
		for i, row := range o.rows {
			names[i] = row.Name
			if !day.at.IsZero() {
				row.Day = newChart(day.value, 24, names[i:i+1], "last 24 hours", 120, 30, o.now)
			}
		}
		if !hour.at.IsZero() {
			v.Hour = newChart(hour.value, 60, names, "last hour", 600, 72, o.now)
		}
	}
	switch {
	case o.jobs.err != nil && o.jobs.at.IsZero():
		v.Stale = "The database does not answer, and there is no earlier state to show."
	case o.jobs.err != nil:
		at := newMoment(o.jobs.at, o.now)
		v.Stale = fmt.Sprintf("The database does not answer. Showing the state as of %s, %s.", at.Text(), at.Relative)
	}
	v.Health = "unknown"
	var reasons []jobs.Reason
	if health.err == nil {
		shown := h.censor(r, health.value, o.jobs.at.IsZero() || len(hidden) > 0)
		v.Health = "healthy"
		if !shown.Healthy {
			v.Health = "unhealthy"
		}
		reasons = shown.Reasons
	}
	v.Reasons = o.reasons(reasons)
	return o
}

// reasons returns the reasons of the health check and the jobs that need attention, each job
// once.
func (o *overview) reasons(given []jobs.Reason) (all []reason) {
	for _, r := range given {
		one := reason{Job: r.Job, Text: r.Text}
		for _, row := range o.rows {
			if row.Name == r.Job {
				one.Link = row.Link
			}
		}
		all = append(all, one)
	}
	for _, row := range o.rows {
		text := ""
		switch named := slices.ContainsFunc(all, func(r reason) bool { return r.Job == row.Name }); {
		case named:
		case row.Overdue != "":
			text = "is overdue by " + row.Overdue + colon(row.OverdueReason)
		case row.Failing:
			text = "is failing" + colon(head(row.Why))
		case row.Paused != nil:
			text = "has been paused since " + row.Paused.Text()
		}
		if text != "" {
			all = append(all, reason{row.Name, row.Link, text})
		}
	}
	return all
}

func colon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// maxHead is the number of characters of an error shown before it is expanded.
const maxHead = 160

// head returns the first line of text, at most maxHead characters of it.
func head(text string) string {
	line, _, more := strings.Cut(text, "\n")
	if runes := []rune(line[:min(len(line), 4*maxHead)]); len(runes) > maxHead {
		line, more = string(runes[:maxHead]), true
	}
	if more {
		line += " …"
	}
	return strings.ToValidUTF8(line, "")
}

func (h *handler) newRow(r *http.Request, st jobs.Status, latest []jobs.Run, now time.Time) *row {
	can := func(action Action) bool { return h.allowed(r, action, st.Name) }
	_, pauses := jobs.As[jobs.Pauser](h.s)
	_, cancels := jobs.As[jobs.Canceller](h.s)
	_, retries := jobs.As[jobs.Retrier](h.s)
	x := &row{
		Name: st.Name, Link: base(r) + "job/" + url.PathEscape(st.Name),
		Words: words(st.Schedule), Zone: st.Zone,
		Paused: newMoment(st.PausedSince, now), Missed: st.Missed,
		Next: newMoment(st.NextTick, now), next: st.NextTick,
		Waiting: st.Waiting, Running: st.Running, Retrying: st.Retrying,
		CanTrigger: can(ActionTrigger), CanPause: pauses && can(ActionPause),
		CanStop: cancels && can(ActionCancel), CanRetry: retries && can(ActionRetry),
	}
	x.Module, _, _ = strings.Cut(st.Name, ".")
	if x.Words != st.Schedule && (st.Zone != "" || len(strings.Fields(st.Schedule)) == 5) {
		x.Pattern = st.Schedule
	}
	if st.OverdueBy >= overdueAfter {
		x.Overdue, x.OverdueReason = short(st.OverdueBy), st.OverdueReason
	}
	if x.Next != nil && st.NextTick.Before(now) {
		x.Late, x.Next.Relative = true, "due "+x.Next.Relative
	}
	for _, t := range st.Upcoming {
		if !t.Equal(st.NextTick) {
			x.Then = append(x.Then, *newMoment(t, now))
		}
	}
	prev, prevAt := st.PrevState, st.PrevTick
	if prev == "" && prevAt.IsZero() { // no tick has run, but the job may have been triggered
		if !st.NextTick.IsZero() { // a run that has not started is not the previous one
			latest = slices.DeleteFunc(slices.Clone(latest), func(run jobs.Run) bool {
				return run.StartedAt.IsZero() && run.EndedAt.IsZero()
			})
		}
		if len(latest) > 0 {
			last := latest[0]
			prev = last.State
			for _, t := range []time.Time{last.CreatedAt, last.StartedAt, last.EndedAt} {
				if !t.IsZero() {
					prevAt = t
				}
			}
		}
	}
	x.Prev, x.PrevAt = outcomeOf(prev), newMoment(prevAt, now)
	if !st.LastSuccess.Equal(st.PrevTick) {
		x.Success = newMoment(st.LastSuccess, now)
	}
	x.Failing = prev == jobs.StateFailed || st.Retrying > 0
	if skipped := prev == jobs.StateSkipped && !x.Failing; x.Failing || skipped {
		if i := slices.IndexFunc(latest, func(run jobs.Run) bool {
			// A tick that was skipped by a pause has no run.
			return run.Error != "" && (!skipped || run.State == prev && run.Tick.Equal(st.PrevTick))
		}); i >= 0 {
			x.Why = latest[i].Error
		}
	}
	return x
}

// needsRuns reports whether the page shows more of a job than its status has: without a
// previous tick it may have been triggered, and a failure or skip has a reason.
func needsRuns(st jobs.Status) bool {
	switch st.PrevState {
	case "", jobs.StateFailed, jobs.StateSkipped, jobs.StateRetrying:
		return true
	}
	return st.Retrying > 0
}

// loadLatest loads the latest runs of the jobs that need them, until ctx ends.
func (h *handler) loadLatest(ctx context.Context) (map[string][]jobs.Run, error) {
	before, latest := h.latest.peek().value, map[string][]jobs.Run{}
	lister, ok := jobs.As[jobs.RunLister](h.s)
	if !ok {
		return latest, nil
	}
	var failed error
	answered := false
	for _, st := range h.statuses.peek().value {
		if !needsRuns(st) {
			continue
		}
		runs, err := lister.Runs(ctx, st.Name, 5)
		if err != nil {
			failed, runs = err, before[st.Name]
		} else {
			answered = true
		}
		runs = slices.Clone(runs)
		for i := range runs {
			runs[i].Data = nil // not shown, and may be large
		}
		latest[st.Name] = runs
	}
	if answered { // some runs are better than none
		failed = nil
	}
	return latest, failed
}

func (h *handler) listPage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	o := h.look(ctx, r)
	v := o.view
	v.Query, v.Total = strings.TrimSpace(r.URL.Query().Get("q")), len(o.rows)
	v.Notice = done(r, o.rows)
	var overdue, failing, paused, waiting, running, retrying int
	for _, row := range o.rows {
		overdue += one(row.Overdue != "")
		failing += one(row.Failing)
		paused += one(row.Paused != nil)
		waiting += row.Waiting
		running += row.Running
		retrying += row.Retrying
		if !row.next.IsZero() && !row.Late && row.Paused == nil && (v.Soonest == nil || row.next.Before(v.Soonest.next)) {
			v.Soonest = row
		}
		if !strings.Contains(row.Name, strings.ToLower(v.Query)) {
			continue
		}
		if v.Found++; len(v.Modules) == 0 || v.Modules[len(v.Modules)-1].Name != row.Module {
			v.Modules = append(v.Modules, module{Name: row.Module})
		}
		last := &v.Modules[len(v.Modules)-1]
		last.Rows = append(last.Rows, row)
	}
	v.Facts = []fact{
		{len(o.rows), plural(len(o.rows), "job", "jobs"), "", true},
		{overdue, "overdue", "bad", true},
		{failing, "failing", "bad", true},
		{paused, "paused", "warn", false},
		{running, "running", "", true},
		{waiting, "waiting", "", true},
		{retrying, "retrying", "warn", false},
	}
	v.Heading = "Status of all jobs"
	status := http.StatusOK
	switch {
	case v.Stale != "":
		v.Title, status = "database does not answer · "+h.Title, http.StatusServiceUnavailable
	case overdue > 0:
		v.Title = fmt.Sprintf("%d overdue · %s", overdue, h.Title)
	case failing > 0:
		v.Title = fmt.Sprintf("%d failing · %s", failing, h.Title)
	case v.Health != "healthy":
		v.Title = "unhealthy · " + h.Title
	default:
		v.Title = h.Title
	}
	h.render(w, r, status, "list", v)
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func (h *handler) jobPage(w http.ResponseWriter, r *http.Request) { h.showJob(w, r, nil, "", 0) }

// showJob serves the page of a job. After a form that failed, the page shows the failure and
// the data that was typed, and has the given status.
func (h *handler) showJob(w http.ResponseWriter, r *http.Request, failure *notice, typed string, status int) {
	ctx, cancel := bounded(r)
	defer cancel()
	limit, err := runLimit(r, 50)
	if err != nil && failure == nil {
		h.fail(w, r, err)
		return
	}
	o := h.look(ctx, r)
	v := o.view
	i := slices.IndexFunc(o.rows, func(row *row) bool { return row.Name == r.PathValue("name") })
	switch {
	case i < 0 && failure != nil:
		h.problem(w, r, status, failure.Text)
		return
	case i < 0 && o.jobs.err != nil:
		h.problem(w, r, http.StatusServiceUnavailable, v.Stale)
		return
	case i < 0:
		h.refuse(w, r, ActionRead)
		return
	}
	v.Job, v.Heading = o.rows[i], o.rows[i].Name
	if zone, err := time.LoadLocation(v.Job.Zone); err == nil && zone != time.UTC && v.Job.Next != nil {
		v.Job.Local = v.Job.next.In(zone).Format("2 Jan, 15:04 MST")
	}
	v.Notice, v.Typed, v.Live = failure, typed, failure == nil
	v.ShowData, v.Limit = h.ShowData, limit
	if failure == nil {
		v.Notice, status = done(r, o.rows), http.StatusOK
	}
	var runs []jobs.Run
	if err = o.jobs.err; err == nil {
		runs, err = h.runs(ctx, v.Job.Name, limit)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		v.RunsError = "This scheduler cannot list runs."
	case err != nil:
		v.RunsError = "Runs cannot be listed while the database does not answer."
		if status == http.StatusOK {
			status = http.StatusServiceUnavailable
		}
	}
	for _, x := range runs {
		v.Runs = append(v.Runs, newRun(x, v.Job, o.now))
	}
	h.render(w, r, status, "job", v)
}

// maxShown is the number of bytes of an error or of data that a page shows.
const maxShown = 4 << 10

func cut(text string) (shown string, more int) {
	shown = strings.ToValidUTF8(text[:min(len(text), maxShown)], "")
	return shown, max(0, len(text)-maxShown)
}

func newRun(x jobs.Run, of *row, now time.Time) run {
	v := run{
		Run: x, Outcome: outcomeOf(x.State), Link: of.Link + "/runs/" + url.PathEscape(x.ID),
		ForTick: newMoment(x.Tick, now), Created: newMoment(x.CreatedAt, now), Start: newMoment(x.StartedAt, now),
	}
	switch x.State {
	case jobs.StateScheduled, jobs.StateRetrying:
		if v.Due = newMoment(x.DueAt, now); v.Due != nil && x.DueAt.Before(now) {
			v.Due.Relative = "due " + v.Due.Relative
		}
		v.CanCancel = of.CanStop
		v.CanRetry = of.CanRetry && x.State == jobs.StateRetrying
	case jobs.StateWaiting, jobs.StateRunning:
		v.CanCancel = of.CanStop
	case jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped:
		v.CanRetry = of.CanRetry
	}
	switch {
	case x.StartedAt.IsZero():
	case x.State == jobs.StateRunning:
		v.Took = took(now.Sub(x.StartedAt)) + " so far"
	case !x.EndedAt.IsZero():
		v.Took = took(x.EndedAt.Sub(x.StartedAt))
	}
	v.ErrorHead = head(x.Error)
	v.Error, _ = cut(x.Error)
	v.DataShown, v.More = cut(string(x.Data))
	return v
}

// form returns a handler for a form, which performs the action and redirects back to the page.
func form(verb string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		err := r.ParseForm()
		typed := r.PostForm.Get("data")
		id := ""
		if err != nil {
			err = fmt.Errorf("%w: %w", errBody, err)
		} else {
			id, err = h.act(r, verb, typed)
		}
		if errors.Is(err, jobs.ErrUnknownJob) || errors.Is(err, jobs.ErrInvalidName) {
			h.refuse(w, r, ActionRead)
			return
		}
		if err != nil {
			status, text := h.explain(r, err)
			h.showJob(w, r, &notice{Failed: true, Text: text}, typed, status)
			return
		}
		name := r.PathValue("name")
		back := base(r)
		query := url.Values{"done": {verb}, "job": {name}}
		if id != "" {
			query.Set("run", id)
		}
		if r.PostForm.Get("back") != "list" {
			back += "job/" + url.PathEscape(name)
		}
		// http.Redirect would make the URL absolute, without the stripped prefix.
		w.Header().Set("Location", back+"?"+query.Encode())
		w.WriteHeader(http.StatusSeeOther)
	}
}

// done returns the notice for the query that form redirects to. Anyone can create such a
// link, so the query only selects one of these texts.
func done(r *http.Request, rows []*row) *notice {
	query := r.URL.Query()
	text, ok := map[string]string{
		"trigger": "Triggered.",
		"pause":   "Paused. New runs stop starting within a few seconds; running ones finish.",
		"resume":  "Resumed.",
		"cancel":  "Cancelled. If the run has started, it ends when its handler notices.",
		"retry":   "The run will be retried now.",
	}[query.Get("done")]
	i := slices.IndexFunc(rows, func(row *row) bool { return row.Name == query.Get("job") })
	if !ok || i < 0 {
		return nil
	}
	n := &notice{Text: text, Job: rows[i].Name, Link: rows[i].Link}
	if id := query.Get("run"); len(id) <= 64 {
		n.ID = id
	}
	return n
}
