package river

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/jobs"
)

// Conditions. isTick is that of the index of ticks, which a query must repeat as it
// stands, without a parameter, or PostgreSQL does not use the index.
const (
	// Every tick has a unique key, and few other rows do: that is quicker to tell than
	// what is in the metadata, and is told of every row that is written.
	isTick    = `unique_key IS NOT NULL AND metadata ? '` + metaTick + `'`
	isWaiting = `state IN ('available', 'scheduled', 'retryable', 'pending')`
	// isNextTick is of those that do not wait: a schedule's next one, before it is due.
	isNextTick = isTick + ` AND ` + isWaiting + ` AND ` + tickTime + ` > now() AND attempt = 0`
	// isHeld is of what does wait, though River runs it.
	isHeld    = `state = 'running' AND metadata ? '` + metaHeld + `' AND errors IS NULL`
	tickTime  = `(args->>'tick')::timestamptz`
	tickOrder = `(args->>'tick') COLLATE "C"`
)

// QueueSize implements [jobs.Monitor].
func (s *Scheduler) QueueSize(ctx context.Context, name string) (n int, err error) {
	if _, err := s.definition(name); err != nil {
		return 0, err
	}
	err = s.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM `+s.table+` WHERE kind = $1 AND `+isWaiting+`)
		+ (SELECT count(*) FROM `+s.table+` WHERE kind = $1 AND `+isTick+` AND `+isHeld+`)
		- (SELECT count(*) FROM `+s.table+` WHERE kind = $1 AND `+isNextTick+`)`, name).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("river: queue size of %q: %w", name, err)
	}
	return n, nil
}

// missingAfter is how long the row of a schedule's next tick may be missing before
// the schedule is called overdue: a tick that is just starting stores it first.
const missingAfter = 2 * time.Second

// Jobs implements [jobs.Monitor].
func (s *Scheduler) Jobs(ctx context.Context) ([]jobs.Status, error) {
	all, err := s.statuses(ctx)
	if err == nil {
		err = s.countLive(ctx, all)
	}
	if err != nil {
		return nil, fmt.Errorf("river: status of jobs: %w", err)
	}
	return all, nil
}

// statuses returns the status of every job, without the counts of what is live.
func (s *Scheduler) statuses(ctx context.Context) ([]jobs.Status, error) {
	now, err := s.clock.Now(ctx, nil)
	if err != nil {
		return nil, err
	}
	paused, err := s.readPauses(ctx)
	if err != nil {
		return nil, err
	}
	defs := s.reg.Jobs()
	all := make([]jobs.Status, len(defs))
	byName := make(map[string]*jobs.Status, len(defs))
	var scheduled []string
	for i, d := range defs {
		all[i].Name, all[i].PausedSince = d.Name, paused[d.Name]
		all[i].Schedule, all[i].Zone = d.Describe()
		if d.Schedule != nil {
			byName[d.Name], scheduled = &all[i], append(scheduled, d.Name)
		}
	}
	if len(scheduled) == 0 {
		return all, nil
	}
	if err := s.findNext(ctx, scheduled, byName); err != nil {
		return nil, err
	}
	if err := s.findPrevious(ctx, scheduled, byName); err != nil {
		return nil, err
	}
	cancelled, err := s.cancelledTicks(ctx, scheduled)
	if err != nil {
		return nil, err
	}
	for _, d := range defs {
		if d.Schedule == nil {
			continue
		}
		st := byName[d.Name]
		s.judge(d, st, now, cancelled[d.Name])
		st.Upcoming = d.Upcoming(st.NextTick)
	}
	return all, nil
}

// judge tells whether a schedule's next tick is overdue, and finds it where it has no
// row. cancelled is the latest tick that was cancelled before it started.
func (s *Scheduler) judge(d *jobs.Definition, st *jobs.Status, now, cancelled time.Time) {
	if !st.NextTick.IsZero() {
		if st.OverdueBy = max(0, now.Sub(st.NextTick)); st.OverdueBy > 0 {
			st.OverdueReason = s.overdueReason(d, st)
		}
		return
	}
	// The row should have been there since the last tick, or our start.
	since := st.PrevTick
	if cancelled.After(since) { // the seeder stores its successor once it was due
		since = cancelled
	}
	st.NextTick = d.Schedule.Next(now)
	if since.After(now) {
		st.NextTick = d.Schedule.Next(since)
	}
	if since.IsZero() && s.started.Load() {
		since = time.Unix(0, s.startedAt.Load())
	}
	if late := now.Sub(since); !since.IsZero() && late > missingAfter {
		st.OverdueBy = late
		st.OverdueReason = "its next tick is not stored: a process that registers it mends that within seconds, and none seems to run"
	}
}

// startsWithin is how long after it was due a tick starts where a worker is free: at a poll at the latest.
const startsWithin = 2 * time.Second

// overdueReason tells what keeps a tick that is due, as far as this process knows.
func (s *Scheduler) overdueReason(d *jobs.Definition, st *jobs.Status) string {
	var w *worker
	if all := s.workers.Load(); all != nil && s.started.Load() {
		w = (*all)[d.Name]
	}
	if w == nil {
		return "this scheduler is " + s.notRunning() + ", and no other process has taken it: none that registers it runs, or all are busy"
	}
	switch {
	case d.CatchUp == jobs.All && st.PrevState == jobs.StateRunning:
		return "the run of the tick before it goes on"
	case w.slots.allTaken() && d.Concurrency > 0:
		return fmt.Sprintf("all worker slots of the job are taken, %d in this process, and no other process has one free", w.slots.n)
	case w.slots.allTaken():
		return fmt.Sprintf("all workers are taken, %d in this process, and no other process has one free", w.slots.n)
	case st.OverdueBy < startsWithin:
		return "it is about to start"
	default:
		return "it is not taken, though workers of this process are free: the log may tell why"
	}
}

// notRunning tells why a scheduler that is not started is not.
func (s *Scheduler) notRunning() string {
	if s.ending.Load() {
		return "being shut down"
	}
	return "not started"
}

// findNext fills in the next tick that has a row.
func (s *Scheduler) findNext(ctx context.Context, names []string, byName map[string]*jobs.Status) error {
	rows, err := s.pool.Query(ctx, `SELECT kind, min(`+tickTime+`) FROM `+s.table+`
		WHERE `+isTick+` AND kind = ANY ($1) AND (state IN ('available', 'scheduled') AND attempt = 0 OR `+isHeld+`) GROUP BY kind`, names)
	return eachTime(rows, err, func(name string, tick time.Time) { byName[name].NextTick = tick })
}

// findPrevious fills in the latest tick that was started.
func (s *Scheduler) findPrevious(ctx context.Context, names []string, byName map[string]*jobs.Status) error {
	rows, err := s.pool.Query(ctx, `
		SELECT name, `+tickTime+`, `+stateSQL+`, coalesce((metadata->>'everytick_missed')::int, 0)
		FROM unnest($1::text[]) AS name, LATERAL (
			SELECT latest.* FROM unnest(enum_range(NULL::`+s.state+`)) AS each (state), LATERAL (
				SELECT args, state, metadata, errors, scheduled_at FROM `+s.table+`
				WHERE `+isTick+` AND kind = name AND state = each.state AND attempt > 0 AND NOT (`+isHeld+`)
				ORDER BY `+tickOrder+` DESC LIMIT 1
			) AS latest ORDER BY `+tickOrder+` DESC LIMIT 1
		) AS latest`, names)
	if err != nil {
		return err
	}
	var (
		name   string
		tick   time.Time
		state  jobs.State
		missed int
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &tick, &state, &missed}, func() error {
		st := byName[name]
		st.PrevTick, st.PrevState, st.Missed = tick.UTC(), state, missed
		return nil
	})
	return err
}

// cancelledTicks returns the latest tick of each schedule that somebody cancelled before
// it was started.
func (s *Scheduler) cancelledTicks(ctx context.Context, names []string) (map[string]time.Time, error) {
	rows, err := s.pool.Query(ctx, `SELECT kind, max(`+tickTime+`) FROM `+s.table+`
		WHERE `+isTick+` AND kind = ANY ($1) AND state = 'cancelled' AND attempt = 0 GROUP BY kind`, names)
	ticks := map[string]time.Time{}
	return ticks, eachTime(rows, err, func(name string, tick time.Time) { ticks[name] = tick })
}

// eachTime reads rows of a name and a time.
func eachTime(rows pgx.Rows, err error, f func(name string, at time.Time)) error {
	if err != nil {
		return err
	}
	var (
		name string
		at   time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &at}, func() error {
		f(name, at.UTC())
		return nil
	})
	return err
}

// countLive fills in what is waiting, to be retried or running.
func (s *Scheduler) countLive(ctx context.Context, all []jobs.Status) error {
	names := make([]string, len(all))
	byName := make(map[string]*jobs.Status, len(all))
	for i := range all {
		names[i], byName[all[i].Name] = all[i].Name, &all[i]
	}
	rows, err := s.pool.Query(ctx, `
		SELECT kind, count(*), count(*) FILTER (WHERE attempt > 0), 0 FROM `+s.table+`
		WHERE kind = ANY ($1) AND `+isWaiting+` GROUP BY kind
		UNION ALL
		SELECT kind, -count(*), 0, 0 FROM `+s.table+` WHERE kind = ANY ($1) AND `+isNextTick+` GROUP BY kind
		UNION ALL
		SELECT kind, count(*), 0, -count(*) FROM `+s.table+` WHERE `+isTick+` AND kind = ANY ($1) AND `+isHeld+` GROUP BY kind
		UNION ALL
		SELECT kind, 0, 0, count(*) FROM `+s.table+` WHERE kind = ANY ($1) AND state = 'running' GROUP BY kind`, names)
	if err != nil {
		return err
	}
	var (
		name                       string
		waiting, retrying, running int
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &waiting, &retrying, &running}, func() error {
		st := byName[name]
		st.Waiting, st.Retrying, st.Running = st.Waiting+waiting, st.Retrying+retrying, st.Running+running
		return nil
	})
	return err
}

// healthTimeout bounds how long Health waits for the database.
const healthTimeout = 5 * time.Second

// leaderGrace is how long after a start there may be no leader: an election takes
// 5 seconds, after a crash 15.
const leaderGrace = 30 * time.Second

// Health implements [jobs.Monitor]. It waits 5 seconds at most for the database, and
// counts up to 500 jobs of each of River's states.
func (s *Scheduler) Health(ctx context.Context) (jobs.Health, error) {
	h := jobs.Health{Started: s.started.Load()}
	bounded, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := s.examine(bounded, &h); isMissing(err) {
		s.migrated.Store(false)
		h.Reasons = append(h.Reasons, s.notMigrated())
	} else if err != nil {
		if ctx.Err() != nil {
			return jobs.Health{}, ctx.Err()
		}
		reason := "the database does not answer: "
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && !strings.HasPrefix(pgErr.Code, "57") { // those are about its start and end
			reason = "the database answers with an error: "
		}
		if pool := s.pool.Stat(); pool.AcquiredConns() == pool.MaxConns() {
			reason += fmt.Sprintf("all %d connections of the pool are in use: ", pool.MaxConns())
		}
		h.Reasons = append([]string{reason + err.Error()}, h.Reasons...)
	}
	if !h.Started && !s.cfg.TriggerOnly {
		h.Reasons = append(h.Reasons, "the scheduler is "+s.notRunning())
	}
	h.Healthy = len(h.Reasons) == 0
	return h, nil
}

func (s *Scheduler) examine(ctx context.Context, h *jobs.Health) error {
	reason, err := s.checkMigrated(ctx)
	if err != nil {
		return err
	}
	if reason != "" {
		h.Reasons = append(h.Reasons, reason)
		return nil
	}
	var readOnly bool
	if err := s.pool.QueryRow(ctx, `SELECT current_setting('transaction_read_only')::bool`).Scan(&readOnly); err != nil {
		return err
	}
	leader := false
	if readOnly { // a standby cannot tell who leads
		h.Reasons = append(h.Reasons, "the database is read-only: no job can be stored, started or ended")
	} else if err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+s.leader+` WHERE expires_at > now())`).Scan(&leader); err != nil {
		return err
	}
	if h.OldestWaiting, err = s.oldestWaiting(ctx); err != nil {
		return err
	}
	running := h.Started && s.working.Load() != nil
	if running && !leader && !readOnly && time.Since(time.Unix(0, s.startedAt.Load())) > leaderGrace {
		h.Reasons = append(h.Reasons, "no process leads: delayed jobs, retries and schedules wait for an election")
	}
	if err := s.countTotals(ctx, h); err != nil {
		return err
	}
	statuses, err := s.statuses(ctx)
	if err != nil {
		return err
	}
	for _, st := range statuses {
		if st.NextTick.Before(s.clock.Estimate()) { // it waits, though River may look at it, or be about to
			h.OldestWaiting = max(h.OldestWaiting, st.OverdueBy)
		}
	}
	h.Reasons = append(h.Reasons, jobs.OverdueReasons(statuses)...)
	return nil
}

// queuesSQL lists the queues that have rows of these of River's states, in a few probes
// of the index that River fetches by, however many rows there are.
func (s *Scheduler) queuesSQL(states ...string) string {
	first := func(condition string) string {
		return `(SELECT queue FROM ` + s.table + ` AS row WHERE row.state = ` + condition + ` ORDER BY queue LIMIT 1)`
	}
	return `WITH RECURSIVE used (state, queue) AS (
		SELECT state, ` + first(`each.state`) + ` FROM unnest('{` + strings.Join(states, ",") + `}'::` + s.state + `[]) AS each (state)
		UNION ALL
		SELECT state, ` + first(`used.state AND row.queue > used.queue`) + ` FROM used WHERE queue IS NOT NULL
	) `
}

// oldestWaiting tells how long the job that waits longest has been due, ticks left out that were
// not started: those of a job that nobody registers any more never are.
func (s *Scheduler) oldestWaiting(ctx context.Context) (time.Duration, error) {
	var seconds float64
	err := s.pool.QueryRow(ctx, s.queuesSQL("available")+`
		SELECT coalesce(extract(epoch FROM now() - min(scheduled_at)), 0)::float8
		FROM used, generate_series(1, 4) AS each (priority), LATERAL (
			SELECT scheduled_at FROM `+s.table+`
			WHERE state = 'available' AND queue = used.queue AND priority = each.priority AND NOT (`+isTick+` AND attempt = 0)
			ORDER BY scheduled_at LIMIT 1
		) AS first
		WHERE used.queue <> $1 AND scheduled_at <= now()`, pausedQueue).Scan(&seconds)
	return time.Duration(seconds * float64(time.Second)), err
}

// countedRows bounds what Health counts of each of River's states.
const countedRows = 500

// counted are River's states, each with the states of ours that its rows may have by
// stateSQL. Where that is one, the rows need not be looked into.
var counted = []struct {
	state string
	ours  []jobs.State
}{
	{"completed", []jobs.State{jobs.StateCompleted}},
	{"discarded", []jobs.State{jobs.StateFailed}},
	{"running", []jobs.State{jobs.StateRunning, jobs.StateWaiting}},
	{"retryable", []jobs.State{jobs.StateRetrying}},
	{"pending", []jobs.State{jobs.StateScheduled}},
	{"available", []jobs.State{jobs.StateWaiting, jobs.StateRetrying, jobs.StateScheduled}},
	{"scheduled", []jobs.State{jobs.StateScheduled, jobs.StateRetrying}},
	{"cancelled", []jobs.State{jobs.StateCancelled, jobs.StateFailed, jobs.StateSkipped}},
}

func (s *Scheduler) countTotals(ctx context.Context, h *jobs.Health) error {
	parts := make([]string, len(counted))
	for i, c := range counted {
		columns, ours, group := "", "'"+string(c.ours[0])+"'", "HAVING count(*) > 0"
		if len(c.ours) > 1 {
			columns, ours, group = stateSQL+" AS ours", "ours", "GROUP BY ours"
		}
		// The order makes PostgreSQL take the index, which has the state first: it cannot know
		// that the rows of a state may all lie at the end of the table.
		parts[i] = `SELECT ` + strconv.Itoa(i) + `, ` + ours + `, count(*) FROM (
			SELECT ` + columns + ` FROM ` + s.table + ` WHERE state = '` + c.state + `'
			ORDER BY state, queue, priority, scheduled_at, id LIMIT ` + strconv.Itoa(countedRows) + `) AS first ` + group
	}
	rows, err := s.pool.Query(ctx, strings.Join(parts, " UNION ALL "))
	if err != nil {
		return err
	}
	h.Totals = map[jobs.State]int{}
	totals := make([]int, len(counted))
	var (
		i, n  int
		state jobs.State
	)
	_, err = pgx.ForEachRow(rows, []any{&i, &state, &n}, func() error {
		h.Totals[state] += n
		totals[i] += n
		return nil
	})
	for i, c := range counted {
		if totals[i] == countedRows {
			h.AtLeast = append(h.AtLeast, c.ours...)
		}
	}
	slices.Sort(h.AtLeast)
	h.AtLeast = slices.Compact(h.AtLeast)
	return err
}
