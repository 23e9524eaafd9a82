-- These statements find runs of many jobs. Their parameters begin with the states that live runs may have ($1), those
-- that ended runs may have ($2), both River's, then the names ($4), our states ($5), and the bounds of a run's time
-- ($6, $7).

-- How many parameters match decides which index is fast. A plan made without knowing them may read the whole table,
-- and compiling one takes longer than most of the queries.
-- name: SetPlanning
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)

-- The text of the latest error, or why the run was skipped.
-- piece: error
coalesce(metadata->>'everytick_skipped', errors[array_upper(errors, 1)]->>'error', '')

-- The columns of a run, but for its data and output.
-- piece: run
id, kind, {{state}}, {{tick}}, CASE WHEN {{is_skipped}} THEN attempt - 1 ELSE attempt END, max_attempts,
	created_at, scheduled_at, attempted_at, finalized_at, {{error}},
	coalesce(attempted_by[cardinality(attempted_by)], ''), (metadata->>'cancel_attempted_at')::timestamptz,
	coalesce((metadata->'everytick_snoozed'->>'count')::int, 0), coalesce(metadata->'everytick_snoozed'->>'reason', '')

-- The data and error texts of the first n runs of found, in bytes, for each n until they exceed $3. Reading data is
-- what takes long, so it ends there.
-- piece: measured
measured (n, bytes) AS (
	SELECT 0, 0::bigint
	UNION ALL
	SELECT n + 1, bytes + (
		SELECT octet_length(args::text) + coalesce(octet_length((metadata->'output')::text), 0) + octet_length({{error}}) FROM {{schema}}.river_job WHERE id = found.ids[n + 1]
	)
	FROM measured, found WHERE n < cardinality(found.ids) AND (n = 0 OR bytes <= $3)
)

-- The latest runs of a job. Those that do not fit come without their data.
-- name: Runs
WITH RECURSIVE found AS MATERIALIZED (
	SELECT coalesce(array_agg(id ORDER BY id DESC), '{}') AS ids FROM (
		SELECT id FROM {{schema}}.river_job WHERE kind = $1 ORDER BY id DESC LIMIT $2
	) AS latest
), {{measured}}
SELECT {{run}}, CASE WHEN bytes <= $3 OR n = 1 THEN args END, CASE WHEN bytes <= $3 OR n = 1 THEN metadata->'output' END
FROM found CROSS JOIN unnest(found.ids) WITH ORDINALITY AS each (id, n)
LEFT JOIN measured USING (n) JOIN {{schema}}.river_job USING (id)
ORDER BY n

-- Conditions for runs of any state. The planner takes "= ANY" for rare, and would rather sort all rows of a state than
-- read the first ones from an index.
-- piece: is_wanted
kind = ANY ($4) AND array_position($5::text[], {{state}}) IS NOT NULL

-- piece: ended_in_time
finalized_at >= coalesce($6::timestamptz, '-infinity') AND finalized_at < coalesce($7::timestamptz, 'infinity')

-- piece: due_in_time
scheduled_at >= coalesce($6::timestamptz, '-infinity') AND scheduled_at < coalesce($7::timestamptz, 'infinity')

-- A page of at most $8 runs that follow the one with the time $9 and the ID $10, with the number of runs that follow
-- it, up to $8. Each state, and of live runs each queue and priority, has its runs in the order of an index, so
-- the first $8 of each are enough. An index may read past other jobs' runs, though.
-- name: FindRuns
WITH RECURSIVE used (state, queue, priority) AS (
	SELECT each.state, first.* FROM unnest($1::text[]::{{schema}}.river_job_state[]) AS each (state), LATERAL (
		SELECT queue, priority FROM {{schema}}.river_job AS row
		WHERE row.state = each.state ORDER BY queue, priority LIMIT 1
	) AS first
	UNION ALL
	SELECT used.state, next.* FROM used, LATERAL (
		SELECT queue, priority FROM {{schema}}.river_job AS row
		WHERE row.state = used.state AND (row.queue, row.priority) > (used.queue, used.priority)
		ORDER BY queue, priority LIMIT 1
	) AS next
), page AS (
	SELECT latest.* FROM unnest($2::text[]::{{schema}}.river_job_state[]) AS each (state), LATERAL (
		SELECT id, finalized_at AS at FROM {{schema}}.river_job
		WHERE state = each.state AND {{ended_in_time}} AND {{is_wanted}}
			AND ($9::timestamptz IS NULL OR finalized_at <= $9 AND (finalized_at, id) < ($9, $10::bigint))
		ORDER BY finalized_at DESC, id DESC LIMIT $8
	) AS latest
	UNION ALL
	SELECT latest.* FROM used, LATERAL (
		SELECT id, scheduled_at AS at FROM {{schema}}.river_job
		WHERE state = used.state AND queue = used.queue AND priority = used.priority AND {{due_in_time}} AND {{is_wanted}}
			AND ($9::timestamptz IS NULL OR scheduled_at <= $9 AND (scheduled_at, id) < ($9, $10::bigint))
		ORDER BY scheduled_at DESC, id DESC LIMIT $8
	) AS latest
), found AS MATERIALIZED (
	SELECT coalesce(array_agg(id ORDER BY at DESC, id DESC), '{}') AS ids
	FROM (SELECT id, at FROM page ORDER BY at DESC, id DESC LIMIT $8) AS first
), {{measured}}
SELECT {{run}}, args, metadata->'output', cardinality(found.ids)
FROM measured CROSS JOIN found JOIN {{schema}}.river_job ON id = found.ids[n]
WHERE n > 0 AND (bytes <= $3 OR n = 1)
ORDER BY n

-- A run with its latest $2 errors.
-- name: Run
SELECT {{run}}, args, metadata->'output', to_jsonb(errors[greatest(1, array_upper(errors, 1) - $2::int + 1):])
FROM {{schema}}.river_job WHERE id = $1

-- Runs that match, with their times. Unless $3 is set, runs that are available and due are left out: they start
-- without being retried. OFFSET 0 keeps the states apart, so that none is read from the table's start to its end
-- because another one is frequent, or is not asked for.
-- piece: matching
SELECT matching.* FROM unnest($2::text[]::{{schema}}.river_job_state[]) AS each (state), LATERAL (
	SELECT id, finalized_at AS at FROM {{schema}}.river_job
	WHERE state = each.state AND {{ended_in_time}} AND {{is_wanted}} OFFSET 0
) AS matching
UNION ALL
SELECT matching.* FROM unnest($1::text[]::{{schema}}.river_job_state[]) AS each (state), LATERAL (
	SELECT id, scheduled_at FROM {{schema}}.river_job
	WHERE state = each.state AND {{due_in_time}} AND {{is_wanted}}
		AND ($3 OR NOT (state = 'available' AND scheduled_at <= now())) OFFSET 0
) AS matching

-- name: MatchingRuns
{{matching}} ORDER BY at DESC, id DESC

-- name: CountMatching
SELECT count(*) FROM ({{matching}}) AS matching
