package work

import "sync"

// Going knows which handlers are running in this process. The rows of their runs don't always tell: after a gap in the
// heartbeats another process may have rescued a run whose handler is still running here, and an operator may have
// deleted the row. A process has one Going for all of its sessions, because a handler that ignores its context may
// outlive the Shutdown of its own. Create one with [NewGoing].
type Going struct {
	mu   sync.Mutex
	runs map[string]map[int64]*handling // by job and ID
}

// handling is a handler that is running.
type handling struct{ told bool }

// NewGoing returns a Going without handlers.
func NewGoing() *Going { return &Going{runs: map[string]map[int64]*handling{}} }

// begin records that the handler is about to be called for a run. It reports whether it may be: if began is false, an
// earlier attempt of the run still has it. first is true the first time that this happens during that attempt.
func (g *Going) begin(name string, id int64) (began, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.runs[name][id]; h != nil {
		first, h.told = !h.told, true
		return false, first
	}
	if g.runs[name] == nil {
		g.runs[name] = map[int64]*handling{}
	}
	g.runs[name][id] = &handling{}
	return true, false
}

// end records that the handler has returned.
func (g *Going) end(name string, id int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if delete(g.runs[name], id); len(g.runs[name]) == 0 {
		delete(g.runs, name)
	}
}

// beside reports whether a handler is running for another run of the job.
func (g *Going) beside(name string, id int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for other := range g.runs[name] {
		if other != id {
			return true
		}
	}
	return false
}
