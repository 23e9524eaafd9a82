package river

import (
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// resetEvery bounds how often connections to a read-only server are given up: there may be no other server yet.
const resetEvery = 5 * time.Second

// readOnlyCode is the SQLSTATE of a write on a standby, or in a session that is read-only by default.
const readOnlyCode = "25006"

// leaveReadOnly closes the connections of a pool whose server has become read-only, so that the next ones go to the
// server that is primary now. After some failovers the old primary keeps its connections open.
func (s *Scheduler) leaveReadOnly(pool *pgxpool.Pool, err error) {
	if store.Code(err) != readOnlyCode {
		return
	}
	last := &s.resets.app
	ss := s.session.Load()
	if ss != nil && pool == ss.pool {
		last = &s.resets.own
	}
	now := time.Now().UnixNano()
	if previous := last.Load(); now-previous < int64(resetEvery) || !last.CompareAndSwap(previous, now) {
		return
	}
	s.log.Warn("the server refuses writes; closing the connections to it", "error", err)
	pool.Reset()
	if last == &s.resets.own {
		ss.flow.Reset()
	}
}

// resets has when the connections of the application's pool and of the scheduler's own were last given up.
type resets struct{ app, own atomic.Int64 }
