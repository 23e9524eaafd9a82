// Package conns opens the scheduler's own connections, and closes those to a server that has become read-only.
//
// The own connections are configured as the application's are. They neither take any of its pool nor wait for one.
package conns

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// resetEvery bounds how often connections to a read-only server are given up: there may be no other server yet.
const resetEvery = 5 * time.Second

// readOnlyCode is the SQLSTATE of a write on a standby, or in a session that is read-only by default.
const readOnlyCode = "25006"

// A Failover closes the connections of a pool whose server has become read-only, so that the next ones go to the server
// that is primary now. After some failovers the old primary keeps its connections open. Create one with [NewFailover].
type Failover struct {
	pool *pgxpool.Pool
	log  *slog.Logger
	last atomic.Int64 // when connections were last given up, in Unix nanoseconds
}

// NewFailover returns the failover of a pool.
func NewFailover(pool *pgxpool.Pool, log *slog.Logger) *Failover {
	return &Failover{pool: pool, log: log}
}

// Check closes the connections if err, of a statement on one of them, says that the server refuses writes. It reports
// whether it has. Connections in use are closed when they are released.
func (f *Failover) Check(err error) (closed bool) {
	if store.Code(err) != readOnlyCode {
		return false
	}
	now := time.Now().UnixNano()
	if last := f.last.Load(); now-last < int64(resetEvery) || !f.last.CompareAndSwap(last, now) {
		return false
	}
	f.log.Warn("the server refuses writes; closing the connections to it", "error", err)
	f.pool.Reset()
	return true
}
