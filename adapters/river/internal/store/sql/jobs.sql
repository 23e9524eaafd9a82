-- The metadata of a tick's run has the tick. In rows of older versions it is a boolean.
-- piece: is_tick
metadata ? 'everytick_tick'

-- piece: tick
CASE WHEN jsonb_typeof(metadata->'everytick_tick') = 'string' THEN (metadata->>'everytick_tick')::timestamptz END

-- The attempt was cancelled before the handler was called.
-- piece: is_skipped
state = 'cancelled' AND metadata ? 'everytick_skipped'

-- piece: is_waiting
state IN ('available', 'scheduled', 'retryable', 'pending')

-- Our state of a row.
-- piece: state
CASE
	WHEN state = 'running' THEN 'running'
	WHEN state = 'completed' THEN 'completed'
	WHEN state = 'discarded' THEN 'failed'
	WHEN state = 'cancelled' THEN CASE
		WHEN metadata ? 'everytick_skipped' THEN 'skipped'
		-- River also cancels jobs that fail for good before their last attempt.
		WHEN metadata ? 'cancel_attempted_at' OR errors IS NULL THEN 'cancelled'
		ELSE 'failed' END
	WHEN state = 'retryable' OR errors IS NOT NULL THEN 'retrying'
	WHEN state = 'available' AND scheduled_at <= now() THEN 'waiting'
	ELSE 'scheduled' END

-- name: QueueSize
SELECT (SELECT count(*) FROM {{schema}}.river_job WHERE kind = $1 AND {{is_waiting}})
	+ (SELECT count(*) FROM {{schema}}.everytick_schedule AS s WHERE name = $1 AND {{is_due}})

-- The numbers of waiting, retrying and running runs by job.
-- name: CountLive
SELECT kind, count(*), 0, 0 FROM {{schema}}.river_job WHERE kind = ANY ($1) AND {{is_waiting}} GROUP BY kind
UNION ALL
SELECT kind, 0, count(*), 0 FROM {{schema}}.river_job WHERE kind = ANY ($1) AND {{is_waiting}} AND attempt > 0 GROUP BY kind
UNION ALL
SELECT kind, 0, 0, count(*) FROM {{schema}}.river_job WHERE kind = ANY ($1) AND state = 'running' GROUP BY kind
UNION ALL
SELECT name, count(*), 0, 0 FROM {{schema}}.everytick_schedule AS s WHERE name = ANY ($1) AND {{is_due}} GROUP BY name

-- The runs that ended, by intervals of $2 seconds since $1, at most $3 of each of River's states.
-- name: Activity
SELECT kind, floor(extract(epoch FROM finalized_at - $1::timestamptz) / $2::float8)::int, ours, count(*),
	max(older) FILTER (WHERE older IS NOT NULL)
FROM unnest(ARRAY['completed', 'discarded', 'cancelled']::{{schema}}.river_job_state[]) AS wanted (state),
LATERAL (
	SELECT kind, finalized_at, {{state}} AS ours,
		CASE WHEN row_number() OVER (ORDER BY finalized_at DESC) = $3 THEN finalized_at END AS older
	FROM (
		SELECT kind, state, finalized_at, metadata, errors, scheduled_at FROM {{schema}}.river_job
		WHERE state = wanted.state AND finalized_at >= $1 AND finalized_at IS NOT NULL
		ORDER BY finalized_at DESC LIMIT $3
	) AS latest
) AS ended
GROUP BY 1, 2, 3

-- The ORDER BY makes PostgreSQL use the index that begins with the state. A scan of the table could be slow: all
-- rows of a state may be at its end.
-- name: CountTotals
SELECT each.state::text, ours, count(*)
FROM unnest(enum_range(NULL::{{schema}}.river_job_state)) AS each (state),
LATERAL (
	SELECT {{state}} AS ours FROM (
		SELECT state, metadata, errors, scheduled_at FROM {{schema}}.river_job
		WHERE state = each.state
		ORDER BY state, queue, priority, scheduled_at, id LIMIT $1
	) AS first
) AS counted
GROUP BY 1, 2
UNION ALL
SELECT 'due', 'waiting', count(*) FROM (
	SELECT FROM {{schema}}.everytick_schedule AS s WHERE {{is_due}} LIMIT $1
) AS due HAVING count(*) > 0

-- The queues with rows in the states $1, found with a few probes of River's fetch index however many rows there
-- are.
-- piece: used_queues
WITH RECURSIVE used (state, queue) AS (
	SELECT state, (
		SELECT queue FROM {{schema}}.river_job AS row WHERE row.state = each.state ORDER BY queue LIMIT 1
	) FROM unnest($1::text[]::{{schema}}.river_job_state[]) AS each (state)
	UNION ALL
	SELECT state, (
		SELECT queue FROM {{schema}}.river_job AS row
		WHERE row.state = used.state AND row.queue > used.queue ORDER BY queue LIMIT 1
	) FROM used WHERE queue IS NOT NULL
)

-- How long the oldest waiting run has been due, in seconds. $2 is the queue of paused jobs.
-- name: OldestWaiting
{{used_queues}}
SELECT coalesce(extract(epoch FROM now() - min(scheduled_at)), 0)::float8
FROM used, generate_series(1, 4) AS each (priority), LATERAL (
	SELECT scheduled_at FROM {{schema}}.river_job
	WHERE state = used.state AND queue = used.queue AND priority = each.priority
	ORDER BY scheduled_at LIMIT 1
) AS first
WHERE used.queue <> $2 AND scheduled_at <= now()

-- The database's time, the queues with available runs that have become due since $2 (none if it is null), and when
-- the next run becomes due. River makes scheduled runs available up to 5 seconds early, hence the three states.
-- name: BecomingDue
{{used_queues}}
SELECT now(), coalesce(array_agg(DISTINCT queue) FILTER (WHERE state = 'available' AND scheduled_at <= now()), '{}'),
	min(scheduled_at) FILTER (WHERE scheduled_at > now())
FROM used, generate_series(1, 4) AS each (priority), LATERAL (
	SELECT scheduled_at FROM {{schema}}.river_job
	WHERE state = used.state AND queue = used.queue AND priority = each.priority
		AND scheduled_at > CASE WHEN used.state = 'available' THEN coalesce($2::timestamptz, now()) ELSE now() END
	ORDER BY scheduled_at LIMIT 1
) AS first
WHERE used.queue <> $3

-- name: NotifyInsert
SELECT pg_notify($1::text || '.river_insert', '{"queue": "' || queue || '"}') FROM unnest($2::text[]) AS queue

-- name: LockJob
SELECT {{state}}, metadata ? 'everytick_snoozed' FROM {{schema}}.river_job WHERE id = $1 AND kind = $2 FOR UPDATE

-- name: SetMaxAttempts
UPDATE {{schema}}.river_job SET max_attempts = $2 WHERE id = $1

-- name: SetQueue
UPDATE {{schema}}.river_job SET queue = $2 WHERE id = $1

-- name: CountRunningBy
SELECT count(*) FROM {{schema}}.river_job WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = $1

-- Runs of one job check for overlaps one after the other.
-- name: LockOverlap
SELECT pg_advisory_xact_lock(hashtextextended('everytick overlap ' || $1 || ' ' || $2, 0))

-- Another run overlaps if it was triggered, or if it is a tick's run that passed this check in its current attempt. The
-- runs $3 have ended, and their results are not stored yet.
-- name: Overlaps
SELECT EXISTS (
	SELECT FROM {{schema}}.river_job
	WHERE kind = $1 AND state = 'running' AND id <> $2 AND id <> ALL ($3)
		AND (NOT ({{is_tick}}) OR metadata->'everytick_goes_on' = to_jsonb(attempt))
)

-- name: LetThrough
UPDATE {{schema}}.river_job SET metadata = metadata || jsonb_build_object('everytick_goes_on', attempt) WHERE id = $1
