-- The oldest run in each of the queues $1 that a worker of the kinds $2 could take, if it has been due for $3 seconds,
-- and whether River has paused the queue. It reads past the rows of other kinds, as River's fetch does.
-- name: Stalls
SELECT queue, id, extract(epoch FROM now() - scheduled_at)::float8,
	EXISTS (SELECT FROM {{schema}}.river_queue WHERE name = queue AND paused_at IS NOT NULL)
FROM unnest($1::text[]) AS own (queue), LATERAL (
	SELECT id, scheduled_at FROM generate_series(1, 4) AS each (priority), LATERAL (
		SELECT id, scheduled_at FROM {{schema}}.river_job AS row
		WHERE state = 'available' AND row.queue = own.queue AND row.priority = each.priority AND kind = ANY ($2)
			AND scheduled_at <= now() - $3::float8 * interval '1 second'
		ORDER BY scheduled_at, id LIMIT 1
	) AS first
	ORDER BY scheduled_at, id LIMIT 1
) AS oldest

-- The runs that have been running for client $1 for $2 seconds.
-- name: RunningBy
SELECT id, attempted_at FROM {{schema}}.river_job
WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = $1 AND attempted_at < now() - $2::float8 * interval '1 second'

-- Gives back runs of client $1 that were attempted at these times. No handler was called, so the attempt does not
-- count.
-- name: GiveBack
UPDATE {{schema}}.river_job AS row SET
	state = CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'available' END::{{schema}}.river_job_state,
	finalized_at = CASE WHEN metadata ? 'cancel_attempted_at' THEN now() END,
	attempt = greatest(attempt - 1, 0)
FROM unnest($2::bigint[], $3::timestamptz[]) AS lost (id, attempted_at)
WHERE row.id = lost.id AND row.attempted_at = lost.attempted_at
	AND state = 'running' AND attempted_by[cardinality(attempted_by)] = $1
RETURNING queue

-- A process that others took for dead may resume; its attempts may no longer be its own. $4 adds those whose run has
-- ended: a result changes nothing there.
-- name: OwnedAttempts
SELECT row.id FROM unnest($1::bigint[], $2::int[]) AS own (id, attempt) JOIN {{schema}}.river_job AS row USING (id)
WHERE $4 AND row.finalized_at IS NOT NULL
	OR row.attempt = own.attempt AND row.state = 'running' AND row.attempted_by[cardinality(row.attempted_by)] = $3
