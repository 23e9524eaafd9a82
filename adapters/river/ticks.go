package river

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/jobs"
)

// River keeps the schedule of its periodic jobs in the leader's memory, so a tick
// is lost whenever the leader is. Here the row of a schedule's NEXT tick is always
// stored already, under a key that makes it one row however many insert it. Three
// writers do so, each enough for most faults:
//
//   - the seeder, a River periodic job that fires just after each tick;
//   - the relay: a tick's run stores its successor before it calls the handler;
//   - reconcile, at every start and when a process becomes leader.
//
// Two more mend what those cannot: the guard stores the tick that was just due in
// case somebody deleted its row, and the keeper looks after the schedules of a
// process whose leader is of another service. docs/guarantees.md tells the whole.

// tickArgs are the args of a tick's row. Schedule and Tick identify it; the kind,
// which is part of every key, is the schedule's name.
type tickArgs struct {
	Schedule string `json:"schedule" river:"unique"`
	Tick     string `json:"tick" river:"unique"` // UTC, RFC 3339
	Spec     string `json:"spec"`                // see specOf
}

// Kind implements [riverqueue.JobArgs].
func (a tickArgs) Kind() string { return a.Schedule }

func formatTick(tick time.Time) string { return tick.UTC().Format(time.RFC3339Nano) }

func parseTick(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) }

func (a tickArgs) time() (time.Time, error) { return parseTick(a.Tick) }

var tickMetadata = []byte(`{"` + metaTick + `":true}`)

// tickRow returns the row of a tick. Its key holds in every state, so that a tick
// that ran, failed or was cancelled cannot be enqueued again while it is kept.
func tickRow(d *jobs.Definition, tick time.Time) (tickArgs, *riverqueue.InsertOpts) {
	return tickArgs{Schedule: d.Name, Tick: formatTick(tick), Spec: specOf(d)},
		&riverqueue.InsertOpts{
			MaxAttempts: d.MaxAttempts,
			Metadata:    tickMetadata,
			Priority:    d.Priority,
			Queue:       queueOf(d),
			ScheduledAt: tick,
			UniqueOpts:  riverqueue.UniqueOpts{ByArgs: true, ByState: rivertype.JobStates()},
		}
}

// specOf hashes what makes rows of an older registration wrong for a newer one.
func specOf(d *jobs.Definition) string {
	schedule, zone := d.Describe()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%d", schedule, zone, d.Priority, d.MaxAttempts))
	return hex.EncodeToString(sum[:8])
}

// Writer 1: the seeder, and the guard.

// The seeder fires after the tick, not at it: River fires up to 100 ms early, and
// "the next tick" must not name the one just due.
const (
	seedLag  = 500 * time.Millisecond
	guardLag = 750 * time.Millisecond
	// guardReach is how old a tick the guard stores: one that is older is for the
	// relay and reconcile to judge.
	guardReach = 1500 * time.Millisecond
)

func (s *Scheduler) periodicJobs(d *jobs.Definition) []*riverqueue.PeriodicJob {
	next := func(now time.Time) time.Time { return d.Schedule.Next(now) }
	justDue := func(now time.Time) time.Time {
		// What was due before this process led is for reconcile to judge.
		if tick := d.Schedule.Next(now.Add(-guardReach)); !tick.After(now) && tick.UnixNano() > s.ledSince.Load() {
			return tick
		}
		return time.Time{}
	}
	return []*riverqueue.PeriodicJob{
		riverqueue.NewPeriodicJob(laggedSchedule{d.Schedule, s.clock, seedLag}, s.construct(d, next),
			&riverqueue.PeriodicJobOpts{RunOnStart: true}),
		riverqueue.NewPeriodicJob(laggedSchedule{d.Schedule, s.clock, guardLag}, s.construct(d, justDue), nil),
	}
}

// construct returns a constructor that never blocks and recovers panics: River
// would let one take the process down.
func (s *Scheduler) construct(d *jobs.Definition, pick func(now time.Time) time.Time) riverqueue.PeriodicJobConstructor {
	return func() (args riverqueue.JobArgs, opts *riverqueue.InsertOpts) {
		defer func() {
			if v := recover(); v != nil {
				s.log.Error("schedule panicked", "job", d.Name, "panic", v)
				args, opts = nil, nil
			}
		}()
		tick := pick(s.clock.Estimate())
		if tick.IsZero() {
			return nil, nil
		}
		return tickRow(d, tick)
	}
}

// laggedSchedule fires lag after each tick of the database's clock.
type laggedSchedule struct {
	schedule jobs.Schedule
	clock    *dbclock.Clock
	lag      time.Duration
}

// Next implements [riverqueue.PeriodicSchedule], in the process's own time.
func (l laggedSchedule) Next(t time.Time) time.Time {
	shift := l.lag - l.clock.Offset()
	tick := l.schedule.Next(t.Add(-shift))
	if tick.IsZero() {
		return riverqueue.NeverSchedule().Next(t)
	}
	return tick.Add(shift)
}

// seederMiddleware stores what the seeder and the guard ask for, in place of the
// insertion by River, and of that only what is missing, which is nothing as a rule.
// River's insertion rewrites every row that exists already: a batch of a thousand
// would leave as many dead rows at each tick, and deadlock with the completion of
// the jobs that run just then.
type seederMiddleware struct {
	riverqueue.MiddlewareDefaults
	s      *Scheduler
	mu     sync.Mutex
	logged time.Time // that it could not store them
}

// InsertMany implements [rivertype.JobInsertMiddleware].
func (m *seederMiddleware) InsertMany(ctx context.Context, params []*rivertype.JobInsertParams, doInner func(context.Context) ([]*rivertype.JobInsertResult, error)) ([]*rivertype.JobInsertResult, error) {
	for _, p := range params {
		if _, ok := p.Args.(tickArgs); !ok {
			return doInner(ctx) // of somebody who uses the client itself
		}
	}
	// River calls this in a transaction of its own. To wait here for a second
	// connection would keep the first from those whom the second waits for.
	ctx = context.WithoutCancel(ctx)
	m.s.background.Go(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, seedTimeout)
		defer cancel()
		if err := m.store(ctx, params); err != nil && time.Since(m.logged) > seedLogged {
			m.logged = time.Now()
			m.s.log.ErrorContext(ctx, "the schedules' next ticks could not be stored; their own runs do so once they can", "error", err)
		}
	})
	return nil, nil
}

const (
	seedTimeout = 10 * time.Second
	// seedLogged is how often the log is told of it: it is tried again with each tick.
	seedLogged = time.Minute
)

func (m *seederMiddleware) store(ctx context.Context, params []*rivertype.JobInsertParams) error {
	byKey := make(map[string]tickArgs, len(params))
	keys := make([][]byte, 0, len(params))
	for _, p := range params {
		byKey[string(p.UniqueKey)] = p.Args.(tickArgs)
		keys = append(keys, p.UniqueKey)
	}
	// The condition is that of the index on the key.
	rows, err := m.s.ownPool().Query(ctx, `SELECT unique_key FROM `+m.s.table+`
		WHERE unique_key = ANY ($1) AND unique_key IS NOT NULL AND unique_states IS NOT NULL
			AND `+m.s.inBitmask+`(unique_states, state)`, keys)
	if err != nil {
		return err
	}
	var key []byte
	if _, err := pgx.ForEachRow(rows, []any{&key}, func() error {
		delete(byKey, string(key))
		return nil
	}); err != nil {
		return err
	}
	if len(byKey) == 0 {
		return nil
	}
	// Our clock may have been set since the ticks were named. What is long past is for
	// the relay and reconcile to judge.
	if err := m.s.clock.Measure(ctx); err != nil {
		return err
	}
	horizon := m.s.clock.Estimate().Add(-2 * guardReach)
	var missing []riverqueue.InsertManyParams
	for _, args := range byKey {
		d, err := m.s.reg.Job(args.Schedule)
		if err != nil {
			return err
		}
		tick, err := args.time()
		if err != nil {
			return err
		}
		if args, opts := tickRow(d, tick); tick.After(horizon) {
			missing = append(missing, riverqueue.InsertManyParams{Args: args, InsertOpts: opts})
		}
	}
	if len(missing) == 0 {
		return nil
	}
	missing, err = m.withoutStoodFor(ctx, missing)
	if err != nil || len(missing) == 0 {
		return err
	}
	return m.s.storeTicks(ctx, missing)
}

// withoutStoodFor leaves out ticks that an earlier one, which was late, has said that it stands for.
func (m *seederMiddleware) withoutStoodFor(ctx context.Context, rows []riverqueue.InsertManyParams) ([]riverqueue.InsertManyParams, error) {
	var names, ticks []string
	for _, row := range rows {
		args := row.Args.(tickArgs)
		names, ticks = append(names, args.Schedule), append(ticks, args.Tick)
	}
	open, err := m.s.ownPool().Query(ctx, `SELECT n - 1 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS missing (name, tick, n)
		WHERE NOT EXISTS (SELECT FROM unnest(enum_range(NULL::`+m.s.state+`)) AS any_state (state) CROSS JOIN LATERAL (
			SELECT metadata FROM `+m.s.table+` AS row
			WHERE `+isTick+` AND kind = name AND row.state = any_state.state AND `+tickOrder+` < tick
			ORDER BY `+tickOrder+` DESC LIMIT 1
		) AS earlier WHERE earlier.metadata->>'`+metaNext+`' COLLATE "C" > tick)
		ORDER BY n`, names, ticks)
	if err != nil {
		return nil, err
	}
	left, err := pgx.CollectRows(open, pgx.RowTo[int])
	if err != nil {
		return nil, err
	}
	for i, n := range left {
		rows[i] = rows[n]
	}
	return rows[:len(left)], nil
}

// Writer 2: the relay.

const (
	relayTries   = 3
	relayTimeout = 3 * time.Second
)

// relay stores the successor of the tick that job is a run of.
func (w *worker) relay(ctx context.Context, row *rivertype.JobRow, meta rowMeta, job *jobs.Job, log *slog.Logger) error {
	next, skipped := w.job.Successor(job.Tick, job.StartedAt)
	next, err := w.afterOthers(ctx, job, next)
	if err != nil || next.IsZero() {
		return err
	}
	for try := range relayTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(try) * 100 * time.Millisecond):
			}
		}
		if err = w.s.storeTick(ctx, w.job, next); err != nil {
			continue
		}
		if skipped == 0 || meta.Next != "" { // on time, or an attempt before has told
			return nil
		}
		if err = w.standFor(ctx, row, job, next, skipped, log); err == nil {
			return nil
		}
	}
	return err
}

// afterOthers returns the first tick from next on, of those up to now, that is not another version's
// matter: what such a version took has its successor on another schedule.
func (w *worker) afterOthers(ctx context.Context, job *jobs.Job, next time.Time) (time.Time, error) {
	if next.IsZero() || !next.Before(job.StartedAt) {
		return next, nil
	}
	stored, err := w.s.ticksBetween(ctx, w.s.ownPool(), map[string]time.Time{w.job.Name: job.Tick}, job.StartedAt)
	if err != nil {
		return next, err
	}
	others := slices.DeleteFunc(stored[w.job.Name], func(t storedTick) bool { return t.spec == w.spec })
	return firstWithout(w.job, next, others), nil
}

// standFor has a late tick's row say that it stands for those before next that have none,
// and so no run, of their own. That outlives the process.
func (w *worker) standFor(ctx context.Context, row *rivertype.JobRow, job *jobs.Job, next time.Time, skipped int, log *slog.Logger) error {
	if job.Attempt > 1 && job.StartedAt.Sub(job.Tick) > jobs.CatchUpWindow {
		return nil // rows of ticks that did run may have been removed
	}
	stored, err := w.s.ticksBetween(ctx, w.s.ownPool(), map[string]time.Time{w.job.Name: job.Tick}, next)
	if err != nil {
		return err
	}
	for _, t := range stored[w.job.Name] {
		if isTickOf(w.job, t.at) {
			skipped--
		}
	}
	if skipped <= 0 {
		return nil
	}
	_, err = w.s.ownPool().Exec(ctx, `UPDATE `+w.s.table+`
		SET metadata = metadata || jsonb_build_object('`+metaMissed+`', $2::int, '`+metaNext+`', $3::text) WHERE id = $1`,
		row.ID, skipped, formatTick(next))
	if err == nil {
		log.WarnContext(ctx, "late run: later ticks have passed too and get no run of their own",
			"tick", job.Tick, "ticks_skipped", skipped, "next_tick", next)
	}
	return err
}

// storedTick is a tick that has a row. PostgreSQL's own timestamps would round its instant.
type storedTick struct {
	at   time.Time
	spec string    // see specOf
	next time.Time // up to which it stands for those after it, if it was late
}

// tickColumns are what eachTick reads.
const tickColumns = `kind, args->>'tick', coalesce(args->>'spec', ''), coalesce(metadata->>'` + metaNext + `', '')`

func eachTick(rows pgx.Rows, err error, f func(name string, tick storedTick)) error {
	if err != nil {
		return err
	}
	var name, at, spec, next string
	_, err = pgx.ForEachRow(rows, []any{&name, &at, &spec, &next}, func() (err error) {
		tick := storedTick{spec: spec}
		if tick.at, err = parseTick(at); err == nil && next != "" {
			tick.next, err = parseTick(next)
		}
		if err == nil {
			f(name, tick)
		}
		return err
	})
	return err
}

// ticksBetween returns the ticks that have a row, after an instant of each job's and before another,
// whoever stored them: the schedule of another version may have some instants in common.
func (s *Scheduler) ticksBetween(ctx context.Context, db jobs.DB, after map[string]time.Time, before time.Time) (map[string][]storedTick, error) {
	var names, ticks []string
	for name, tick := range after {
		names, ticks = append(names, name), append(ticks, formatTick(tick))
	}
	// OFFSET 0 has it use the index for each of them, rather than read the table.
	rows, err := db.Query(ctx, `SELECT later.* FROM unnest($1::text[], $2::text[]) AS since (name, at), LATERAL (
			SELECT `+tickColumns+` FROM `+s.table+` AS row
			WHERE `+isTick+` AND kind = name AND row.`+s.inAnyState()+` AND `+tickOrder+` > at AND `+tickOrder+` < $3 OFFSET 0
		) AS later`,
		names, ticks, formatTick(before))
	stored := map[string][]storedTick{}
	return stored, eachTick(rows, err, func(name string, tick storedTick) { stored[name] = append(stored[name], tick) })
}

// inAnyState has PostgreSQL look into each part of the index of ticks, in which the state comes
// before the instant.
func (s *Scheduler) inAnyState() string { return `state = ANY (enum_range(NULL::` + s.state + `))` }

// isTickOf tells whether the instant is one of the job's schedule.
func isTickOf(d *jobs.Definition, at time.Time) bool {
	return d.Schedule != nil && d.Schedule.Next(at.Add(-time.Nanosecond)).Equal(at)
}

// storeTick stores one tick, in one statement with those of other runs that start
// now: thousands of schedules due in one second would else need as many commits.
func (s *Scheduler) storeTick(ctx context.Context, d *jobs.Definition, tick time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	args, opts := tickRow(d, tick)
	return s.ticks.Do(ctx, riverqueue.InsertManyParams{Args: args, InsertOpts: opts})
}

// storeTicks stores them in one statement. Nobody is told: they lie in the future.
func (s *Scheduler) storeTicks(ctx context.Context, rows []riverqueue.InsertManyParams) error {
	rows = slices.Clone(rows)
	sortTicks(rows)
	// PostgreSQL refuses a statement that names a unique key twice.
	rows = slices.CompactFunc(rows, func(a, b riverqueue.InsertManyParams) bool { return a.Args == b.Args })
	return pgx.BeginFunc(ctx, s.ownPool(), func(tx pgx.Tx) error {
		_, err := s.insertOnly.InsertManyTx(ctx, tx, rows)
		return err
	})
}

// tickHook makes ticks available at once: they wait for no leader.
type tickHook struct{ riverqueue.HookDefaults }

// InsertBegin implements [rivertype.HookInsertBegin].
func (*tickHook) InsertBegin(_ context.Context, p *rivertype.JobInsertParams) error {
	if _, tick := p.Args.(tickArgs); tick {
		p.State = rivertype.JobStateAvailable
	}
	return nil
}

// sortTicks puts rows in one order, so that two insertions cannot deadlock.
func sortTicks(rows []riverqueue.InsertManyParams) {
	slices.SortFunc(rows, func(a, b riverqueue.InsertManyParams) int {
		x, y := a.Args.(tickArgs), b.Args.(tickArgs)
		return cmp.Or(strings.Compare(x.Schedule, y.Schedule), strings.Compare(x.Tick, y.Tick), strings.Compare(x.Spec, y.Spec))
	})
}

// Writer 3: reconcile.

const (
	reconcileTimeout = 10 * time.Second
	reconcileIdle    = 5 * time.Second // of the database, waiting for the next statement
	orphanAge        = 7 * 24 * time.Hour
)

// leaderHook reconciles when this process becomes leader.
type leaderHook struct {
	riverqueue.HookDefaults
	s *Scheduler
}

// Start implements [rivertype.HookPeriodicJobsStart]. It never returns an error:
// River would then do without all of its maintenance.
func (h *leaderHook) Start(parent context.Context, _ *rivertype.HookPeriodicJobsStartParams) error {
	ctx, cancel := context.WithTimeout(parent, reconcileTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			h.s.log.ErrorContext(ctx, "reconciling schedules panicked", "panic", v)
		}
	}()
	h.s.ledSince.Store(h.s.clock.Estimate().UnixNano())
	if err := h.s.reconcile(ctx, true); err != nil && parent.Err() == nil {
		h.s.log.ErrorContext(ctx, "schedules could not be reconciled; their own runs go on", "error", err)
	}
	h.s.background.Go(func() { h.s.watchDue(parent) })
	return nil
}

// reconcile brings the stored ticks in line with the registered schedules. It is
// idempotent. orphans says to remove the overdue ticks of jobs nobody registers.
func (s *Scheduler) reconcile(ctx context.Context, orphans bool) error {
	if err := s.clock.Measure(ctx); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := pgx.BeginTxFunc(ctx, s.ownPool(), readCommitted, func(tx pgx.Tx) error { return s.reconcileTx(ctx, tx, orphans) })
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			if err := s.analyzeGrown(ctx); err != nil {
				s.log.WarnContext(ctx, "queries may be slow", "error", err) // and nothing else
			}
			return nil
		case try < 3 && errors.As(err, &pgErr) && pgErr.Code == "40P01":
			// Deadlock: somebody else inserts the same keys.
		default:
			return err
		}
	}
}

func (s *Scheduler) reconcileTx(ctx context.Context, tx pgx.Tx, orphans bool) error {
	now, err := s.lockTicks(ctx, tx)
	if err != nil {
		return err
	}
	all := s.reg.Jobs()
	names := namesOf(all)
	// Ticks to come that an older registration stored.
	changed := map[string]bool{}
	rows, err := tx.Query(ctx, `DELETE FROM `+s.table+` AS row
		USING unnest($1::text[], $2::text[]) AS current (name, spec)
		WHERE kind = name AND state IN ('available', 'scheduled')
			AND `+isTick+` AND `+tickTime+` > $3 AND row.args->>'spec' <> current.spec
		RETURNING `+tickColumns, names, specsOf(all), now)
	if err := eachTick(rows, err, func(name string, _ storedTick) { changed[name] = true }); err != nil {
		return fmt.Errorf("removing ticks of changed schedules: %w", err)
	}
	schedules := s.schedules()
	waiting, err := s.waitingTicks(ctx, tx, schedules)
	if err != nil {
		return err
	}
	if err := s.fill(ctx, tx, now, schedules, waiting, changed); err != nil || !orphans {
		return err
	}
	return s.removeOrphans(ctx, tx, names)
}

// readCommitted is for transactions that wait for a lock: in another isolation they would not
// see what those who had it before have done.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// lockTicks makes processes that mend the same schedules do so one after the other. It returns the
// database's time once it has the lock: every decision in tx is as of then. With two instants, a tick
// between them is removed as one to come by the first, and its successor is computed from the second.
func (s *Scheduler) lockTicks(ctx context.Context, tx pgx.Tx) (now time.Time, err error) {
	// A process that dies here without a word, its connection half-open, must not hold
	// the lock until TCP gives up, which takes hours.
	if _, err := tx.Exec(ctx, `SELECT set_config('idle_in_transaction_session_timeout', $1, true)`,
		strconv.FormatInt(reconcileIdle.Milliseconds(), 10)); err != nil {
		return now, err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('everytick reconcile ' || $1, 0))`, s.cfg.Schema); err != nil {
		return now, err
	}
	err = tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now.UTC(), err
}

// schedules returns the jobs that have one.
func (s *Scheduler) schedules() []*jobs.Definition {
	return slices.DeleteFunc(s.reg.Jobs(), func(d *jobs.Definition) bool { return d.Schedule == nil })
}

// fill stores the next tick of each schedule, and one that was missed. Those that changed
// have just had another version's ticks removed.
func (s *Scheduler) fill(ctx context.Context, tx pgx.Tx, now time.Time, schedules []*jobs.Definition, waiting map[string][]storedTick, changed map[string]bool) error {
	missed, err := s.missedTicks(ctx, tx, now, schedules, waiting, changed)
	if err != nil {
		return fmt.Errorf("looking for missed ticks: %w", err)
	}
	for name, tick := range missed {
		s.log.WarnContext(ctx, "a missed tick is made up", "job", name, "tick", tick)
	}
	var rows []riverqueue.InsertManyParams
	for _, d := range schedules {
		for _, tick := range []time.Time{missed[d.Name], d.Schedule.Next(now)} {
			if args, opts := tickRow(d, tick); !tick.IsZero() &&
				!slices.ContainsFunc(waiting[d.Name], func(t storedTick) bool { return t.at.Equal(tick) }) {
				rows = append(rows, riverqueue.InsertManyParams{Args: args, InsertOpts: opts})
			}
		}
	}
	if len(rows) > 0 {
		if _, err := s.insertOnly.InsertManyTx(ctx, tx, rows); err != nil {
			return fmt.Errorf("storing the next ticks: %w", err)
		}
	}
	return nil
}

// keepInterval is how often a process looks after its own jobs.
const keepInterval = 2 * time.Second

// keep looks after the jobs of this process until ctx ends, whoever leads: a leader of
// another service knows nothing of them, and when the chain of a schedule has broken, by
// a deleted row or a process that died, nobody else would mend it.
func (s *Scheduler) keep(ctx context.Context) {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	last := time.Now()
	// What processes of before have left.
	steps := []func(context.Context) error{s.refreshPauses, func(ctx context.Context) error { return s.rehome(ctx, true) }}
	for {
		for _, step := range steps { // each has its own time
			bounded, cancel := context.WithTimeout(ctx, reconcileTimeout)
			if err := step(bounded); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "jobs could not be looked after", "error", err)
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// The statistics come first: with poor ones the others may take long.
		steps = []func(context.Context) error{s.analyzeGrown, s.mend, s.refreshPauses}
		if time.Since(last) >= s.rescueInterval() {
			steps = append(steps, s.rescue, func(ctx context.Context) error { return s.rehome(ctx, false) })
			last = time.Now()
		}
	}
}

// mend fills the schedules that lack a tick.
func (s *Scheduler) mend(ctx context.Context) error {
	var found []*jobs.Definition
	err := s.ownPool().AcquireFunc(ctx, func(conn *pgxpool.Conn) (err error) {
		found, err = s.broken(ctx, conn, time.Time{})
		return err
	})
	if err != nil || len(found) == 0 {
		return err
	}
	return pgx.BeginTxFunc(ctx, s.ownPool(), readCommitted, func(tx pgx.Tx) error {
		now, err := s.lockTicks(ctx, tx)
		if err != nil {
			return err
		}
		found, err := s.broken(ctx, tx, now) // by now somebody else may have mended them
		if err != nil || len(found) == 0 {
			return err
		}
		// Of a tick that is being started only the next one can be told; its own run says
		// which of those in between are due a run.
		waiting, err := s.waitingTicks(ctx, tx, found)
		if err != nil {
			return err
		}
		return s.fill(ctx, tx, now, found, waiting, nil)
	})
}

// broken returns the schedules that lack a tick: those of which none waits, unless it was cancelled: its
// successor is stored when it was due. Ticks that another version stored, which may run beside
// this one and have another schedule, count where this one's are among them. It asks for the time if now is zero.
func (s *Scheduler) broken(ctx context.Context, db jobs.DB, now time.Time) ([]*jobs.Definition, error) {
	schedules := s.schedules()
	if len(schedules) == 0 {
		return nil, nil
	}
	rows, err := db.Query(ctx, `SELECT name FROM unnest($1::text[], $2::text[]) AS own (name, spec)
		WHERE NOT EXISTS (SELECT FROM `+s.table+` WHERE `+isTick+` AND kind = name AND args->>'spec' = spec AND state IN ('available', 'scheduled'))`,
		namesOf(schedules), specsOf(schedules))
	idle, err := s.collect(rows, err)
	if err != nil || len(idle) == 0 {
		return nil, err
	}
	if now.IsZero() {
		// Our clock may have been set since it was measured, and name ticks long past.
		if err := s.clock.Measure(ctx); err != nil {
			return nil, err
		}
		now = s.clock.Estimate()
	}
	waiting, err := s.waitingTicks(ctx, db, idle)
	if err != nil {
		return nil, err
	}
	missed, err := s.missedTicks(ctx, db, now, idle, waiting, nil)
	if err != nil {
		return nil, err
	}
	var names, specs, ticks []string
	for _, d := range idle {
		tick := missed[d.Name]
		if tick.IsZero() {
			tick = d.Schedule.Next(now)
		}
		if !tick.IsZero() {
			names, specs, ticks = append(names, d.Name), append(specs, specOf(d)), append(ticks, formatTick(tick))
		}
	}
	rows, err = db.Query(ctx, `SELECT name FROM unnest($1::text[], $2::text[], $3::text[]) AS own (name, spec, tick)
		WHERE NOT EXISTS (SELECT FROM `+s.table+` AS row WHERE `+isTick+` AND kind = name AND row.`+s.inAnyState()+` AND `+tickOrder+` = tick)
			AND NOT EXISTS (SELECT FROM `+s.table+` WHERE `+isTick+` AND kind = name AND args->>'spec' = spec AND state = 'cancelled' AND `+tickOrder+` > $4)`,
		names, specs, ticks, formatTick(now))
	return s.collect(rows, err)
}

// collect reads rows of the names of schedules.
func (s *Scheduler) collect(rows pgx.Rows, err error) ([]*jobs.Definition, error) {
	var found []*jobs.Definition
	if err == nil {
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*jobs.Definition, error) {
			var name string
			if err := row.Scan(&name); err != nil {
				return nil, err
			}
			return s.reg.Job(name)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("looking for schedules without a tick: %w", err)
	}
	return found, nil
}

// specsOf returns those of jobs, "" where there is no schedule.
func specsOf(defs []*jobs.Definition) []string {
	specs := make([]string, len(defs))
	for i, d := range defs {
		if d.Schedule != nil {
			specs[i] = specOf(d)
		}
	}
	return specs
}

func namesOf(defs []*jobs.Definition) []string {
	names := make([]string, len(defs))
	for i, d := range defs {
		names[i] = d.Name
	}
	return names
}

// waitingTicks returns the stored ticks of each schedule that have not been started,
// or so lately that their runs may be about to store the successor.
func (s *Scheduler) waitingTicks(ctx context.Context, db jobs.DB, schedules []*jobs.Definition) (map[string][]storedTick, error) {
	rows, err := db.Query(ctx, `SELECT `+tickColumns+` FROM `+s.table+`
		WHERE `+isTick+` AND kind = ANY ($1) AND state IN ('available', 'scheduled', 'running')
			AND (state <> 'running' OR attempted_at > now() - $2::float8 * interval '1 second')`, namesOf(schedules), (relayTries * relayTimeout).Seconds())
	waiting := map[string][]storedTick{}
	if err := eachTick(rows, err, func(name string, tick storedTick) { waiting[name] = append(waiting[name], tick) }); err != nil {
		return nil, fmt.Errorf("looking for stored ticks: %w", err)
	}
	return waiting, nil
}

// missedTicks returns, for each schedule of which no tick waits that this version stored, the first tick that
// should have run since the last one that did. That happens when a process died
// between taking a tick and storing its successor, somebody deleted the row, or a process
// of another version took or removed the tick, which knows another schedule.
//
// A changed schedule makes up nothing of the time before: where no tick has this spec there is
// none, and where those of another version are later, none from before this process started.
func (s *Scheduler) missedTicks(ctx context.Context, db jobs.DB, now time.Time, schedules []*jobs.Definition, waiting map[string][]storedTick, changed map[string]bool) (map[string]time.Time, error) {
	idle, specs := map[string]*jobs.Definition{}, map[string]string{}
	for _, d := range schedules {
		spec := specOf(d)
		if !slices.ContainsFunc(waiting[d.Name], func(t storedTick) bool { return t.spec == spec }) {
			idle[d.Name], specs[d.Name] = d, spec
		}
	}
	rows, err := db.Query(ctx, `SELECT name, max(tick), spec, ''
		FROM unnest($1::text[], $2::text[]) AS idle (name, spec), unnest(enum_range(NULL::`+s.state+`)) AS each (state), LATERAL (
			SELECT `+tickOrder+` AS tick FROM `+s.table+` AS row
			WHERE `+isTick+` AND kind = name AND row.state = each.state AND args->>'spec' = spec ORDER BY `+tickOrder+` DESC LIMIT 1
		) AS latest GROUP BY name, spec`, slices.Collect(maps.Keys(specs)), slices.Collect(maps.Values(specs)))
	last, after := map[string]time.Time{}, map[string]time.Time{} // among those after is the last
	if err := eachTick(rows, err, func(name string, tick storedTick) {
		if next := idle[name].Schedule.Next(tick.at); !next.IsZero() && !next.After(now) {
			last[name], after[name] = tick.at, tick.at.Add(-1)
		}
	}); err != nil || len(last) == 0 {
		return nil, err
	}
	stored, err := s.ticksBetween(ctx, db, after, now.Add(time.Second))
	if err != nil {
		return nil, err
	}
	since := time.Unix(0, s.watchedSince.Load()).UTC()
	missed := map[string]time.Time{}
	for name, last := range last {
		d := idle[name]
		ofAnother := func(t storedTick) bool { return t.spec != specs[name] }
		if last.Before(since) && (changed[name] || len(waiting[name]) > 0 || slices.ContainsFunc(stored[name], ofAnother)) {
			last = since
		}
		tick := d.Schedule.Next(last)
		if horizon := now.Add(-jobs.CatchUpWindow); tick.Before(horizon) {
			if d.CatchUp != jobs.All {
				continue
			}
			tick = d.Schedule.Next(horizon)
		}
		tick = firstWithout(d, tick, stored[name])
		// The run of one before it tells which of the later ones it stands for.
		tells := func(t storedTick) bool { return isTickOf(d, t.at) && t.at.Before(tick) }
		if !tick.IsZero() && !tick.After(now) && !slices.ContainsFunc(waiting[name], tells) {
			missed[name] = tick
		}
	}
	return missed, nil
}

// firstWithout returns the first tick of a schedule, from one on, that has no row and no late run
// that stands for it.
func firstWithout(d *jobs.Definition, tick time.Time, stored []storedTick) time.Time {
	slices.SortFunc(stored, func(a, b storedTick) int { return a.at.Compare(b.at) })
	var stoodFor time.Time
	for ; !tick.IsZero(); tick = d.Schedule.Next(tick) {
		for len(stored) > 0 && stored[0].at.Before(tick) {
			if stored[0].next.After(stoodFor) {
				stoodFor = stored[0].next
			}
			stored = stored[1:]
		}
		if (len(stored) == 0 || !stored[0].at.Equal(tick)) && !stoodFor.After(tick) {
			break
		}
	}
	return tick
}

// removeOrphans deletes ticks that have been due for a week and that no process
// took: their job was removed or renamed.
func (s *Scheduler) removeOrphans(ctx context.Context, tx pgx.Tx, registered []string) error {
	rows, err := tx.Query(ctx, `DELETE FROM `+s.table+`
		WHERE `+isTick+` AND state IN ('available', 'scheduled') AND kind <> ALL ($1)
			AND scheduled_at < now() - $2::float8 * interval '1 second'
		RETURNING kind`, registered, orphanAge.Seconds())
	if err != nil {
		return fmt.Errorf("removing orphaned ticks: %w", err)
	}
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name}, func() error {
		s.log.WarnContext(ctx, "a tick of a job that nobody registers was due a week ago and is removed", "job", name)
		return nil
	})
	return err
}
