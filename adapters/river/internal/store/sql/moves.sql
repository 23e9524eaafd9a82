-- Statements that move rows between queues skip locked rows: River stores the results of several runs in one
-- statement, in no particular order, and waiting for one of them while holding another could deadlock.
-- Each moves at most $1 rows, because fetches must skip the rows it has locked.

-- name: Park
WITH found AS (
	SELECT id FROM {{schema}}.river_job
	WHERE kind = $2 AND queue <> $3 AND state IN ('available', 'scheduled', 'retryable')
	LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE {{schema}}.river_job AS row SET queue = $3 FROM found WHERE row.id = found.id

-- Running rows are included: a worker may have moved one here and not snoozed it yet. So are rows that ended here,
-- which may be retried.
-- piece: parked
FROM {{schema}}.river_job AS row JOIN unnest($2::text[], $3::text[]) AS own (name, home) ON kind = name
WHERE queue = $4 AND state = ANY (enum_range(NULL::{{schema}}.river_job_state))

-- name: Unpark
WITH found AS (
	SELECT id, home {{parked}}
	LIMIT $1 FOR UPDATE OF row SKIP LOCKED
)
UPDATE {{schema}}.river_job AS row SET queue = found.home FROM found WHERE row.id = found.id

-- name: StillParked
SELECT $1::int IS NOT NULL AND EXISTS (SELECT {{parked}})

-- Moves rows from queues other than $4, the queues of this process, to the queues of their jobs. Unless $5 is set,
-- rows that are not $6 seconds late stay: a process of another version may work their queue.
-- name: Rehome
WITH RECURSIVE used (queue) AS (
	SELECT (SELECT queue FROM {{schema}}.river_job WHERE state = 'available' ORDER BY queue LIMIT 1)
	UNION ALL
	SELECT (
		SELECT queue FROM {{schema}}.river_job AS row
		WHERE row.state = 'available' AND row.queue > used.queue ORDER BY queue LIMIT 1
	) FROM used WHERE queue IS NOT NULL
), found AS (
	SELECT id, home FROM {{schema}}.river_job AS row
	JOIN used USING (queue) JOIN unnest($2::text[], $3::text[]) AS own (name, home) ON kind = name
	WHERE queue <> ALL ($4) AND row.state IN ('available', 'scheduled', 'retryable')
		AND ($5 OR scheduled_at < now() - $6::float8 * interval '1 second')
	LIMIT $1 FOR UPDATE OF row SKIP LOCKED
)
UPDATE {{schema}}.river_job AS row SET queue = found.home FROM found WHERE row.id = found.id

-- name: Pauses
SELECT name, since FROM {{schema}}.everytick_pause

-- name: Pause
INSERT INTO {{schema}}.everytick_pause (name) VALUES ($1) ON CONFLICT DO NOTHING

-- name: Resume
DELETE FROM {{schema}}.everytick_pause WHERE name = $1
