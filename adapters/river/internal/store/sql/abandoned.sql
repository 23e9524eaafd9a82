-- Jobs with runs that have been due for $1 seconds or that a dead process left behind, but that no process with a
-- heartbeat in the last $2 seconds has registered, with how many runs there are, up to about $4, and how long the oldest
-- of these has been due. $3 is the queue of paused jobs. Left out are the jobs $6, and those of which a run is in progress
-- elsewhere: a plain River client works them. The kinds are found with a probe of an index for each.
-- name: Abandoned
WITH RECURSIVE kinds (kind) AS (
	SELECT (SELECT kind FROM {{schema}}.river_job ORDER BY kind LIMIT 1)
	UNION ALL
	SELECT (SELECT kind FROM {{schema}}.river_job AS row WHERE row.kind > kinds.kind ORDER BY kind LIMIT 1)
	FROM kinds WHERE kind IS NOT NULL
), unknown AS MATERIALIZED (
	SELECT kind FROM kinds WHERE kind IS NOT NULL AND kind <> ALL ($6::text[]) AND NOT EXISTS (
		SELECT FROM {{schema}}.everytick_process
		WHERE beat > 0 AND seen_at > now() - $2::float8 * interval '1 second' AND kinds.kind = ANY (jobs)
	)
)
SELECT kind, n, extract(epoch FROM now() - oldest)::float8
FROM unknown, LATERAL (
	SELECT count(*)::int AS n, min(scheduled_at) AS oldest FROM (
		(SELECT scheduled_at FROM {{schema}}.river_job AS row
		WHERE row.kind = unknown.kind AND row.state = 'available' AND row.queue <> $3
			AND row.scheduled_at <= now() - $1::float8 * interval '1 second'
		LIMIT $4)
		UNION ALL
		SELECT scheduled_at FROM {{schema}}.river_job AS row
		WHERE row.kind = unknown.kind AND row.state = 'running' AND {{is_left}}
	) AS first
) AS waiting
WHERE n > 0 AND NOT EXISTS (
	SELECT FROM {{schema}}.river_job AS row WHERE row.kind = unknown.kind AND row.state = 'running' AND NOT {{is_left}}
)
ORDER BY kind COLLATE "C"
LIMIT $5

-- Whether the process that a running row belongs to is dead. A plain River client has no heartbeat.
-- piece: is_left
EXISTS (
	SELECT FROM {{schema}}.everytick_process AS p WHERE p.id = row.attempted_by[cardinality(row.attempted_by)]
		AND (p.beat = 0 OR p.seen_at <= now() - $2::float8 * interval '1 second')
)
