-- Retrying and cancelling runs, one or many at a time.

-- The runs of $1 that can be retried and have the time $2 that they were found with. Runs that were retried since, and
-- may have failed again, have another one. No index has the state as text: all runs with these states may be many more.
-- piece: retryable
FROM {{schema}}.river_job AS row JOIN unnest($1::bigint[], $2::timestamptz[]) AS found (id, at) USING (id)
WHERE row.id = ANY ($1) AND coalesce(row.finalized_at, row.scheduled_at) = found.at AND (
	row.state::text IN ('cancelled', 'discarded', 'retryable')
	OR row.state::text IN ('available', 'scheduled') AND row.scheduled_at > now()
)

-- The runs of $1 that have not ended, whatever their times $2 are now.
-- piece: live
FROM {{schema}}.river_job AS row JOIN unnest($1::bigint[], $2::timestamptz[]) AS found (id, at) USING (id)
WHERE row.id = ANY ($1) AND row.finalized_at IS NULL

-- Of each kind there are three statements: one that passes over locked rows, one that waits for them, and one that
-- only reads.
-- name: LockFreeRetryable
SELECT id, row.state = 'running', queue {{retryable}} ORDER BY id FOR UPDATE OF row SKIP LOCKED

-- name: LockRetryable
SELECT id, row.state = 'running', queue {{retryable}} ORDER BY id FOR UPDATE OF row

-- name: ReadRetryable
SELECT id, row.state = 'running', queue {{retryable}} ORDER BY id

-- name: LockFreeLive
SELECT id, row.state = 'running', queue {{live}} ORDER BY id FOR UPDATE OF row SKIP LOCKED

-- name: LockLive
SELECT id, row.state = 'running', queue {{live}} ORDER BY id FOR UPDATE OF row

-- name: ReadLive
SELECT id, row.state = 'running', queue {{live}} ORDER BY id

-- Prepares runs for a retry by hand. A skipped attempt does not count, and a late start is no reason to skip a run
-- again. A run keeps its unique key unless another run has it by now, a later one of these runs takes it, or $2 is set.
-- name: PrepareRetry
UPDATE {{schema}}.river_job AS row SET
	metadata = metadata - 'everytick_skipped' - 'everytick_overtaken' || '{"everytick_retried": true}',
	attempt = CASE WHEN {{is_skipped}} THEN attempt - 1 ELSE attempt END,
	errors = CASE WHEN {{is_skipped}} THEN nullif(errors[:array_upper(errors, 1) - 1], '{}') ELSE errors END,
	unique_key = CASE WHEN {{holds_key}} OR NOT $2 AND same.latest = row.id AND NOT EXISTS (
		SELECT FROM {{schema}}.river_job AS other
		WHERE other.unique_key = row.unique_key AND other.id <> row.id
			AND other.unique_key IS NOT NULL AND other.unique_states IS NOT NULL
			AND {{schema}}.river_job_state_in_bitmask(other.unique_states, other.state)
	) THEN unique_key END
FROM (
	SELECT id AS same_id, max(id) OVER (PARTITION BY unique_key) AS latest FROM {{schema}}.river_job WHERE id = ANY ($1)
) AS same WHERE row.id = same_id AND row.id = ANY ($1)

-- Changes rows as JobRetryTx of River's client changes one.
-- name: RetryRuns
UPDATE {{schema}}.river_job SET
	state = 'available', finalized_at = NULL, scheduled_at = now(), metadata = metadata - 'cancel_attempted_at',
	max_attempts = CASE WHEN attempt = max_attempts THEN max_attempts + 1 ELSE max_attempts END
WHERE id = ANY ($1)

-- Changes rows as JobCancelTx of River's client changes one that is not running.
-- name: CancelRuns
UPDATE {{schema}}.river_job SET
	state = 'cancelled', finalized_at = now(), metadata = metadata
		|| jsonb_build_object('cancel_attempted_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
WHERE id = ANY ($1)
