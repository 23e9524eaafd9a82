package river

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Handlers share the application's pool with the rest of it. A thousand of them in line for a
// connection would have all else wait behind them, for seconds. So few handlers begin at once, more and more of
// them while connections are free, and fewer while they are long in coming: as TCP finds how
// much a network takes. Handlers that use no database are soon as many as there are workers.
// Who uses it is not known, so that one that has run for a while does not count any more: it
// waits for something else.

const (
	// throttleInterval is how often the limit is adapted.
	throttleInterval = 50 * time.Millisecond
	// tolerableWait is how long a connection may be in coming on average.
	tolerableWait = 25 * time.Millisecond
	// throttleLogged is how often the log is told of it.
	throttleLogged = time.Minute
	// throttleTurn is how long a handler counts at least, and half of how long at most.
	throttleTurn = time.Second
)

// throttle limits how many handlers of the shared workers run at once.
type throttle struct {
	pool     *pgxpool.Pool
	log      *slog.Logger
	first    int           // the limit to begin with
	most     int           // MaxWorkers
	longest  time.Duration // that a job waits before it goes back to the queue
	turnTime time.Duration
	done     <-chan struct{} // closed when all that wait go back

	mu       sync.Mutex
	limit    int
	turn     int        // increases each turnTime while somebody watches
	running  [2]int     // begun in this turn, and in the one before
	waiting  []chan int // are sent their turn
	watching bool
	logged   time.Time // by the one who watches
}

// newThrottle returns one that lets nobody wait when ctx has ended.
func (s *Scheduler) newThrottle(ctx context.Context) *throttle {
	first := min(2*int(s.pool.Config().MaxConns), s.cfg.MaxWorkers)
	// Nobody may take a job for lost that waits.
	longest := min(s.cfg.RescueAfter/2, 10*time.Second)
	return &throttle{pool: s.pool, log: s.log, first: first, most: s.cfg.MaxWorkers, longest: longest, turnTime: throttleTurn, done: ctx.Done(), limit: first}
}

// errNoTurn says that a job has waited long enough and goes back to the queue.
var errNoTurn = errors.New("no turn came")

// enter waits until a handler may run, and tells whether it had to. After a nil error leave must follow, with
// the same turn; another is that of ctx, or errNoTurn.
func (t *throttle) enter(ctx context.Context) (turn int, waited bool, err error) {
	t.mu.Lock()
	if t.counted() < t.limit {
		defer t.mu.Unlock()
		return t.start(), false, nil
	}
	mine := make(chan int, 1)
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	timer := time.NewTimer(t.longest)
	defer timer.Stop()
	select {
	case turn = <-mine:
		return turn, true, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errNoTurn
	case <-t.done:
		err = errNoTurn
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, mine)
	if i < 0 { // it has just got its turn
		return <-mine, true, nil
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	return 0, true, err
}

// leave is called when a handler has ended.
func (t *throttle) leave(turn int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if age := t.turn - turn; age < len(t.running) {
		t.running[age]--
		t.admit()
	}
}

// counted is how many handlers run, but for those that have for long.
func (t *throttle) counted() int { return t.running[0] + t.running[1] }

func (t *throttle) admit() {
	for len(t.waiting) > 0 && t.counted() < t.limit {
		t.waiting[0] <- t.start()
		t.waiting = t.waiting[1:]
	}
}

func (t *throttle) start() (turn int) {
	t.running[0]++
	if !t.watching && t.counted() >= t.limit {
		t.watching = true
		go t.watch()
	}
	return t.turn
}

// watch adapts the limit as long as it may matter.
func (t *throttle) watch() {
	ticker := time.NewTicker(throttleInterval)
	defer ticker.Stop()
	before, began := t.pool.Stat(), time.Now()
	for {
		select {
		case <-ticker.C:
		case <-t.done:
			return
		}
		now := t.pool.Stat()
		if time.Since(began) >= t.turnTime {
			t.nextTurn()
			began = time.Now()
		}
		goOn, starved := t.adapt(before, now)
		if !goOn {
			return
		}
		if starved && time.Since(t.logged) > throttleLogged {
			t.logged = time.Now()
			t.log.Warn("handlers wait for connections of the pool, so fewer run at once: give the pool more connections, or set a lower MaxWorkers",
				"connections", now.MaxConns())
		}
		before = now
	}
}

// nextTurn begins a turn; adapt follows.
func (t *throttle) nextTurn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn++
	t.running = [2]int{0, t.running[0]}
}

// adapt tells whether to go on, and whether handlers wait since connections are long in coming.
func (t *throttle) adapt(before, now *pgxpool.Stat) (goOn, starved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := now.AcquireCount() - before.AcquireCount()
	waited := now.AcquireDuration() - before.AcquireDuration()
	busy := now.AcquiredConns()+now.ConstructingConns() >= now.MaxConns()
	switch {
	case n > 0 && waited/time.Duration(n) > tolerableWait, n == 0 && busy:
		t.limit = max(min(t.limit, t.counted())/2, int(now.MaxConns()))
		starved = busy && len(t.waiting) > 0
	case !busy && len(t.waiting) > 0:
		t.limit = min(2*t.limit, t.most)
	}
	t.admit()
	if len(t.waiting) == 0 && t.counted() < t.first {
		t.limit, t.watching = t.first, false
	}
	return t.watching, starved
}
