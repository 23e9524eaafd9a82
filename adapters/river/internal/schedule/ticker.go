// Package schedule advances schedules. Each schedule is a row; advancing the row and inserting its tick are one
// transaction. So a tick is inserted at most once, however many processes there are and whatever their clocks say,
// and a tick that is due stays due until it has been inserted, whichever process dies.
//
// Every process has a [Ticker] that advances the schedules registered in it: the leader's at the tick, the others'
// a little later. provider.Plan decides what happens to a schedule that is due.
package schedule

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs/provider"
)

// The ticker's timings, each shorter than the next.
const (
	// margin is how long after a tick the ticker checks. An earlier check would find nothing due.
	margin = 2 * time.Millisecond
	// lagMin and lagMax bound how much later processes that do not lead check, times one for every 20 live
	// processes: a tick does not wait for a leader, and the others stay out of the leader's way.
	lagMin, lagMax = 150 * time.Millisecond, 250 * time.Millisecond
	// prompted is how long after a call from River's leader the ticker checks without a lag.
	prompted = time.Second
	// checkEvery is how often the ticker checks in any case, and verifies that all of its rows exist, for up to
	// checkRows of them. With more rows it does so less often, at least every fullEvery.
	checkEvery = 2 * time.Second
	// idleTimeout is how long the server keeps the rows of a process that was cut off in the middle of an advance.
	idleTimeout = 4 * time.Second
	// stepTimeout bounds one transaction.
	stepTimeout = 10 * time.Second
	fullEvery   = 30 * time.Second
)

const checkRows = 500

// Config configures a [Ticker]. All fields are required.
type Config struct {
	Pool  *pgxpool.Pool
	Store *store.Store
	Clock *dbclock.Clock
	Log   *slog.Logger
	// Jobs are the registered jobs that have a schedule, sorted by name. QueueOf returns the queue of one.
	Jobs    []*provider.Definition
	QueueOf func(*provider.Definition) string
	// Hash is that of all registrations of this process; Started is when it started, by the database's clock.
	Hash    string
	Started time.Time
	// Live returns how many processes are alive, and the hashes of their registrations.
	Live func() (n int, registrations map[string]bool)
	// Insert inserts jobs in a transaction.
	Insert func(ctx context.Context, tx pgx.Tx, jobs ...*insert.Job) error
	// Notify notifies the workers of these queues of committed jobs.
	Notify func(ctx context.Context, queues []string)
}

// A Ticker advances the schedules of one process. Make one with [New].
type Ticker struct {
	cfg     Config
	names   []string
	entries []*entry // sorted by name
	byName  map[string]*entry
	wake    chan struct{} // holds one signal
	full    atomic.Bool   // the next check has no floor
	prompt  atomic.Int64  // until when this process checks without a lag, in Unix nanoseconds

	// The goroutine that advances owns these.
	first time.Time // the earliest entry.at; zero if no tick is left
	now   time.Time // the estimated time of the latest check
	floor time.Time // no row is due at or before it
	left  bool      // a schedule that was due could not be advanced
	lag   time.Duration

	mu        sync.Mutex
	successes map[string]time.Time // the latest ticks whose runs succeeded, until they are stored in their rows
}

// An entry is a registration and what the ticker knows of its row.
type entry struct {
	*provider.Definition
	spec   string
	at     time.Time // the tick to check for next; zero if none is left
	known  time.Time // the row's next tick when last read
	logged time.Time // when the log last said that its tick could not be inserted
}

// New returns a ticker. Call [Ticker.Register], then [Ticker.Run].
func New(cfg Config) *Ticker {
	t := &Ticker{
		cfg: cfg, byName: map[string]*entry{}, wake: make(chan struct{}, 1), successes: map[string]time.Time{},
	}
	for _, d := range cfg.Jobs {
		e := &entry{Definition: d, spec: d.Spec()}
		t.names, t.entries, t.byName[d.Name] = append(t.names, d.Name), append(t.entries, e), e
	}
	return t
}

// Prompt tells the ticker that its process leads and a tick is about due. It never blocks.
func (t *Ticker) Prompt() {
	t.prompt.Store(time.Now().Add(prompted).UnixNano())
	t.signal()
}

// CheckNow makes the ticker check everything that is due: the process has become leader, a pause has ended, or a
// run that a tick waited for has. It never blocks.
func (t *Ticker) CheckNow() {
	t.full.Store(true)
	t.signal()
}

func (t *Ticker) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Run advances schedules as they become due, until ctx ends.
func (t *Ticker) Run(ctx context.Context) {
	if len(t.entries) == 0 {
		return
	}
	t.first = t.cfg.Clock.Estimate()
	for _, e := range t.entries {
		e.at = t.first
	}
	t.full.Store(true)
	lastFull := time.Now()
	check := time.NewTimer(t.checkEvery())
	defer check.Stop()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			if err := t.register(ctx, false); err != nil && ctx.Err() == nil {
				t.cfg.Log.WarnContext(ctx, "could not check the rows of schedules; retrying within seconds", "error", err)
			}
			t.StoreSuccesses(ctx)
			check.Reset(t.checkEvery())
			if time.Since(lastFull) > fullEvery {
				t.full.Store(true)
				lastFull = time.Now()
			}
			t.check(ctx)
		case <-tick.C:
			t.check(ctx)
		case <-t.wake:
			if t.full.Load() || t.untilCheck() <= 0 {
				t.check(ctx)
			}
		}
		tick.Reset(max(0, t.untilCheck()))
	}
}

func (t *Ticker) checkEvery() time.Duration {
	d := checkEvery * time.Duration(1+len(t.entries)/checkRows)
	return Jitter(min(d, fullEvery))
}

// Jitter returns d ± 10 %, so that processes do not act in step.
func Jitter(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5) }

// untilCheck returns how long to wait before the next check.
func (t *Ticker) untilCheck() time.Duration {
	wait := time.Hour // no tick is left
	if !t.first.IsZero() {
		lag := t.lag
		if time.Now().UnixNano() < t.prompt.Load() {
			lag = 0
		}
		wait = t.cfg.Clock.Until(t.first) + margin + lag
	}
	if t.left { // its row is locked, or it waits for a run
		wait = min(wait, Jitter(checkEvery))
	}
	return wait
}

// check advances what is due, and sets when to check next.
func (t *Ticker) check(ctx context.Context) {
	if t.full.Swap(false) {
		t.floor = time.Time{}
	}
	now := t.cfg.Clock.Estimate()
	back := now.Before(t.now) // a clock was set, and what was calculated since may be far ahead
	t.now = now
	due, err := t.due(ctx, t.floor)
	if err == nil {
		err = t.advanceAll(ctx, due)
	}
	if err != nil && ctx.Err() == nil {
		t.cfg.Log.WarnContext(ctx, "could not insert the ticks that are due; retrying within seconds", "error", err)
	}
	t.left = err != nil || slices.ContainsFunc(due, t.isLeft)
	t.floor = t.nextFloor(due)
	t.first = time.Time{}
	for _, e := range t.entries {
		if back || !e.at.IsZero() && !e.at.After(now) {
			var err error
			if e.at, err = provider.CheckedNext(e.Schedule, now); err != nil {
				e.at = now.Add(fullEvery)
			}
		}
		if t.first.IsZero() || !e.at.IsZero() && e.at.Before(t.first) {
			t.first = e.at
		}
	}
	live, _ := t.cfg.Live()
	t.lag = (lagMin + rand.N(lagMax-lagMin)) * time.Duration(max(20, live)) / 20
}

// isLeft reports whether the row has not been advanced.
func (t *Ticker) isLeft(d store.Due) bool { return t.byName[d.Name].known.Equal(d.Next) }

// nextFloor returns the floor of the next check: the latest of due, since every other row that was due lies at or
// before it and every advanced row after it; or just before the earliest row that is left.
func (t *Ticker) nextFloor(due []store.Due) time.Time {
	floor := t.floor
	for _, d := range due {
		if d.Next.After(floor) {
			floor = d.Next
		}
	}
	for _, d := range due {
		if t.isLeft(d) && !d.Next.After(floor) {
			floor = d.Next.Add(-time.Microsecond)
		}
	}
	return floor
}

// due returns the schedules of this process that have become due since floor, by name.
func (t *Ticker) due(ctx context.Context, floor time.Time) ([]store.Due, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	due, err := t.cfg.Store.DueSchedules(ctx, t.cfg.Pool, floor)
	due = slices.DeleteFunc(due, func(d store.Due) bool {
		e := t.byName[d.Name]
		return e == nil || e.spec != d.Spec
	})
	slices.SortFunc(due, func(a, b store.Due) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range due {
		t.byName[d.Name].known = d.Next
	}
	return due, err
}
