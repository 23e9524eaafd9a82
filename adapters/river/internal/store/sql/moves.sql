-- All that move rows between queues pass over those that somebody else has locked: River stores what became of
-- several jobs in one statement, in no order, and to wait for one of them while holding another can deadlock.
-- They move $1 rows at most: while one goes on, workers have to pass over its rows to find others.

-- name: Park
WITH found AS (
	SELECT id FROM {{schema}}.river_job
	WHERE kind = $2 AND queue <> $3 AND state IN ('available', 'scheduled', 'retryable')
	LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE {{schema}}.river_job AS row SET queue = $3 FROM found WHERE row.id = found.id

-- Those that run are among them: a worker may have sent one there and not given it back yet. So are those that
-- were cancelled there: somebody may retry them.
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

-- Rows in queues other than $4, which this process works, to those they belong to now. Those that are not $6
-- seconds late are left alone unless $5: another version may work that queue.
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
