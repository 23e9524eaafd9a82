package jobshttp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
)

// process is a process as the pages show it.
type process struct {
	jobs.Process
	Text          string // host and process ID
	Started, Seen *moment
	Runs          []run // that it executes
}

// loadProcesses loads the processes, until ctx ends.
func (h *handler) loadProcesses(ctx context.Context) ([]jobs.Process, error) {
	lister, ok := jobs.As[jobs.ProcessLister](h.s)
	if !ok {
		return nil, unsupported("list processes")
	}
	return lister.Processes(ctx)
}

// hostAndPID names a process in words.
func hostAndPID(p jobs.Process) string {
	if p.Host == "" {
		return p.ID
	}
	return fmt.Sprintf("%s, pid %d", p.Host, p.PID)
}

// worker returns the process with that ID, nil if id is empty. A process that is no longer listed has no link.
func (o *overview) worker(id, root string) *worker {
	if id == "" {
		return nil
	}
	for _, p := range o.processes {
		if p.ID == id {
			return &worker{id, hostAndPID(p), root + "processes#process-" + url.PathEscape(id)}
		}
	}
	return &worker{ID: id, Text: id}
}

func countAlive(all []jobs.Process) (n int) {
	for _, p := range all {
		n += one(p.Alive)
	}
	return n
}

// findStranded finds the jobs that no live process has registered, unless no process is alive at all.
func (o *overview) findStranded() {
	registered, alive := map[string]bool{}, false
	for _, p := range o.processes {
		if p.Alive {
			alive = true
			for _, name := range p.Jobs {
				registered[name] = true
			}
		}
	}
	for _, row := range o.rows {
		row.Stranded = alive && !registered[row.Name]
	}
}

func (h *handler) processesPage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := bounded(r)
	defer cancel()
	if _, ok := jobs.As[jobs.ProcessLister](h.s); !ok {
		h.fail(w, r, unsupported("list processes"))
		return
	}
	o := h.look(ctx, r)
	snap := h.processes.get(ctx)
	v := o.view
	status := http.StatusOK
	switch {
	case snap.err != nil && snap.at.IsZero():
		v.Stale = "The database does not answer, and there is no earlier state to show."
		status = http.StatusServiceUnavailable
	case snap.err != nil:
		at := newMoment(snap.at, o.now)
		v.Stale = fmt.Sprintf("The database does not answer. Showing the state as of %s, %s.", at.Text(), at.Relative)
		status = http.StatusServiceUnavailable
	}
	running := h.running.peek().value
	for _, p := range o.processes {
		shown := process{
			Process: p, Text: hostAndPID(p), Started: newMoment(p.StartedAt, o.now), Seen: newMoment(p.SeenAt, o.now),
		}
		shown.Jobs = slices.DeleteFunc(slices.Clone(p.Jobs), func(name string) bool { return o.byName(name) == nil })
		for _, x := range running {
			if row := o.byName(x.Name); row != nil && x.Process == p.ID && o.now.Sub(snap.at) < time.Minute {
				shown.Runs = append(shown.Runs, h.newRun(r, o, x, row))
			}
		}
		v.Processes = append(v.Processes, shown)
	}
	for _, row := range o.rows {
		if row.Stranded {
			v.Stranded = append(v.Stranded, row)
		}
	}
	v.Heading = "Processes"
	h.render(w, r, status, "processes", v)
}
