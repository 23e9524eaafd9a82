// Package schedule advances schedules: each is a row, and advancing it and inserting its tick are one transaction.
// So a tick is inserted at most once, however many processes there are and whatever their clocks say; and a tick
// that is due stays due until it has been inserted, whichever process dies.
//
// Every process has a [Ticker] that looks at the next tick of each of its schedules, the leader at once and the
// others a little later. What becomes of a schedule that is due is decided by provider.Plan.
package schedule

import (
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
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
	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// The timings of a look, each shorter than the one after it.
const (
	// margin is how long after a tick a process looks: what looks too early finds nothing due.
	margin = 2 * time.Millisecond
	// lagMin and lagMax are how much later those look that do not lead, times one for every 20 live processes: so
	// a tick does not wait for a leader, and a leader is not in the others' way.
	lagMin, lagMax = 150 * time.Millisecond, 250 * time.Millisecond
	// prompted is how long after River's leader called for a tick a process looks without a lag.
	prompted = time.Second
	// checkEvery is how often a process looks in any case, and that all of its rows are there, for up to
	// checkRows of them; of more it looks as much less often, at least every fullEvery.
	checkEvery = 2 * time.Second
	// idleTimeout is how long the server waits for a process that was cut off in the middle of an advance, and
	// holds its rows.
	idleTimeout = 4 * time.Second
	// stepTimeout bounds one transaction.
	stepTimeout = 10 * time.Second
	fullEvery   = 30 * time.Second
)

const (
	checkRows = 500
	// What one transaction advances at most. A larger answer would block the server in its write to a frozen
	// process, where no timeout reaches.
	advanceRows, advanceBytes = 500, 256 << 10
)

// A Registration is a job with a schedule.
type Registration struct {
	Name                  string
	Schedule              jobs.Schedule
	Spec                  string // canonical text of Schedule
	CatchUp               jobs.CatchUpPolicy
	Queue                 string
	Priority, MaxAttempts int
}

// Config configures a [Ticker]. Every field has to be set.
type Config struct {
	Pool          *pgxpool.Pool
	Store         *store.Store
	Clock         *dbclock.Clock
	Log           *slog.Logger
	Registrations []Registration
	// Hash is that of all registrations of this process, and Started its start by the database's clock.
	Hash    string
	Started time.Time
	// Live returns how many processes live, and the hashes of their registrations.
	Live func() (n int, registrations map[string]bool)
	// Insert inserts jobs in a transaction.
	Insert func(ctx context.Context, tx pgx.Tx, jobs ...*insert.Job) error
	// Notify has the workers of these queues told of jobs, once they are committed.
	Notify func(ctx context.Context, queues []string)
}

// A Ticker advances the schedules of one process. Make one with [New].
type Ticker struct {
	cfg    Config
	byName map[string]*entry
	wake   chan struct{} // holds one signal
	full   atomic.Bool   // the next look is to be without a floor
	prompt atomic.Int64  // until when this process looks without a lag, in Unix nanoseconds

	// What follows belongs to the goroutine that looks.
	upcoming upcoming
	floor    time.Time
	left     bool // something that was due could not be advanced
	lag      time.Duration
	logged   map[string]time.Time // when it was last said that a tick could not be inserted

	mu        sync.Mutex
	succeeded map[string]time.Time // ticks whose success is to be stored
}

// An entry is a registration as its ticker sees it.
type entry struct {
	Registration
	at    time.Time // of the next look, which is a tick
	known time.Time // the next tick that the row was last seen to have
	place int
}

// New returns a ticker. [Ticker.Register] comes first, then [Ticker.Run].
func New(cfg Config) *Ticker {
	t := &Ticker{
		cfg: cfg, byName: map[string]*entry{}, wake: make(chan struct{}, 1),
		logged: map[string]time.Time{}, succeeded: map[string]time.Time{},
	}
	for _, r := range cfg.Registrations {
		t.byName[r.Name] = &entry{Registration: r}
	}
	return t
}

// Prompt is called by the leader about when a tick is due. It never blocks.
func (t *Ticker) Prompt() {
	t.prompt.Store(time.Now().Add(prompted).UnixNano())
	t.look()
}

// Look makes the ticker look soon, at all that is due: the process has become leader, a pause has ended, or a run
// that others wait for has. It never blocks.
func (t *Ticker) Look() {
	t.full.Store(true)
	t.look()
}

func (t *Ticker) look() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Succeeded takes note that the run of a tick has succeeded.
func (t *Ticker) Succeeded(name string, tick time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tick.After(t.succeeded[name]) {
		t.succeeded[name] = tick
	}
}

// Run advances what is due until ctx ends.
func (t *Ticker) Run(ctx context.Context) {
	if len(t.byName) == 0 {
		return
	}
	now := t.cfg.Clock.Estimate()
	for _, e := range t.byName {
		e.at = now // of the first look
		t.upcoming = append(t.upcoming, e)
	}
	heap.Init(&t.upcoming)
	t.full.Store(true)
	lastFull := time.Now()
	check := time.NewTimer(t.checkEvery())
	defer check.Stop()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.storeSuccesses(context.WithoutCancel(ctx))
			return
		case <-check.C:
			if err := t.register(ctx, false); err != nil && ctx.Err() == nil {
				t.cfg.Log.WarnContext(ctx, "schedules could not be checked; it is tried again within seconds", "error", err)
			}
			t.storeSuccesses(ctx)
			check.Reset(t.checkEvery())
			if time.Since(lastFull) > fullEvery {
				t.full.Store(true)
				lastFull = time.Now()
			}
			t.advanceDue(ctx)
		case <-tick.C:
			t.advanceDue(ctx)
		case <-t.wake:
			if t.full.Load() || t.next() <= 0 {
				t.advanceDue(ctx)
			}
		}
		tick.Reset(max(0, t.next()))
	}
}

func (t *Ticker) checkEvery() time.Duration {
	d := checkEvery * time.Duration(1+len(t.byName)/checkRows)
	return Jitter(min(d, fullEvery))
}

// Jitter spreads what many processes do: it returns d, give or take a tenth.
func Jitter(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5) }

// next returns how long it takes until the next look at a tick.
func (t *Ticker) next() time.Duration {
	next := time.Hour // no tick is left
	if first := t.upcoming[0].at; !first.IsZero() {
		lag := t.lag
		if time.Now().UnixNano() < t.prompt.Load() {
			lag = 0
		}
		next = t.cfg.Clock.Until(first) + margin + lag
	}
	if t.left { // it is locked, or waits for a run
		next = min(next, Jitter(checkEvery))
	}
	return next
}

// advanceDue advances what is due.
func (t *Ticker) advanceDue(ctx context.Context) {
	if t.full.Swap(false) {
		t.floor = time.Time{}
	}
	now := t.cfg.Clock.Estimate()
	due, err := t.due(ctx, t.floor)
	if err == nil {
		err = t.advanceAll(ctx, due)
	}
	if err != nil && ctx.Err() == nil {
		t.cfg.Log.WarnContext(ctx, "ticks that are due could not be inserted; it is tried again within seconds", "error", err)
	}
	t.floor = t.nextFloor(due)
	t.left = err != nil || slices.ContainsFunc(due, func(d store.Due) bool { return t.byName[d.Name].known.Equal(d.Next) })
	for at := t.upcoming[0].at; !at.IsZero() && !at.After(now); at = t.upcoming[0].at {
		t.upcoming[0].at = provider.Next(t.upcoming[0].Schedule, now)
		heap.Fix(&t.upcoming, 0)
	}
	live, _ := t.cfg.Live()
	t.lag = lagMin + rand.N(lagMax-lagMin)
	t.lag = t.lag * time.Duration(max(20, live)) / 20
}

// nextFloor returns the floor of the next look. All that was due is at or before the latest of due, and what was
// advanced is after it.
func (t *Ticker) nextFloor(due []store.Due) time.Time {
	floor := t.floor
	for _, d := range due {
		if d.Next.After(floor) {
			floor = d.Next
		}
	}
	for _, d := range due {
		if t.byName[d.Name].known.Equal(d.Next) && !d.Next.After(floor) { // it is still due
			floor = d.Next.Add(-time.Microsecond)
		}
	}
	return floor
}

// due returns which of the process's schedules have become due since floor, by name.
func (t *Ticker) due(ctx context.Context, floor time.Time) ([]store.Due, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	due, err := t.cfg.Store.DueSchedules(ctx, t.cfg.Pool, floor)
	due = slices.DeleteFunc(due, func(d store.Due) bool {
		e := t.byName[d.Name]
		return e == nil || e.Spec != d.Spec
	})
	slices.SortFunc(due, func(a, b store.Due) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range due {
		t.byName[d.Name].known = d.Next
	}
	return due, err
}

// Once advances what is due, without [Ticker.Run].
func (t *Ticker) Once(ctx context.Context) error {
	due, err := t.due(ctx, time.Time{})
	if err == nil {
		err = t.advanceAll(ctx, due)
	}
	return err
}

// advanceAll advances in parts.
func (t *Ticker) advanceAll(ctx context.Context, due []store.Due) error {
	for part := range slices.Chunk(due, advanceRows) {
		for len(part) > 0 {
			n, err := t.advance(ctx, part)
			if err != nil && t.answers(ctx) {
				t.advanceEach(ctx, part) // one schedule may be the reason, and must not stop the others
				break
			}
			if err != nil {
				return err
			}
			part = part[n:]
		}
	}
	return nil
}

// answers reports whether the database does. Of a connection that the network has forgotten nothing may ever come.
func (t *Ticker) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return t.cfg.Pool.Ping(ctx) == nil
}

// refusedLogged is how often the log says that a tick cannot be inserted.
const refusedLogged = time.Minute

func (t *Ticker) advanceEach(ctx context.Context, due []store.Due) {
	for i, d := range due {
		if _, err := t.advance(ctx, due[i:i+1]); err != nil && ctx.Err() == nil && time.Since(t.logged[d.Name]) > refusedLogged {
			t.logged[d.Name] = time.Now()
			t.cfg.Log.ErrorContext(ctx, "tick is due and could not be inserted; it is tried again every few seconds", "job", d.Name, "tick", d.Next, "error", err)
		}
	}
}

// advance advances the first of what is due in one transaction, and returns how many it looked at.
func (t *Ticker) advance(ctx context.Context, due []store.Due) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var (
		rows     []store.Schedule
		toInsert []*insert.Job
		queues   []string
		skipped  []plan
	)
	err = pgx.BeginTxFunc(ctx, t.cfg.Pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := t.cfg.Store.SetLimits(ctx, tx, store.Limits{Statement: stepTimeout, Idle: idleTimeout}); err != nil {
			return err
		}
		locked, now, err := t.cfg.Store.LockDue(ctx, tx, due)
		if err != nil {
			return err
		}
		n = len(due)
		locked, n = fitting(locked, due)
		planned, err := t.plan(ctx, tx, locked, now)
		if err != nil || len(planned) == 0 {
			return err
		}
		insertIDs := map[string]bool{}
		for _, p := range planned {
			rows = append(rows, Step(p.row, p.Advance))
			insertIDs[p.row.Name] = p.Action == provider.Insert
			if p.Action == provider.Skip {
				skipped = append(skipped, p)
			}
		}
		ids, err := t.cfg.Store.AdvanceSchedules(ctx, tx, rows, insertIDs)
		if err != nil {
			return err
		}
		for _, p := range planned {
			if p.Action != provider.Insert {
				continue
			}
			e := t.byName[p.row.Name]
			toInsert = append(toInsert, jobOf(e.Registration, p, ids[e.Name]))
			if !slices.Contains(queues, e.Queue) {
				queues = append(queues, e.Queue)
			}
		}
		if len(toInsert) == 0 {
			return nil
		}
		return t.cfg.Insert(ctx, tx, toInsert...)
	})
	if err != nil {
		return 0, err
	}
	for _, row := range rows {
		t.byName[row.Name].known = row.Next
	}
	for _, p := range skipped {
		t.cfg.Log.InfoContext(ctx, "tick skipped: the job is paused", "job", p.row.Name, "tick", p.Tick, "earlier_ticks", p.Missed, "next_tick", p.Next)
	}
	if len(queues) > 0 {
		t.cfg.Notify(ctx, queues)
	}
	return n, nil
}

// fitting returns those of the locked rows whose data goes into one transaction, and how many of what is due
// come before the first that does not. Both are in the order of names.
func fitting(locked []store.Schedule, due []store.Due) ([]store.Schedule, int) {
	size := 0
	for i, row := range locked {
		if size += len(row.Data); i > 0 && size > advanceBytes {
			rest := locked[i].Name
			return locked[:i], slices.IndexFunc(due, func(d store.Due) bool { return d.Name == rest })
		}
	}
	return locked, len(due)
}

// A plan is what becomes of a row.
type plan struct {
	row store.Schedule
	provider.Advance
}

// plan decides about locked rows, and folds ticks into jobs that wait. A job that does not wait any more when it
// comes to it gets a successor instead.
func (t *Ticker) plan(ctx context.Context, tx pgx.Tx, locked []store.Schedule, now time.Time) (plans []plan, err error) {
	var folds []store.Fold
	for _, row := range locked {
		e := t.byName[row.Name]
		a := planned(e.Schedule, e.CatchUp, row, now)
		switch a.Action {
		case provider.None, provider.Hold:
			continue
		case provider.Fold:
			folds = append(folds, store.Fold{JobID: row.Last.JobID, Tick: a.Tick, Missed: a.Missed})
		default:
		}
		plans = append(plans, plan{row, a})
	}
	if len(folds) == 0 {
		return plans, nil
	}
	folded, err := t.cfg.Store.FoldJobs(ctx, tx, folds)
	if err != nil {
		return nil, err
	}
	for i, p := range plans {
		if p.Action == provider.Fold && !slices.Contains(folded, p.row.Last.JobID) {
			p.row.Progress = provider.Going
			plans[i] = plan{p.row, planned(t.byName[p.row.Name].Schedule, t.byName[p.row.Name].CatchUp, p.row, now)}
		}
	}
	return plans, nil
}

// TickMeta is what a tick's job has in its metadata.
type TickMeta struct {
	Tick   string `json:"everytick_tick"`
	Missed int    `json:"everytick_missed,omitempty"`
}

func jobOf(r Registration, p plan, id int64) *insert.Job {
	metadata, _ := json.Marshal(TickMeta{store.FormatTick(p.Tick), p.Missed}) // of a string and a number
	return &insert.Job{
		Kind: r.Name, Queue: r.Queue, Priority: r.Priority, MaxAttempts: r.MaxAttempts,
		Data: p.row.Data, Metadata: metadata, Due: p.Tick, Passed: true, ID: id,
	}
}

func (t *Ticker) storeSuccesses(ctx context.Context) {
	t.mu.Lock()
	succeeded := t.succeeded
	t.succeeded = map[string]time.Time{}
	t.mu.Unlock()
	if len(succeeded) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkEvery)
	defer cancel()
	stored, err := t.cfg.Store.PutSuccesses(ctx, t.cfg.Pool, succeeded)
	if err != nil {
		t.cfg.Log.DebugContext(ctx, "successes of schedules are not stored yet", "error", err)
	}
	for _, name := range stored {
		delete(succeeded, name)
	}
	for name, tick := range succeeded {
		t.Succeeded(name, tick) // the next time
	}
}

// Register writes the rows of this process's schedules at its start, or fails.
func (t *Ticker) Register(ctx context.Context) error {
	if len(t.byName) == 0 {
		return nil
	}
	if err := t.register(ctx, true); err != nil {
		return fmt.Errorf("registering schedules: %w", err)
	}
	names, err := t.cfg.Store.Unregistered(ctx, t.cfg.Pool, t.names())
	if err != nil {
		return fmt.Errorf("looking for schedules that nobody registers: %w", err)
	}
	for _, name := range names {
		t.cfg.Log.WarnContext(ctx, "schedule is overdue and not registered here; it runs only if another service registers it", "job", name)
	}
	return nil
}

func (t *Ticker) names() []string {
	names := make([]string, 0, len(t.byName))
	for name := range t.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// register brings the rows in line with the registrations.
func (t *Ticker) register(ctx context.Context, starting bool) error {
	ctx, cancel := context.WithTimeout(ctx, fullEvery)
	defer cancel()
	names := t.names()
	if !starting {
		rows, err := t.cfg.Store.ReadSchedules(ctx, t.cfg.Pool, names)
		if err != nil {
			return err
		}
		claims, err := t.claims(ctx, t.cfg.Pool, rows, t.cfg.Clock.Estimate(), false)
		if err != nil || len(claims) == 0 {
			return err
		}
	}
	return pgx.BeginTxFunc(ctx, t.cfg.Pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := t.cfg.Store.SetLimits(ctx, tx, store.Limits{Statement: fullEvery, Idle: idleTimeout}); err != nil {
			return err
		}
		now, err := t.cfg.Store.LockRegistering(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := t.cfg.Store.LockSchedules(ctx, tx, names)
		if err != nil {
			return err
		}
		claims, err := t.claims(ctx, tx, rows, now, starting)
		if err != nil || len(claims) == 0 {
			return err
		}
		t.full.Store(true) // a new row may be due before the floor
		return t.cfg.Store.PutSchedules(ctx, tx, claims)
	})
}

// claims returns the rows to write.
func (t *Ticker) claims(ctx context.Context, db store.DB, rows []store.Claim, now time.Time, starting bool) (claims []store.Claim, err error) {
	live, err := t.live(ctx, db, rows)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*store.Claim, len(rows))
	for i := range rows {
		byName[rows[i].Name] = &rows[i]
	}
	for _, name := range t.names() {
		e, row := t.byName[name], byName[name]
		next := func() time.Time { return provider.Next(e.Schedule, now) }
		if row == nil && !e.known.IsZero() {
			// The row was deleted. Ticks may have been inserted since it was last seen, and may have passed since.
			last, err := t.cfg.Store.LastTick(ctx, db, name)
			if err != nil {
				return nil, err
			}
			next = func() time.Time {
				if last.Before(e.known) {
					return e.known
				}
				return provider.Next(e.Schedule, last)
			}
		}
		v := View{Spec: e.Spec, By: t.cfg.Hash, At: t.cfg.Started, Starting: starting, Live: live}
		claim, write := v.Decide(row, next)
		claim.Name = name
		if write {
			claims = append(claims, claim)
		}
		if claim.Spec == e.Spec {
			e.known = claim.Next
		}
	}
	return claims, nil
}

// live returns the registrations of the processes that live. A process that has just started has a heartbeat that
// this one may not have seen yet.
func (t *Ticker) live(ctx context.Context, db store.DB, rows []store.Claim) (map[string]bool, error) {
	_, live := t.cfg.Live()
	if !slices.ContainsFunc(rows, func(row store.Claim) bool { return row.By != t.cfg.Hash && !live[row.By] }) {
		return live, nil
	}
	recent, err := t.cfg.Store.RecentRegistrations(ctx, db, process.MinDeadAfter)
	for _, registrations := range recent {
		live[registrations] = true
	}
	return live, err
}

// upcoming is a heap with the entry that is looked at first on top. Those without a tick come last.
type upcoming []*entry

func (u upcoming) Len() int { return len(u) }
func (u upcoming) Less(i, j int) bool {
	a, b := u[i].at, u[j].at
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}

func (u upcoming) Swap(i, j int) {
	u[i], u[j] = u[j], u[i]
	u[i].place, u[j].place = i, j
}

func (u *upcoming) Push(e any) { *u = append(*u, e.(*entry)) }

func (u *upcoming) Pop() any { panic("nothing is taken out") }
