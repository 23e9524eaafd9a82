package jobshttp

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// attempt is a failed attempt as the page of a run shows it.
type attempt struct {
	N         int
	At        *moment
	Head, All string
	Lines     int
}

// newRun returns a run as the pages show it.
func (h *handler) newRun(r *http.Request, o *overview, x jobs.Run, of *row) run {
	now, root := o.now, base(r)
	v := run{
		Run: x, Outcome: outcomeOf(x.State), JobLink: of.Link, Link: of.Link + "/runs/" + url.PathEscape(x.ID),
		ForTick: newMoment(x.Tick, now), Created: newMoment(x.CreatedAt, now), Start: newMoment(x.StartedAt, now),
		DueMoment: newMoment(x.DueAt, now), End: newMoment(x.EndedAt, now),
		Worker: o.worker(x.Process, root), Log: h.logLink(x),
		CancelAsked: newMoment(x.CancelledAt, now),
	}
	if _, finds := jobs.As[jobs.RunFinder](h.s); finds {
		v.Page = root + "runs/" + url.PathEscape(x.ID)
	}
	switch x.State {
	case jobs.StateScheduled, jobs.StateRetrying:
		if v.Due = newMoment(x.DueAt, now); v.Due != nil && x.DueAt.Before(now) {
			v.Due.Relative = "due " + v.Due.Relative
		}
		v.CanCancel = of.CanStop
		v.CanRetry = of.CanRetry && (x.State == jobs.StateRetrying || x.Snoozes > 0)
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
	if wait := waited(x); wait >= 0 {
		v.Waited = took(wait)
	}
	if i := slices.IndexFunc(o.hung, func(hung hung) bool { return hung.ID == x.ID }); i >= 0 {
		v.Hung = &o.hung[i]
	}
	v.ErrorHead, v.Lines = head(x.Error), lines(x.Error)
	v.Error, _ = cut(x.Error)
	v.DataShown, v.More = cut(string(x.Data))
	v.OutputShown, v.MoreOutput = cut(string(x.Output))
	return v
}

// waited returns how long the latest attempt of a run was due before it started, or -1 if that is unknown.
func waited(x jobs.Run) time.Duration {
	if x.StartedAt.IsZero() || x.DueAt.IsZero() || x.DueAt.After(x.StartedAt) {
		return -1
	}
	return x.StartedAt.Sub(x.DueAt)
}

// logLink returns the URL of a run's log, "" if there is none.
func (h *handler) logLink(x jobs.Run) string {
	if h.LogURL == nil {
		return ""
	}
	link := h.LogURL(x)
	u, err := url.Parse(link)
	if err == nil && (u.Scheme == "" || u.Scheme == "http" || u.Scheme == "https") {
		return link
	}
	h.badLog.Do(func() {
		h.Logger.Error("LogURL returned an invalid URL, which is not shown; the scheme must be http or https", "job_id", x.ID)
	})
	return ""
}

// readableRun returns the run with that ID if the request may read its job. Otherwise the error is [jobs.ErrUnknownID].
func (h *handler) readableRun(ctx context.Context, r *http.Request, id string) (jobs.Run, error) {
	finder, ok := jobs.As[jobs.RunFinder](h.s)
	if !ok {
		return jobs.Run{}, unsupported("find runs")
	}
	x, err := finder.Run(ctx, id)
	if err == nil && !h.allowed(r, ActionRead, x.Name) {
		err = jobs.ErrUnknownID
	}
	if !h.ShowData {
		x.Data, x.Output = nil, nil
	}
	return x, err
}

// maxID is the length in bytes of the longest text that is searched for as the ID of a run.
const maxID = 64

// lines counts the lines of a text.
func lines(text string) int { return strings.Count(strings.TrimSuffix(text, "\n"), "\n") + 1 }

// lookUp returns the run with that ID, nil if there is none that the request may read.
func (h *handler) lookUp(ctx context.Context, r *http.Request, o *overview, id string) *run {
	if len(id) > maxID {
		return nil
	}
	x, err := h.readableRun(ctx, r, id)
	row := o.byName(x.Name)
	if err != nil || row == nil {
		return nil
	}
	x.Data, x.Output = nil, nil
	return new(h.newRun(r, o, x, row))
}

func (h *handler) runPage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	x, err := h.readableRun(ctx, r, r.PathValue("id"))
	if err != nil {
		code, text := h.explain(r, err)
		if errors.Is(err, jobs.ErrUnknownID) {
			text = "no such run; it may have been deleted after its retention"
		}
		h.problem(w, r, code, text)
		return
	}
	o := h.look(ctx, r)
	row := o.byName(x.Name)
	switch {
	case row == nil && o.jobs.err != nil:
		h.problem(w, r, http.StatusServiceUnavailable, "the jobs cannot be listed; see the log")
		return
	case row == nil:
		h.problem(w, r, http.StatusNotFound, "this process has not registered the job "+x.Name+"; look at its run in one that has")
		return
	}
	v := o.view
	v.Heading, v.Job, v.ShowData = "Run "+x.ID, row, h.ShowData
	v.Notice = done(r, o.rows)
	v.Run = new(h.newRun(r, o, x, row))
	v.Run.Back = url.Values{"back": {"run"}}
	if st, ok := byName(o.jobs.value, x.Name); ok && st.Options.Timeout > 0 {
		v.Timeout = spell(st.Options.Timeout)
	}
	for _, e := range slices.Backward(x.Errors) {
		shown, _ := cut(e.Text)
		v.Attempts = append(v.Attempts, attempt{e.Attempt, newMoment(e.At, o.now), head(e.Text), shown, lines(e.Text)})
	}
	h.render(w, r, http.StatusOK, "run", v)
}
