package jobshttp

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// A problem is something that is wrong with a job or with the scheduler.
type problem struct {
	Kind      kind
	Job, Link string
	Text      string // continues from the name of the job, if it has one
	More      string // URL of the run with the whole error, or ""
	Hung      *hung
	row       *row // of the job; nil for isMachine
}

// kind is the kind of a problem, the most severe first.
type kind int

const (
	isHung     kind = iota // a run executes past its timeout
	isMachine              // the scheduler has a problem
	isOverdue              // a tick is late
	isStranded             // no process has registered the job
	isFailing              // the latest run failed for good
	isPaused               // for the reader to know, although nothing is wrong
)

// name says after a number what is wrong with so many jobs.
func (k kind) name() string {
	return [...]string{"hung", "of the scheduler", "overdue", "without a process", "failing", "paused"}[k]
}

// show is the value of the parameter show that lists the jobs.
func (k kind) show() string { return strings.ReplaceAll(k.name(), " ", "-") }

// hung is a run that still executes after its timeout.
type hung struct {
	ID, Page  string
	Since     moment // when its timeout passed
	Timeout   string
	Process   *worker
	Cancelled *moment // when it was asked to stop, or nil
	job       string
	since     time.Time
}

// worker is the process that executes a run.
type worker struct{ ID, Text, Link string }

// overdueAfter is how late a tick must be to be shown as overdue. Every tick is due for a moment before it starts.
const overdueAfter = 10 * time.Second

// hungAfter is how long after its timeout a run is shown as hung. A handler needs a moment to return.
const hungAfter = 10 * time.Second

// maxRunning is the number of running runs that are checked, those that are due the longest.
const maxRunning = 3000

// loadRunning loads the runs in progress, until ctx ends.
func (h *handler) loadRunning(ctx context.Context) (all []jobs.Run, err error) {
	finder, ok := jobs.As[jobs.RunFinder](h.s)
	for after := ""; ok && len(all) < maxRunning; {
		page, err := finder.FindRuns(ctx, jobs.RunQuery{
			States: []jobs.State{jobs.StateRunning}, Until: time.Now().Add(-hungAfter), After: after, Limit: maxRuns,
		})
		if err != nil {
			return nil, err
		}
		all = append(all, noData(page.Runs)...)
		if after = page.Next; after == "" {
			break
		}
	}
	return all, nil
}

// findHung finds the runs of visible jobs that hang.
func (o *overview) findHung(running []jobs.Run, visible []jobs.Status, root string) {
	for _, run := range running {
		i := slices.IndexFunc(visible, func(st jobs.Status) bool { return st.Name == run.Name })
		if i < 0 {
			continue
		}
		since := hungSince(run, visible[i], o.now)
		if since.IsZero() {
			continue
		}
		o.rows[i].Hung = true
		o.hung = append(o.hung, hung{
			ID: run.ID, Page: root + "runs/" + url.PathEscape(run.ID), job: run.Name, since: since,
			Since: *newMoment(since, o.now), Timeout: short(visible[i].Options.Timeout), Process: o.worker(run.Process, root),
			Cancelled: newMoment(run.CancelledAt, o.now),
		})
	}
	slices.SortFunc(o.hung, func(a, b hung) int { return a.since.Compare(b.since) })
}

// hungSince returns when the timeout of a run passed, the zero time if it does not hang.
func hungSince(run jobs.Run, st jobs.Status, now time.Time) time.Time {
	timeout := st.Options.Timeout
	known := run.State == jobs.StateRunning && !run.StartedAt.IsZero() && timeout > 0
	if !known || now.Sub(run.StartedAt)-hungAfter < timeout {
		return time.Time{}
	}
	return run.StartedAt.Add(timeout)
}

// problems returns what is wrong, the most severe first, and the paused jobs. health is nil if it is unknown.
func (o *overview) problems(health *jobs.Health) (all []problem) {
	for _, hung := range o.hung {
		row := o.byName(hung.job)
		all = append(all, problem{Kind: isHung, Job: hung.job, Link: row.Link, Hung: &hung, row: row})
	}
	if health != nil {
		all = append(all, o.reasons(*health)...)
	}
	for _, row := range o.rows {
		add := func(kind kind, text string) {
			all = append(all, problem{Kind: kind, Job: row.Name, Link: row.Link, Text: text, row: row})
		}
		if row.Overdue != "" {
			add(isOverdue, "is overdue by "+row.Overdue+colon(row.OverdueReason))
		}
		if row.Stranded {
			add(isStranded, "is not registered in any live process, so its runs wait")
		}
		if row.Failing {
			add(isFailing, "is failing"+colon(row.Why))
			all[len(all)-1].More = row.WhyLink
		}
		if row.Paused != nil {
			add(isPaused, "has been paused since "+row.Paused.Text())
		}
	}
	slices.SortStableFunc(all, func(a, b problem) int {
		switch {
		case a.Kind != b.Kind:
			return cmp.Compare(a.Kind, b.Kind)
		case a.Kind == isOverdue: // for the longest time
			return cmp.Compare(b.row.overdueBy, a.row.overdueBy)
		case a.Kind == isFailing: // latest
			return b.row.prev.Compare(a.row.prev)
		}
		return 0
	})
	return all
}

// reasons returns the reasons of the health check.
func (o *overview) reasons(health jobs.Health) (all []problem) {
	for _, r := range health.Reasons {
		p := problem{Kind: isMachine, Job: r.Job, Text: r.Text}
		if row := o.byName(r.Job); row != nil {
			p.Link = row.Link
			if row.Overdue != "" && strings.HasPrefix(r.Text, "is overdue by ") {
				continue // the row says it too
			}
		}
		all = append(all, p)
	}
	switch {
	case len(health.Reasons) > 0:
	case !health.Healthy:
		all = append(all, problem{Kind: isMachine, Text: "The scheduler is unhealthy because of jobs that you may not see."})
	case o.processes != nil && countAlive(o.processes) == 0:
		all = append(all, problem{Kind: isMachine, Text: "No process runs jobs."})
	}
	return all
}

// headline says how things are.
type headline struct {
	Class, Sign string
	Parts       []fact
}

// headline counts what is wrong. It is good only if that is known to be nothing.
func (o *overview) headline(health *jobs.Health) *headline {
	counts := map[kind]int{}
	for _, p := range o.view.Problems {
		counts[p.Kind]++
	}
	h := &headline{Class: "bad", Sign: "✗"}
	if health != nil && counts[isMachine] > 0 {
		h.Parts = append(h.Parts, fact{Text: "Unhealthy"})
	}
	for _, kind := range []kind{isHung, isOverdue, isStranded, isFailing} {
		if n := counts[kind]; n > 0 {
			h.Parts = append(h.Parts, fact{N: n, Text: kind.name(), Link: "?show=" + kind.show()})
		}
	}
	switch {
	case health == nil, len(h.Parts) == 0 && o.jobs.err != nil:
		h.Sign = "?"
		h.Parts = slices.Insert(h.Parts, 0, fact{Text: "Health unknown"})
	case len(h.Parts) > 0:
	case len(o.rows) == 0:
		h.Class, h.Sign, h.Parts = "good", "✓", []fact{{Text: "Healthy"}}
	case len(o.rows) == 1:
		h.Class, h.Sign, h.Parts = "good", "✓", []fact{{Text: "The job is fine"}}
	default:
		h.Class, h.Sign, h.Parts = "good", "✓", []fact{{Text: fmt.Sprintf("All %s jobs are fine", count(len(o.rows)))}}
	}
	return h
}

// Title returns the headline as the beginning of a window's title, "" if nothing is wrong.
func (h *headline) Title() string {
	var parts []string
	for _, part := range h.Parts {
		text := strings.ToLower(part.Text)
		if part.N > 0 {
			text = count(part.N) + " " + text
		}
		parts = append(parts, text)
	}
	if h.Class == "good" {
		return ""
	}
	return strings.Join(parts, ", ") + " · "
}

// shownProblems is the number of problems that are not folded.
const shownProblems = 3

// FirstProblems returns the problems that are not folded.
func (v *view) FirstProblems() []problem { return v.Problems[:min(shownProblems, len(v.Problems))] }

// OtherProblems returns the problems that are folded.
func (v *view) OtherProblems() []problem { return v.Problems[min(shownProblems, len(v.Problems)):] }

// OtherKinds counts the problems that are folded, as in "10 failing, 7 paused".
func (v *view) OtherKinds() string {
	var parts []string
	for kind := isHung; kind <= isPaused; kind++ {
		n := 0
		for _, p := range v.OtherProblems() {
			n += one(p.Kind == kind)
		}
		if n > 0 {
			parts = append(parts, count(n)+" "+kind.name())
		}
	}
	return strings.Join(parts, ", ")
}

func colon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
