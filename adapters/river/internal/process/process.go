// Package process keeps the heartbeat of a process, and gives the jobs of dead ones to others.
//
// The heartbeat is a counter in a row of the process's own. It is stored by a connection of its own, so that it
// goes on while the pools are used up, and until River's client has stopped. A living process keeps its jobs,
// however long they take and whether the database is there or not. One whose heartbeats had a gap so long that
// others may have given it up asks, before it reports an attempt, whether that is still its own.
package process

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// What [Config].DeadAfter may be. Processes are forgotten a day after their last heartbeat, when they have long been
// taken for dead.
const (
	MinDeadAfter = 10 * time.Second
	MaxDeadAfter = 12 * time.Hour
)

// The timings of a heartbeat, each shorter than the one after it, as parts of DeadAfter: a beat comes 15 times in
// it, a statement that has no answer after a fifth of it is given up, and two beats that are more than a third of
// it apart are a gap.
const (
	beats        = 15
	beatTimeout  = 5
	gaps         = 3
	closeTimeout = 2 * time.Second
)

// Config configures a [Process]. Every field has to be set.
type Config struct {
	Self      store.Process // Busy is asked for with each beat
	DeadAfter time.Duration
	Store     *store.Store
	Log       *slog.Logger
	// Connect opens a connection that belongs to the heartbeat alone.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Busy returns how many jobs run.
	Busy func() int
	// Clock is told the database's time at some instant within the last roundTrip.
	Clock func(db time.Time, roundTrip time.Duration)
	// Died is called after a beat that saw a process die. It does not block: the next beat waits for it.
	Died func()
}

// A Process is one that runs. Make one with [Start].
type Process struct {
	cfg  Config
	conn *pgx.Conn // of the goroutine that beats
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	watch    *Watch
	beat     time.Time // the latest that was stored
	db       time.Time // the database's time then
	gap      time.Time // the end of the latest gap in which others may have given this process up
	draining bool
}

// Start stores the first heartbeat and goes on until Stop. ctx bounds the first alone.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	p := &Process{cfg: cfg, done: make(chan struct{}), watch: NewWatch(cfg.DeadAfter, cfg.DeadAfter/gaps)}
	if err := p.store(ctx); err != nil {
		p.close()
		return nil, fmt.Errorf("storing the first heartbeat: %w", err)
	}
	beatCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	go p.run(beatCtx)
	return p, nil
}

// Stop ends the heartbeat and stores that the process has stopped: what it may have left running is given to
// others at once. It is called when River's client has stopped.
func (p *Process) Stop() {
	p.stop()
	<-p.done
}

// Live returns how many processes live, and the registrations of all of them.
func (p *Process) Live() (n int, registrations map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch.Live()
}

// Suspect reports whether others may have given this process up since then, so that an attempt that began then
// may not be its own any more.
func (p *Process) Suspect(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gap.After(since) || p.since(time.Now()) > p.giveUp()
}

// since returns how long ago the latest beat was. The monotonic clock may stand still while a machine is suspended,
// and the wall clock may be set.
func (p *Process) since(now time.Time) time.Duration {
	return max(now.Sub(p.beat), now.Round(0).Sub(p.beat.Round(0)))
}

// Drain says from the next beat on that the process takes no more jobs and advances no schedules: a process with
// other schedules need not wait for its end.
func (p *Process) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
}

// giveUp is how long after a beat others may have given the process up: they may have seen it one beat late, and
// their clocks may run faster.
func (p *Process) giveUp() time.Duration { return p.cfg.DeadAfter * 8 / 10 }

func (p *Process) run(ctx context.Context) {
	defer close(p.done)
	defer p.end(ctx)
	ticker := time.NewTicker(p.cfg.DeadAfter / beats)
	defer ticker.Stop()
	var known []string
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := p.store(ctx)
		if err != nil {
			if !failing && ctx.Err() == nil {
				p.cfg.Log.WarnContext(ctx, "heartbeat could not be stored; it is tried again until it can", "error", err)
			}
			failing = true
			continue
		}
		failing = false
		p.mu.Lock()
		dead := p.watch.Dead()
		p.mu.Unlock()
		if !slices.Equal(dead, known) && len(dead) > 0 {
			p.cfg.Died()
		}
		known = dead
	}
}

// Dead returns the IDs of dead processes.
func (p *Process) Dead() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch.Dead()
}

// store stores one beat.
func (p *Process) store(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DeadAfter/beatTimeout)
	defer cancel()
	if p.conn == nil || p.conn.IsClosed() {
		if p.conn, err = p.cfg.Connect(ctx); err != nil {
			return err
		}
	}
	self := p.cfg.Self
	self.Busy = p.cfg.Busy()
	p.mu.Lock()
	if p.draining {
		self.Registrations = ""
	}
	p.mu.Unlock()
	before := time.Now()
	all, db, err := p.cfg.Store.Beat(ctx, p.conn, self)
	if err != nil {
		p.close()
		return err
	}
	p.cfg.Clock(db, time.Since(before))
	p.mu.Lock()
	defer p.mu.Unlock()
	// What counts is when it was asked for: the database may have answered long ago.
	if !p.beat.IsZero() && max(p.since(before), db.Sub(p.db)) > p.giveUp() {
		p.gap = time.Now()
	}
	p.beat, p.db = before, db
	p.watch.Observe(time.Now(), all)
	return nil
}

func (p *Process) close() {
	if p.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = p.conn.Close(ctx)
		p.conn = nil
	}
}

func (p *Process) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if p.conn != nil {
		_ = p.cfg.Store.EndProcess(ctx, p.conn, p.cfg.Self.ID) // or others find out
	}
	p.close()
}
