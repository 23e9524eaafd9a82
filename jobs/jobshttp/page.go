package jobshttp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
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

	HasRuns, HasProcesses bool // whether the scheduler has the roles

	Headline *headline
	Problems []problem
	Facts    []fact
	Soonest  *row
	Hour     *chart
	HasDay   bool
	Query    string // name or ID that was searched for
	Show     string // the condition of the jobs shown, such as failing
	Hit      *run   // the run whose ID is Query
	Quick    []quick
	Modules  []module
	Found    int // jobs that match Query and Show
	Total    int
	Part     bool // the page has only the rows that have changed

	Listing   *listing  // on the page of all runs
	Processes []process // on the page of processes
	Stranded  []*row    // jobs that no live process has registered
	Run       *run      // on a run's page
	Timeout   string    // of an attempt of the run
	Attempts  []attempt
	Usual     *usual // on a job's page
	Options   []option
	Job       *row // on the pages of a job and of a run
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

// fact is a number in the summary line.
type fact struct {
	N     int
	Text  string
	Class string // CSS class if N is not 0
	Link  string // where they are listed, or ""
}

type module struct {
	Name string
	Rows []*row
}

// moment is a formatted instant.
type moment struct {
	ISO      string
	Relative string `json:"-"` // changes all the time, so it is no reason to send a row again
	Short    string // without the zone
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
	Failing, Hung, Stranded       bool
	Why, WhyLink                  string // error or reason of the latest failure or skip; the page that has all of it
	Prev                          outcome
	PrevAt                        *moment
	Missed                        int
	Success                       *moment // latest success, unless it is Prev
	Next                          *moment
	Late                          bool
	Then                          []moment // the ticks after Next
	Local                         string   // Next in the job's zone, if that is not UTC
	Waiting, Running, Retrying    int
	Day                           *spark
	Version                       string // changes with anything that the list shows of the job
	CanTrigger, CanPause, CanStop bool
	CanRetry                      bool

	next, prev time.Time
	overdueBy  time.Duration
	why        string // ID of the run that Why is of
}

// run is a run as the pages show it.
type run struct {
	jobs.Run
	Outcome              outcome
	Link                 string // prefix of the URLs of its actions
	Page                 string // URL of its page, or ""
	JobLink, Log         string // URLs of the page of its job and of its log, or ""
	ForTick              *moment
	Created, Due, Start  *moment // Due only if it is to start then
	DueMoment, End       *moment
	CancelAsked          *moment
	Took, Waited         string
	Worker               *worker
	Hung                 *hung
	Lines                int // of the error
	ErrorHead, DataShown string
	OutputShown          string
	MoreOutput           int // bytes of output not shown
	More                 int // bytes of data not shown
	CanCancel, CanRetry  bool
	Back                 url.Values // fields of its forms, which say where they lead
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

// overview holds what the pages have in common.
type overview struct {
	now       time.Time
	jobs      snapshot[[]jobs.Status]
	rows      []*row // jobs that the request may read
	processes []jobs.Process
	hung      []hung
	view      *view
}

// byName returns the row of a job, nil if there is none.
func (o *overview) byName(name string) *row {
	for _, row := range o.rows {
		if row.Name == name {
			return row
		}
	}
	return nil
}

// look loads everything that the pages of jobs show, concurrently, until ctx ends.
func (h *handler) look(ctx context.Context, r *http.Request) *overview {
	_, reports := jobs.As[jobs.ActivityReporter](h.s)
	_, lists := jobs.As[jobs.RunLister](h.s)
	_, finds := jobs.As[jobs.RunFinder](h.s)
	_, knows := jobs.As[jobs.ProcessLister](h.s)
	_, _ = h.health.begin()
	if reports {
		_, _ = h.hour.begin()
		_, _ = h.day.begin()
	}
	if knows {
		_, _ = h.processes.begin()
	}
	o := &overview{jobs: h.statuses.get(ctx)}
	var latest map[string][]jobs.Run
	var running []jobs.Run
	if o.jobs.err == nil {
		if lists {
			_, _ = h.latest.begin()
		}
		if finds && slices.ContainsFunc(o.jobs.value, func(st jobs.Status) bool { return st.Running > 0 }) {
			running = h.running.get(ctx).value
		}
		if lists {
			latest = h.latest.get(ctx).value
		}
	} else { // do not wait for a second timeout
		latest, running = h.latest.peek().value, h.running.peek().value
	}
	health := h.health.get(ctx)
	o.now = time.Now()
	visible, hidden := h.readable(r, o.jobs.value)
	v := &view{Now: *newMoment(o.now, o.now), Live: true, HasDay: reports, HasRuns: finds, HasProcesses: knows}
	o.view = v
	o.rows = h.newRows(r, visible, latest, o.now)
	if knows {
		if snap := h.processes.get(ctx); !snap.at.IsZero() {
			o.processes = snap.value
			o.findStranded()
		}
	}
	o.findHung(running, visible, base(r))
	if reports {
		hour, day := h.hour.get(ctx), h.day.get(ctx)
		names := make([]string, len(o.rows))
		for i, row := range o.rows {
			names[i] = row.Name
			if !day.at.IsZero() {
				row.Day = newSpark(day.value, 24, names[i], o.now)
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
	var shown *jobs.Health
	if health.err == nil {
		shown = new(h.censor(r, health.value, o.jobs.at.IsZero() || len(hidden) > 0))
	}
	v.Problems = o.problems(shown)
	v.Headline = o.headline(shown)
	return o
}

// maxHead is the number of characters of an error shown before it is expanded.
const maxHead = 160

// maxWhy is the number of characters of an error shown in the list of jobs.
const maxWhy = 100

// head returns the first line of text, at most maxHead characters of it.
func head(text string) string { return headOf(text, maxHead) }

func headOf(text string, most int) string {
	line, _, more := strings.Cut(text, "\n")
	if runes := []rune(line[:min(len(line), 4*most)]); len(runes) > most {
		line, more = string(runes[:most]), true
	}
	if more {
		line += " …"
	}
	return strings.ToValidUTF8(line, "")
}

// newRows returns the rows of the jobs.
func (h *handler) newRows(r *http.Request, all []jobs.Status, latest map[string][]jobs.Run, now time.Time) []*row {
	_, pauses := jobs.As[jobs.Pauser](h.s)
	_, cancels := jobs.As[jobs.Canceller](h.s)
	_, retries := jobs.As[jobs.Retrier](h.s)
	_, finds := jobs.As[jobs.RunFinder](h.s)
	root := base(r)
	rows := make([]*row, len(all))
	for i, st := range all {
		can := func(action Action) bool { return h.allowed(r, action, st.Name) }
		x := newRow(st, latest[st.Name], now)
		x.Link = root + "job/" + url.PathEscape(st.Name)
		x.CanTrigger, x.CanPause = can(ActionTrigger), pauses && can(ActionPause)
		x.CanStop, x.CanRetry = cancels && can(ActionCancel), retries && can(ActionRetry)
		if finds && x.why != "" {
			x.WhyLink = root + "runs/" + url.PathEscape(x.why)
		}
		rows[i] = x
	}
	return rows
}

// newRow returns what the pages show of a job, apart from links and permissions.
func newRow(st jobs.Status, latest []jobs.Run, now time.Time) *row {
	x := &row{
		Name: st.Name, Words: words(st.Schedule), Zone: st.Zone,
		Paused: newMoment(st.PausedSince, now), Missed: st.Missed,
		Next: newMoment(st.NextTick, now), next: st.NextTick,
		Waiting: st.Waiting, Running: st.Running, Retrying: st.Retrying,
	}
	x.Module, _, _ = strings.Cut(st.Name, ".")
	if x.Words != st.Schedule && (st.Zone != "" || len(strings.Fields(st.Schedule)) == 5) {
		x.Pattern = st.Schedule
	}
	if st.OverdueBy >= overdueAfter {
		x.Overdue, x.OverdueReason, x.overdueBy = short(st.OverdueBy), st.OverdueReason, st.OverdueBy
	}
	if x.Next != nil && st.NextTick.Before(now) {
		x.Late, x.Next.Relative = true, "due "+x.Next.Relative
	}
	for _, t := range st.Upcoming {
		if !t.Equal(st.NextTick) {
			x.Then = append(x.Then, *newMoment(t, now))
		}
	}
	failure := failing(st, latest)
	x.Failing = failure != nil
	prev, prevAt := st.PrevState, st.PrevTick
	if prev == "" && prevAt.IsZero() { // no tick has run, but the job may have been triggered
		started := latest
		if !st.NextTick.IsZero() { // a run that has not started is not the previous one
			started = slices.DeleteFunc(slices.Clone(latest), func(run jobs.Run) bool {
				return run.StartedAt.IsZero() && run.EndedAt.IsZero()
			})
		}
		if len(started) > 0 {
			last := started[0]
			prev = last.State
			for _, t := range []time.Time{last.CreatedAt, last.StartedAt, last.EndedAt} {
				if !t.IsZero() {
					prevAt = t
				}
			}
		}
	}
	x.Prev, x.PrevAt, x.prev = outcomeOf(prev), newMoment(prevAt, now), prevAt
	if !st.LastSuccess.Equal(st.PrevTick) {
		x.Success = newMoment(st.LastSuccess, now)
	}
	skipped := prev == jobs.StateSkipped
	if i := slices.IndexFunc(latest, func(run jobs.Run) bool {
		switch {
		case run.Error == "":
			return false
		case x.Failing:
			return failure.ID == "" || run.ID == failure.ID
		case skipped: // a tick that was skipped by a pause has no run
			return run.State == prev && run.Tick.Equal(st.PrevTick)
		}
		return st.Retrying > 0 && run.State == jobs.StateRetrying
	}); i >= 0 {
		x.Why, x.why = headOf(latest[i].Error, maxWhy), latest[i].ID
	}
	return x
}

// failing returns the run of a job that ended last if it failed for good, otherwise nil. If the run is not among
// latest, it has no ID.
func failing(st jobs.Status, latest []jobs.Run) *jobs.Run {
	var last *jobs.Run
	for i, run := range latest {
		if (run.State == jobs.StateFailed || run.State == jobs.StateCompleted) &&
			(last == nil || run.EndedAt.After(last.EndedAt)) {
			last = &latest[i]
		}
	}
	// The status is newer than the runs.
	old := last == nil || !last.Tick.IsZero() && last.Tick.Before(st.PrevTick)
	switch {
	case old && st.PrevState == jobs.StateFailed:
		return &jobs.Run{Name: st.Name}
	case last == nil || last.State != jobs.StateFailed:
		return nil
	case old && (st.PrevState == jobs.StateCompleted || st.PrevState == jobs.StateSkipped):
		return nil
	}
	return last
}

// needsRuns reports whether the page shows more of a job than its status has: without a previous tick it may have been
// triggered, a failure or skip has a reason, and of a tick that has not ended, the one before may have failed.
func needsRuns(st jobs.Status, failed bool) bool {
	return st.PrevState != jobs.StateCompleted && st.PrevState != jobs.StateCancelled || st.Retrying > 0 || failed
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
	day := h.day.peek().value.Jobs
	for _, st := range h.statuses.peek().value {
		if !needsRuns(st, slices.ContainsFunc(day[st.Name], func(o jobs.Outcomes) bool { return o.Failed > 0 })) {
			continue
		}
		runs, err := lister.Runs(ctx, st.Name, 5)
		if err == nil && len(runs) == 5 && !slices.ContainsFunc(runs, hasEnded) {
			runs, err = h.addEnded(ctx, runs)
		}
		if err != nil {
			failed, runs = err, before[st.Name]
		} else {
			answered = true
		}
		latest[st.Name] = noData(runs)
	}
	if answered { // some runs are better than none
		failed = nil
	}
	return latest, failed
}

func hasEnded(run jobs.Run) bool { return !run.EndedAt.IsZero() }

// addEnded appends the latest run of the same job that has ended. Many may wait after it.
func (h *handler) addEnded(ctx context.Context, runs []jobs.Run) ([]jobs.Run, error) {
	finder, ok := jobs.As[jobs.RunFinder](h.s)
	if !ok {
		return runs, nil
	}
	ended, err := finder.FindRuns(ctx, jobs.RunQuery{
		Names: []string{runs[0].Name}, States: []jobs.State{jobs.StateCompleted, jobs.StateFailed}, Limit: 1,
	})
	return append(runs, ended.Runs...), err
}

// noData returns runs without their data and output, which may be large.
func noData(runs []jobs.Run) []jobs.Run {
	runs = slices.Clone(runs)
	for i := range runs {
		runs[i].Data, runs[i].Output = nil, nil
	}
	return runs
}

// conditions are the values of the parameter show: whether a job is listed.
var conditions = map[string]func(*row) bool{
	isHung.show():     func(x *row) bool { return x.Hung },
	isOverdue.show():  func(x *row) bool { return x.Overdue != "" },
	isStranded.show(): func(x *row) bool { return x.Stranded },
	isFailing.show():  func(x *row) bool { return x.Failing },
	isPaused.show():   func(x *row) bool { return x.Paused != nil },
	"running":         func(x *row) bool { return x.Running > 0 },
	"waiting":         func(x *row) bool { return x.Waiting > 0 },
	"retrying":        func(x *row) bool { return x.Retrying > 0 },
}

func (h *handler) listPage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	query := r.URL.Query()
	wanted, known := conditions[query.Get("show")]
	if !known && query.Has("show") {
		h.fail(w, r, invalid("show must be one of %s", strings.Join(slices.Sorted(maps.Keys(conditions)), ", ")))
		return
	}
	o := h.look(ctx, r)
	v := o.view
	v.Query, v.Show, v.Total = strings.TrimSpace(query.Get("q")), query.Get("show"), len(o.rows)
	v.Notice = done(r, o.rows)
	var paused, waiting, running, retrying int
	var listed []*row
	for _, row := range o.rows {
		paused += one(row.Paused != nil)
		waiting += row.Waiting
		running += row.Running
		retrying += row.Retrying
		if !row.next.IsZero() && !row.Late && row.Paused == nil && (v.Soonest == nil || row.next.Before(v.Soonest.next)) {
			v.Soonest = row
		}
		if strings.Contains(row.Name, strings.ToLower(v.Query)) && (wanted == nil || wanted(row)) {
			listed = append(listed, row)
		}
	}
	v.Found = len(listed)
	if v.Query != "" && o.jobs.err == nil {
		v.Hit = h.lookUp(ctx, r, o, v.Query)
		if v.Hit != nil && v.Found == 0 {
			redirect(w, v.Hit.Page)
			return
		}
	}
	v.Modules, v.Part = modules(listed, r.Header.Get(haveHeader))
	v.Facts = []fact{
		{len(o.rows), plural(len(o.rows), "job", "jobs"), "", ""},
		{paused, "paused", "warn", "?show=paused"},
		{running, "running", "", "?show=running"},
		{waiting, "waiting", "", "?show=waiting"},
		{retrying, "retrying", "warn", "?show=retrying"},
	}
	if alive := countAlive(o.processes); alive > 0 {
		v.Facts = append(v.Facts, fact{alive, plural(alive, "process", "processes"), "", base(r) + "processes"})
	}
	if v.HasRuns {
		v.Quick = quickLinks(o.now, base(r))[:2]
	}
	v.Heading = "Status of all jobs"
	v.Title = v.Headline.Title() + h.Title
	status := http.StatusOK
	if v.Stale != "" {
		v.Title, status = "database does not answer · "+h.Title, http.StatusServiceUnavailable
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
		runs, err = h.runs(ctx, v.Job.Name, max(limit, usualRuns))
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		v.RunsError = "This scheduler cannot list runs."
	case err != nil:
		v.RunsError = "Runs cannot be listed while the database does not answer."
		if status == http.StatusOK {
			status = http.StatusServiceUnavailable
		}
	default:
		v.Usual = newUsual(runs)
	}
	for _, x := range runs[:min(limit, len(runs))] {
		v.Runs = append(v.Runs, h.newRun(r, o, x, v.Job))
	}
	if st, ok := byName(o.jobs.value, v.Job.Name); ok {
		v.Options = optionsOf(st)
	}
	h.render(w, r, status, "job", v)
}

// option is an option of a job in words.
type option struct{ Name, Value string }

// optionsOf returns the options of a job in words.
func optionsOf(st jobs.Status) (all []option) {
	o := st.Options
	add := func(name, value string) { all = append(all, option{name, value}) }
	if o.MaxAttempts == 0 { // the scheduler does not say
		return nil
	}
	add("Timeout", spell(o.Timeout))
	attempts := fmt.Sprintf("%s %s", count(o.MaxAttempts), plural(o.MaxAttempts, "attempt", "attempts"))
	if o.MaxAttempts > 1 {
		attempts += ", the second after " + spell(o.RetryDelay)
	}
	add("Attempts", attempts)
	if o.Concurrency > 0 {
		add("Concurrency", fmt.Sprintf("%s at once in each process", count(o.Concurrency)))
	}
	if o.Priority > 1 {
		add("Priority", fmt.Sprintf("%d of 1 to 4", o.Priority))
	}
	if o.CatchUp == jobs.CatchUpAll {
		add("Missed ticks", "each runs")
	}
	if o.Overlap == jobs.OverlapSkip {
		add("Overlap", "a tick is skipped while another run is in progress")
	}
	if o.StartWithin > 0 {
		add("Start within", spell(o.StartWithin)+", otherwise skipped")
	}
	return all
}

// maxShown is the number of bytes of an error or of data that a page shows.
const maxShown = 4 << 10

func cut(text string) (shown string, more int) {
	shown = strings.ToValidUTF8(text[:min(len(text), maxShown)], "")
	return shown, max(0, len(text)-maxShown)
}

// form returns a handler for a form, which performs the action and redirects back to the page.
func form(verb string) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		err := parseForm(r, "back", "data")
		typed := r.PostForm.Get("data")
		id := ""
		if err == nil {
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
		switch r.PostForm.Get("back") {
		case "list":
		case "run":
			back += "runs/" + url.PathEscape(id)
		case "runs":
			f, _ := parseFilter(r.PostForm)
			maps.Copy(query, f.values())
			back += "runs"
		default:
			back += "job/" + url.PathEscape(name)
		}
		redirect(w, back+"?"+query.Encode())
	}
}

// redirect redirects to a relative URL. http.Redirect would make it absolute, without the prefix that was stripped.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
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
