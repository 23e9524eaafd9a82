package river

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/jobs"
)

var (
	_ jobs.RunLister        = (*Scheduler)(nil)
	_ jobs.ActivityReporter = (*Scheduler)(nil)
	_ jobs.Canceller        = (*Scheduler)(nil)
	_ jobs.Retrier          = (*Scheduler)(nil)
	_ jobs.Pauser           = (*Scheduler)(nil)
)

// stateSQL says in our terms the state of a row.
const stateSQL = `CASE
	WHEN state IN ('running', 'available') AND metadata ? '` + metaHeld + `' AND errors IS NULL THEN 'waiting'
	WHEN state = 'running' THEN 'running'
	WHEN state = 'completed' THEN 'completed'
	WHEN state = 'discarded' THEN 'failed'
	WHEN state = 'cancelled' THEN CASE
		WHEN metadata ? 'everytick_skipped' THEN 'skipped'
		-- River calls a job cancelled, too, that gave up on retries.
		WHEN metadata ? 'cancel_attempted_at' OR errors IS NULL THEN 'cancelled'
		ELSE 'failed' END
	WHEN state = 'retryable' OR errors IS NOT NULL THEN 'retrying'
	WHEN state = 'available' AND scheduled_at <= now() THEN 'waiting'
	ELSE 'scheduled' END`

// isSkipped is of what River ran, and cancelled before the handler was called.
const isSkipped = `state = 'cancelled' AND metadata ? 'everytick_skipped'`

// Runs implements [jobs.RunLister].
func (s *Scheduler) Runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	if _, err := s.definition(name); err != nil {
		return nil, err
	}
	if err := jobs.CheckRunLimit(limit); err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, `+stateSQL+`, CASE WHEN `+isTick+` THEN `+tickTime+` END, CASE WHEN `+isHeld+` THEN 0 WHEN `+isSkipped+` THEN attempt - 1 ELSE attempt END, max_attempts,
			created_at, CASE WHEN metadata ? '`+metaHeld+`' THEN `+tickTime+` ELSE scheduled_at END, attempted_at, finalized_at,
			coalesce(metadata->>'everytick_skipped', errors[array_upper(errors, 1)]->>'error', ''),
			CASE WHEN `+isTick+` THEN '{}' ELSE args END
		FROM `+s.table+`
		WHERE kind = $1 AND NOT (`+isTick+` AND attempt = 0 AND `+tickTime+` > now() AND finalized_at IS NULL)
		ORDER BY id DESC LIMIT $2`, name, limit)
	if err != nil {
		return nil, fmt.Errorf("river: runs of %q: %w", name, err)
	}
	runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (jobs.Run, error) {
		run := jobs.Run{Name: name}
		var (
			id                 int64
			tick, begun, ended *time.Time
		)
		err := row.Scan(&id, &run.State, &tick, &run.Attempt, &run.MaxAttempts,
			&run.CreatedAt, &run.DueAt, &begun, &ended, &run.Error, &run.Data)
		run.ID, run.CreatedAt, run.DueAt = formatID(id), run.CreatedAt.UTC(), run.DueAt.UTC()
		run.Tick, run.StartedAt, run.EndedAt = utc(tick), utc(begun), utc(ended)
		if run.Attempt == 0 {
			run.StartedAt = time.Time{} // what was begun does not count: it waited, or was interrupted
		}
		run.Error = strings.TrimPrefix(run.Error, "JobCancelError: ") // River's, of what gave up on retries
		return run, err
	})
	if err != nil {
		return nil, fmt.Errorf("river: runs of %q: %w", name, err)
	}
	return runs, nil
}

func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// activityRows bounds what Activity counts of each of River's states.
const activityRows = 50_000

// Activity implements [jobs.ActivityReporter]. It counts the latest 50,000 jobs that
// completed, as many that failed, and as many that were cancelled or skipped.
func (s *Scheduler) Activity(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
	now, err := s.clock.Now(ctx, nil)
	if err != nil {
		return jobs.Activity{}, fmt.Errorf("river: activity: %w", err)
	}
	activity, err := jobs.NewActivity(now, step, n)
	if err != nil {
		return activity, err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT kind, floor(extract(epoch FROM finalized_at - $1::timestamptz) / $2::float8)::int, ours, count(*),
			max(older) FILTER (WHERE older IS NOT NULL)
		FROM unnest(ARRAY['completed', 'discarded', 'cancelled']::`+s.state+`[]) AS wanted (state),
		LATERAL (
			SELECT kind, finalized_at, `+stateSQL+` AS ours,
				CASE WHEN row_number() OVER (ORDER BY finalized_at DESC) = $3 THEN finalized_at END AS older
			FROM (
				SELECT kind, state, finalized_at, metadata, errors, scheduled_at FROM `+s.table+`
				WHERE state = wanted.state AND finalized_at >= $1 AND finalized_at IS NOT NULL
				ORDER BY finalized_at DESC LIMIT $3
			) AS latest
		) AS ended
		GROUP BY 1, 2, 3`, activity.Start, step.Seconds(), activityRows)
	if err != nil {
		return jobs.Activity{}, fmt.Errorf("river: activity: %w", err)
	}
	var (
		name     string
		i, count int
		state    jobs.State
		oldest   *time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &i, &state, &count, &oldest}, func() error {
		activity.Add(name, i, n, state, count)
		if oldest != nil && oldest.After(activity.CompleteSince) {
			activity.CompleteSince = oldest.UTC()
		}
		return nil
	})
	if err != nil {
		return jobs.Activity{}, fmt.Errorf("river: activity: %w", err)
	}
	return activity, nil
}

// Cancel implements [jobs.Canceller].
func (s *Scheduler) Cancel(ctx context.Context, name, id string) error {
	err := s.withJob(ctx, name, id, func(tx pgx.Tx, id int64, _ jobs.State) error {
		_, err := s.insertOnly.JobCancelTx(ctx, tx, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("river: cancel job %q of %q: %w", id, name, err)
	}
	return nil
}

// Retry implements [jobs.Retrier].
func (s *Scheduler) Retry(ctx context.Context, name, id string) error {
	var queue string
	retry := func() error {
		return s.withJob(ctx, name, id, func(tx pgx.Tx, id int64, state jobs.State) error {
			switch state {
			case jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped, jobs.StateRetrying:
			default:
				return fmt.Errorf("%w: it is %s", jobs.ErrNotRetryable, state)
			}
			// That it was skipped was no attempt, and that it would start late is no reason to skip it
			// again. If another has its unique key by now, it runs without.
			if _, err := tx.Exec(ctx, `UPDATE `+s.table+` AS row SET metadata = metadata - $2::text || jsonb_build_object($3::text, true),
				attempt = CASE WHEN `+isSkipped+` THEN attempt - 1 ELSE attempt END,
				errors = CASE WHEN `+isSkipped+` THEN nullif(errors[:array_upper(errors, 1) - 1], '{}') ELSE errors END,
				unique_key = CASE WHEN NOT EXISTS (SELECT FROM `+s.table+` AS other WHERE other.unique_key = row.unique_key
					AND other.unique_key IS NOT NULL AND other.unique_states IS NOT NULL
					AND `+s.inBitmask+`(other.unique_states, other.state) AND other.id <> row.id) THEN unique_key END
			WHERE id = $1`, id, metaSkipped, metaStarted); err != nil {
				return err
			}
			row, err := s.insertOnly.JobRetryTx(ctx, tx, id)
			if err == nil {
				queue = row.Queue
			}
			return err
		})
	}
	err := retry()
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == "23505" {
		err = retry() // somebody's transaction had its unique key, and has committed
	}
	if err != nil {
		return fmt.Errorf("river: retry job %q of %q: %w", id, name, err)
	}
	s.notifier.notify(ctx, s.pool, []string{queue})
	return nil
}

// withJob calls f in a transaction that has locked the job of that name and ID.
func (s *Scheduler) withJob(ctx context.Context, name, id string, f func(tx pgx.Tx, id int64, state jobs.State) error) error {
	if _, err := s.definition(name); err != nil {
		return err
	}
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil || formatID(number) != id {
		return jobs.ErrUnknownID
	}
	return pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		var state jobs.State
		err := tx.QueryRow(ctx, `SELECT `+stateSQL+` FROM `+s.table+` WHERE id = $1 AND kind = $2 FOR UPDATE`, number, name).Scan(&state)
		if errors.Is(err, pgx.ErrNoRows) {
			return jobs.ErrUnknownID
		}
		if err != nil {
			return err
		}
		return f(tx, number, state)
	})
}
