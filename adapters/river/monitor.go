package river

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/jobs"
)

// waiting is the SQL condition of what [jobs.Monitor.QueueSize] counts, $1 being
// metaTick: a tick that has never been tried does not wait before it is due.
const waiting = `state IN ('available', 'scheduled', 'retryable', 'pending')
	AND NOT (scheduled_at > now() AND attempt = 0 AND metadata ? $1)`

// QueueSize implements [jobs.Monitor].
func (s *Scheduler) QueueSize(ctx context.Context, name string) (n int, err error) {
	if _, err := s.definition(name); err != nil {
		return 0, err
	}
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM `+s.table+` WHERE kind = $2 AND `+waiting, metaTick, name).Scan(&n)
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
	if err != nil {
		return nil, fmt.Errorf("river: status of jobs: %w", err)
	}
	return all, nil
}

func (s *Scheduler) statuses(ctx context.Context) ([]jobs.Status, error) {
	now, err := s.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	defs := s.reg.Jobs()
	all := make([]jobs.Status, len(defs))
	byName := make(map[string]*jobs.Status, len(defs))
	names := make([]string, len(defs))
	for i, d := range defs {
		all[i].Name, names[i] = d.Name, d.Name
		all[i].Schedule, all[i].Zone = d.Describe()
		byName[d.Name] = &all[i]
	}
	if err := s.countLive(ctx, names, byName); err != nil {
		return nil, err
	}
	if err := s.findPrevious(ctx, names, byName); err != nil {
		return nil, err
	}
	cancelled, err := s.cancelledTicks(ctx, names)
	if err != nil {
		return nil, err
	}
	for i, d := range defs {
		if d.Schedule == nil {
			continue
		}
		st := &all[i]
		if !st.NextTick.IsZero() {
			st.OverdueBy = max(0, now.Sub(st.NextTick))
			continue
		}
		// The row should have been there since the last tick, or our start.
		since := st.PrevTick
		if cancelled[d.Name].After(since) { // the seeder stores its successor once it was due
			since = cancelled[d.Name]
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
		}
	}
	return all, nil
}

// cancelledTicks returns the latest tick of each schedule that somebody cancelled before
// it was started.
func (s *Scheduler) cancelledTicks(ctx context.Context, names []string) (map[string]time.Time, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT kind, max((args->>'tick')::timestamptz) FROM `+s.table+`
		WHERE state = 'cancelled' AND attempt = 0 AND kind = ANY ($2) AND metadata ? $1 GROUP BY kind`, metaTick, names)
	if err != nil {
		return nil, err
	}
	var (
		name string
		tick time.Time
	)
	ticks := map[string]time.Time{}
	_, err = pgx.ForEachRow(rows, []any{&name, &tick}, func() error {
		ticks[name] = tick.UTC()
		return nil
	})
	return ticks, err
}

// countLive fills in what is waiting or running, and the next tick's row.
func (s *Scheduler) countLive(ctx context.Context, names []string, byName map[string]*jobs.Status) error {
	rows, err := s.pool.Query(ctx, `
		SELECT kind,
			count(*) FILTER (WHERE `+waiting+`),
			count(*) FILTER (WHERE state = 'running'),
			count(*) FILTER (WHERE state = 'retryable' OR state = 'available' AND errors IS NOT NULL),
			min((args->>'tick')::timestamptz) FILTER (
				WHERE metadata ? $1 AND attempt = 0 AND state IN ('available', 'scheduled'))
		FROM `+s.table+`
		WHERE state IN ('available', 'scheduled', 'retryable', 'pending', 'running') AND kind = ANY ($2)
		GROUP BY kind`, metaTick, names)
	if err != nil {
		return err
	}
	var (
		name                       string
		waiting, running, retrying int
		next                       *time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &waiting, &running, &retrying, &next}, func() error {
		st := byName[name]
		st.Waiting, st.Running, st.Retrying = waiting, running, retrying
		if next != nil {
			st.NextTick = next.UTC()
		}
		return nil
	})
	return err
}

// findPrevious fills in the latest tick that was started.
func (s *Scheduler) findPrevious(ctx context.Context, names []string, byName map[string]*jobs.Status) error {
	rows, err := s.pool.Query(ctx, `
		SELECT DISTINCT ON (kind) kind, (args->>'tick')::timestamptz AS tick, state::text, errors IS NOT NULL, metadata ? $2, coalesce((metadata->>$4)::int, 0)
		FROM `+s.table+`
		WHERE kind = ANY ($3) AND metadata ? $1 AND attempt > 0
		ORDER BY kind, tick DESC`, metaTick, metaSkipped, names, metaMissed)
	if err != nil {
		return err
	}
	var (
		name, state     string
		tick            time.Time
		failed, skipped bool
		missed          int
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &tick, &state, &failed, &skipped, &missed}, func() error {
		st := byName[name]
		st.PrevTick, st.PrevState, st.Missed = tick.UTC(), stateOf(state, failed, skipped), missed
		return nil
	})
	return err
}

// stateOf says in our terms the state of a row, which has errors or was skipped.
func stateOf(state string, failed, skipped bool) jobs.State {
	switch state {
	case "running":
		return jobs.StateRunning
	case "completed":
		return jobs.StateCompleted
	case "discarded":
		return jobs.StateFailed
	case "cancelled":
		switch {
		case skipped:
			return jobs.StateSkipped
		case failed: // River calls a job cancelled that gave up on retries
			return jobs.StateFailed
		}
		return jobs.StateCancelled
	case "retryable":
		return jobs.StateRetrying
	}
	switch {
	case failed:
		return jobs.StateRetrying
	case state == "available":
		return jobs.StateWaiting
	}
	return jobs.StateScheduled
}

// healthTimeout bounds how long Health waits for the database.
const healthTimeout = 5 * time.Second

// leaderGrace is how long after a start there may be no leader: an election takes
// 5 seconds, after a crash 15.
const leaderGrace = 30 * time.Second

// Health implements [jobs.Monitor]. It waits 5 seconds at most for the database.
func (s *Scheduler) Health(ctx context.Context) (jobs.Health, error) {
	h := jobs.Health{Started: s.started.Load()}
	bounded, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := s.examine(bounded, &h); err != nil {
		if ctx.Err() != nil {
			return jobs.Health{}, ctx.Err()
		}
		h.Reasons = append([]string{"the database does not answer: " + err.Error()}, h.Reasons...)
	}
	if !h.Started && !s.cfg.TriggerOnly {
		h.Reasons = append(h.Reasons, "the scheduler is not started")
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
	var leader bool
	var oldest float64
	err = s.pool.QueryRow(ctx, `SELECT
		EXISTS (SELECT FROM `+s.leader+` WHERE expires_at > now()),
		coalesce(extract(epoch FROM now() - (SELECT min(scheduled_at) FROM `+s.table+`
			WHERE state = 'available' AND scheduled_at <= now())), 0)::float8`).Scan(&leader, &oldest)
	if err != nil {
		return err
	}
	h.OldestWaiting = time.Duration(oldest * float64(time.Second))
	running := h.Started && s.working.Load() != nil
	if running && !leader && time.Since(time.Unix(0, s.startedAt.Load())) > leaderGrace {
		h.Reasons = append(h.Reasons, "no process leads: delayed jobs, retries and schedules wait for an election")
	}
	if err := s.countTotals(ctx, h); err != nil {
		return err
	}
	statuses, err := s.statuses(ctx)
	if err != nil {
		return err
	}
	h.Reasons = append(h.Reasons, jobs.OverdueReasons(statuses)...)
	return nil
}

func (s *Scheduler) countTotals(ctx context.Context, h *jobs.Health) error {
	rows, err := s.pool.Query(ctx, `
		SELECT state::text, false, false, n FROM (
			SELECT state, count(*) AS n FROM `+s.table+`
			WHERE state IN ('completed', 'discarded', 'running', 'retryable', 'pending') GROUP BY state) AS counted
		UNION ALL
		SELECT CASE WHEN state = 'available' AND scheduled_at > now() THEN 'scheduled' ELSE state::text END,
			errors IS NOT NULL, metadata ? $1, count(*)
		FROM `+s.table+` WHERE state IN ('available', 'scheduled', 'cancelled') GROUP BY 1, 2, 3`, metaSkipped)
	if err != nil {
		return err
	}
	h.Totals = map[jobs.State]int{}
	var (
		state           string
		failed, skipped bool
		n               int
	)
	_, err = pgx.ForEachRow(rows, []any{&state, &failed, &skipped, &n}, func() error {
		h.Totals[stateOf(state, failed, skipped)] += n
		return nil
	})
	return err
}
