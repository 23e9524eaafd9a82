package work

import "sync"

// Going knows which handlers are running in this process. The rows of their runs don't always tell: after a gap in the
// heartbeats another process may have rescued a run whose handler is still running here, and an operator may have
// deleted the row. A process has one Going for all of its sessions, because a handler that ignores its context may
// outlive the Shutdown of its own. Create one with [NewGoing].
type Going struct {
	mu   sync.Mutex
	runs map[int64]*handling // by ID
}

// handling is a handler that is running.
type handling struct {
	job  string
	told bool
}

// NewGoing returns a Going without handlers.
func NewGoing() *Going { return &Going{runs: map[int64]*handling{}} }

// begin records that the handler is about to be called for a run. It reports whether it may be: if began is false, an
// earlier attempt of the run still has it. first is true the first time that this happens during that attempt.
func (g *Going) begin(name string, id int64) (began, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.runs[id]; h != nil {
		first, h.told = !h.told, true
		return false, first
	}
	g.runs[id] = &handling{job: name}
	return true, false
}

// end records that the handler has returned.
func (g *Going) end(id int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.runs, id)
}

// beside reports whether a handler is running for another run of the job.
func (g *Going) beside(name string, id int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for other, h := range g.runs {
		if other != id && h.job == name {
			return true
		}
	}
	return false
}
