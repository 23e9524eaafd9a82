// Package process stores the heartbeat of a process, and rescues the runs of dead processes.
//
// The heartbeat is a counter in the process's own row. It uses a connection of its own, so that it continues while
// the pools are exhausted, and it continues until River's client has stopped. A live process keeps its runs, however
// long they take and whether or not the database is reachable. A process whose heartbeats had a gap so long that
// others may have taken it for dead checks that an attempt is still its own before it reports the result.
package process

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// The limits of [Config].DeadAfter. The maximum is well below a day, after which the rows of dead processes are
// deleted.
const (
	MinDeadAfter = 10 * time.Second
	MaxDeadAfter = 12 * time.Hour
)

// The timings of a heartbeat are parts of DeadAfter, each shorter than the next: a beat every 1/15, a timeout of 1/5
// for storing it, and a gap if two beats are more than 1/3 apart.
const (
	beats        = 15
	beatTimeout  = 5
	gaps         = 3
	closeTimeout = 2 * time.Second
)

// Config configures a [Process]. All fields are required.
type Config struct {
	Self      store.Process // without Busy
	DeadAfter time.Duration
	Store     *store.Store
	Log       *slog.Logger
	// Connect opens a connection for the heartbeat alone.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Busy returns the number of running jobs.
	Busy func() int
	// Clock is called with the database's time at some instant within the last roundTrip.
	Clock func(db time.Time, roundTrip time.Duration)
	// Died is called after a beat that found another process dead. It must not block, because it delays the next beat.
	Died func()
}

// A Process stores heartbeats and watches those of others. Create one with [Start].
type Process struct {
	cfg  Config
	conn *pgx.Conn // used by the goroutine of run only
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	watch    *Watch
	beat     time.Time // when the latest beat was stored
	db       time.Time // the database's time then
	gap      time.Time // the end of the latest gap after which others may have taken this process for dead
	draining bool
	failure  error     // of the latest beat
	failing  time.Time // the start of the first beat that failed since the latest stored one
}

// Self returns what a program knows about its process, under an ID that is new at each call. The ID has the host and
// the process's number in it, and may be that of a client of River.
func Self() store.Process {
	host, _ := os.Hostname() // "" if unknown
	version := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	pid := os.Getpid()
	return store.Process{ID: fmt.Sprintf("%.60s_%d_%s", host, pid, rand.Text()[:8]), Host: host, PID: pid, Version: version}
}

// Start stores the first heartbeat and continues until Stop. ctx applies to the first one only.
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

// Stop ends the heartbeat and marks the process as stopped, so that others rescue any runs it left behind at once.
// Call it after River's client has stopped.
func (p *Process) Stop() {
	p.stop()
	<-p.done
}

// Live returns the number of live processes and the set of their registrations.
func (p *Process) Live() (n int, registrations map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch.Live()
}

// Dead returns the IDs of dead processes.
func (p *Process) Dead() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch.Dead()
}

// Suspect reports whether others may have taken this process for dead after since, so that an attempt that began
// then may no longer be its own.
func (p *Process) Suspect(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gap.After(since) || p.sinceBeat(time.Now()) > p.giveUp()
}

// sinceBeat returns how long ago the latest beat was stored. It takes the maximum of both clocks, because the
// monotonic one may stop while the machine is suspended, and the wall clock may be set.
func (p *Process) sinceBeat(now time.Time) time.Duration {
	return max(now.Sub(p.beat), now.Round(0).Sub(p.beat.Round(0)))
}

// giveUp is how long after a beat others may take the process for dead. It is less than DeadAfter, because they may
// have seen that beat when it was one interval old, and their clocks may run faster.
func (p *Process) giveUp() time.Duration { return p.cfg.DeadAfter * 8 / 10 }

// Drain makes later heartbeats say that the process fetches no more jobs and advances no schedules. A process with
// other schedules then need not wait until this one has stopped.
func (p *Process) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
}

func (p *Process) run(ctx context.Context) {
	defer close(p.done)
	defer p.end(ctx)
	ticker := time.NewTicker(p.cfg.DeadAfter / beats)
	defer ticker.Stop()
	var known []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		err := p.store(ctx)
		if again := p.record(began, err); err != nil {
			if !again && ctx.Err() == nil {
				p.cfg.Log.WarnContext(ctx, "could not store the heartbeat; retrying until it succeeds", "error", err)
			}
			continue
		}
		dead := p.Dead()
		if len(dead) > 0 && !slices.Equal(dead, known) {
			p.cfg.Died()
		}
		known = dead
	}
}

// record notes how a beat went that began then, and reports whether the one before it had failed.
func (p *Process) record(began time.Time, err error) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	again = p.failure != nil
	if p.failure = err; !again {
		p.failing = began
	}
	return again
}

// Reason returns why others may take the jobs of this process: its heartbeats have failed for DeadAfter. It returns ""
// otherwise.
func (p *Process) Reason(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := now.Sub(p.failing)
	if p.failure == nil || failed < p.cfg.DeadAfter {
		return ""
	}
	return fmt.Sprintf("the heartbeat of this process could not be stored for %s, so others may take its jobs: %v", failed.Round(time.Second), p.failure)
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
	// The beat counts from the request on: the process may have been frozen since the database answered.
	if !p.beat.IsZero() && max(p.sinceBeat(before), db.Sub(p.db)) > p.giveUp() {
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
	if p.conn == nil { // the latest beat has failed, or was cancelled just now
		p.conn, _ = p.cfg.Connect(ctx)
	}
	if p.conn != nil {
		_ = p.cfg.Store.EndProcess(ctx, p.conn, p.cfg.Self.ID) // if it fails, others see the heartbeat end
	}
	p.close()
}
