-- Keys of jobs.UniqueWaiting and jobs.Latest. The unique_key of a run begins with the hash of the key and ends with
-- random bytes, so it never conflicts with another: River may return a run to the queue while another run of the key
-- waits, and stores the results of many runs in one statement, which a conflict would fail. The index on unique_key
-- finds the runs of a key, and an advisory lock keeps triggers of a key apart.

-- name: LockKey
SELECT pg_advisory_xact_lock(hashtextextended('everytick key ' || $1 || ' ' || encode($2::bytea, 'hex'), 0))

-- The live runs of a key, without those that will be skipped. $2 is after all keys that begin with $1. A worker may
-- move a run that it has just fetched to another queue, $3 or the job's own, without calling the handler. $4 says that
-- the job is paused.
-- name: LiveByKey
SELECT id, {{state}}, state IN ('scheduled', 'retryable'), state = 'running' AND (
	queue = $3 OR attempted_at > clock_timestamp() - interval '1 second'
	AND ($4 OR attempt = 1 AND metadata ? 'everytick_open')
)
FROM {{schema}}.river_job
WHERE unique_key >= $1 AND unique_key < $2 AND {{holds_key}} AND NOT metadata ? 'everytick_overtaken'

-- Workers skip rows with any lock.
-- name: LockWaiting
SELECT queue, attempted_at IS NOT NULL, scheduled_at, now() FROM {{schema}}.river_job
WHERE id = $1 AND {{is_waiting}} FOR NO KEY UPDATE

-- Makes a scheduled run available if it is due within $2 seconds. Workers fetch it when it is due, and River's
-- scheduler, which waits for locked rows, ignores it.
-- name: MakeAvailable
UPDATE {{schema}}.river_job SET state = 'available' WHERE id = (
	SELECT id FROM {{schema}}.river_job
	WHERE id = $1 AND state IN ('scheduled', 'retryable') AND scheduled_at < now() + $2::float8 * interval '1 second'
	FOR UPDATE SKIP LOCKED
)

-- Moves what River stored of the run $1, which is deleted, to the waiting run $2. With $3 that keeps its due time.
-- name: Replace
WITH new AS (DELETE FROM {{schema}}.river_job WHERE id = $1 RETURNING *)
UPDATE {{schema}}.river_job AS row SET
	args = new.args, tags = new.tags, priority = new.priority,
	metadata = row.metadata - '{everytick_metadata,everytick_open,everytick_overtakes}'::text[] || new.metadata,
	max_attempts = CASE WHEN row.attempted_at IS NULL THEN new.max_attempts ELSE row.max_attempts END,
	state = CASE WHEN $3 THEN row.state ELSE new.state END,
	scheduled_at = CASE WHEN $3 THEN row.scheduled_at ELSE new.scheduled_at END
FROM new WHERE row.id = $2

-- Makes an earlier run of a key end when it would be started again, because the run $2 starts with newer data.
-- name: Overtake
UPDATE {{schema}}.river_job SET metadata = metadata || jsonb_build_object('everytick_overtaken', $2::bigint)
WHERE id = $1 AND finalized_at IS NULL
