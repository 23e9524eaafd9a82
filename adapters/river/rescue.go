package river

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"
)

// riverNeverRescues puts River's rescuer out of work. It goes by the leader's clock,
// so that one that is ahead takes what runs for dead; and where several services
// share a schema it discards the jobs that the leader has not registered. So every
// process rescues its own jobs, by the database's clock.
const riverNeverRescues = 100 * 365 * 24 * time.Hour

// errProcessGone is the error of an attempt whose process died.
var errProcessGone = errors.New("the process that ran the job is gone")

// rescueInterval is how often a process looks for them: late by a tenth of the time that
// they have waited, but not more than 10 s.
func (s *Scheduler) rescueInterval() time.Duration {
	return max(keepInterval, min(s.cfg.RescueAfter/10, 10*time.Second))
}

// rescue gives jobs whose process died another attempt. One that was being put aside for
// a pause goes to its own queue: the pause may be over.
func (s *Scheduler) rescue(ctx context.Context) error {
	var names []string
	var after, delay []float64 // seconds
	var queues []string
	for _, d := range s.reg.Jobs() {
		queues = append(queues, queueOf(d))
		names = append(names, d.Name)
		after = append(after, (d.Timeout + s.cfg.RescueAfter).Seconds())
		delay = append(delay, d.RetryDelay.Seconds())
	}
	// In a WITH, since with poor statistics a subquery would be repeated for every row.
	rows, err := s.ownPool().Query(ctx, `
		WITH lost AS (
			SELECT id, home, delay, CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled'
				WHEN attempt < max_attempts THEN 'available' ELSE 'discarded' END AS state
			FROM `+s.table+` AS job JOIN unnest($1::text[], $2::float8[], $3::float8[], $4::text[])
				AS own (name, after, delay, home) ON kind = name
			WHERE state = 'running' AND attempted_at < now() - after * interval '1 second'
			FOR UPDATE OF job SKIP LOCKED
		)
		UPDATE `+s.table+` AS row SET
			state = lost.state::`+s.state+`,
			finalized_at = CASE WHEN lost.state <> 'available' THEN now() END,
			scheduled_at = CASE WHEN lost.state = 'available'
				THEN now() + least(lost.delay * 2 ^ least(row.attempt - 1, 100), 86400) * interval '1 second' ELSE row.scheduled_at END,
			queue = CASE WHEN row.queue = $5 THEN lost.home ELSE row.queue END,
			errors = array_append(row.errors, jsonb_build_object('at', now(), 'attempt', row.attempt,
				'error', $6::text, 'trace', ''))
		FROM lost WHERE row.id = lost.id RETURNING row.kind, row.id, row.state::text, row.attempt, row.max_attempts`, names, after, delay, queues, pausedQueue, errProcessGone.Error())
	again := map[string]int{}
	if err == nil {
		var (
			name              string
			id                int64
			state             rivertype.JobState
			attempt, attempts int
		)
		_, err = pgx.ForEachRow(rows, []any{&name, &id, &state, &attempt, &attempts}, func() error {
			log := s.log.With("job", name, "job_id", formatID(id), "attempt", attempt)
			switch state {
			case rivertype.JobStateDiscarded:
				log.ErrorContext(ctx, "job failed for good", "error", errProcessGone, "max_attempts", attempts)
			case rivertype.JobStateCancelled:
				log.WarnContext(ctx, "job was cancelled", "error", errProcessGone)
			default:
				again[name]++
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("rescuing jobs: %w", err)
	}
	for name, n := range again {
		s.log.WarnContext(ctx, "jobs of a process that is gone are given another attempt", "job", name, "jobs", n)
	}
	return nil
}
