-- A due schedule counts as one waiting run, unless its tick will be folded into a run that waits. $2 has the names
-- of the jobs whose ticks are never folded.
-- piece: is_due
s.next_tick <= now() AND NOT EXISTS (SELECT FROM {{schema}}.everytick_pause AS p WHERE p.name = s.name)
	AND (s.name = ANY ($2) OR NOT EXISTS (
		SELECT FROM {{schema}}.river_job WHERE id = s.last_job_id AND kind = s.name AND {{progress}} = 1
	))

-- The progress of a tick's run, a provider.Progress. A run that was retried, rescued, snoozed or retried by hand
-- delays no other tick.
-- piece: progress
CASE
	WHEN id IS NULL OR finalized_at IS NOT NULL OR errors IS NOT NULL
		OR metadata ?| ARRAY['snoozes', 'everytick_retried'] THEN 0
	WHEN state = 'available' AND attempted_at IS NULL THEN 1
	ELSE 2 END

-- A transaction that waits for locks has its own limits, whatever the settings of the role.
-- name: SetLimits
SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $1, true),
	set_config('idle_in_transaction_session_timeout', $2, true)

-- name: LockRegistering
SELECT pg_advisory_xact_lock(hashtextextended('everytick schedules ' || $1, 0))

-- name: Now
SELECT clock_timestamp()

-- name: LockSchedules
SELECT name, spec, claimed_by, claimed_at, next_tick FROM {{schema}}.everytick_schedule
WHERE key = '' AND name = ANY ($1) ORDER BY name FOR UPDATE

-- name: ReadSchedules
SELECT name, spec, claimed_by, claimed_at, next_tick FROM {{schema}}.everytick_schedule
WHERE key = '' AND name = ANY ($1)

-- name: PutSchedules
INSERT INTO {{schema}}.everytick_schedule AS s (name, spec, claimed_by, claimed_at, next_tick, data)
SELECT name, spec, claimed_by, claimed_at, next_tick, data::jsonb
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[])
	AS claim (name, spec, claimed_by, claimed_at, next_tick, data)
ON CONFLICT (name, key) DO UPDATE SET spec = excluded.spec, claimed_by = excluded.claimed_by,
	claimed_at = excluded.claimed_at, next_tick = excluded.next_tick, data = excluded.data

-- name: Unregistered
SELECT name FROM {{schema}}.everytick_schedule WHERE next_tick < now() - interval '1 minute' AND name <> ALL ($1)

-- name: DueSchedules
SELECT name, spec, next_tick, octet_length(data::text) FROM {{schema}}.everytick_schedule
WHERE key = '' AND next_tick > $1 AND next_tick <= now()

-- The latest tick whose run has succeeded, as far as the row and its two latest runs show.
-- piece: last_success
greatest(s.last_success, CASE WHEN last.state = 'completed' THEN s.last_tick END,
	CASE WHEN prev.state = 'completed' THEN s.prev_tick END)

-- A schedule with the outcomes of its runs: those of stored runs, and otherwise those copied earlier.
-- piece: columns
s.name, s.next_tick,
	s.last_tick, coalesce(s.last_missed, 0) AS last_missed, s.last_job_id, coalesce(last.state, s.last_state, '') AS last_state,
	s.prev_tick, coalesce(s.prev_missed, 0) AS prev_missed, s.prev_job_id, coalesce(prev.state, s.prev_state, '') AS prev_state,
	s.skipped_tick, coalesce(s.skipped_missed, 0) AS skipped_missed,
	{{last_success}} AS last_success

-- piece: with_jobs
LEFT JOIN LATERAL (
	SELECT {{state}} AS state, {{progress}} AS progress, scheduled_at FROM {{schema}}.river_job WHERE id = s.last_job_id AND kind = s.name
) AS last ON true
LEFT JOIN LATERAL (SELECT {{state}} AS state FROM {{schema}}.river_job WHERE id = s.prev_job_id AND kind = s.name) AS prev ON true

-- Locks those of the given schedules that are still due. It skips rows that another transaction has locked.
-- name: LockDue
SELECT {{columns}}, s.data, coalesce(last.progress, 0), paused.name IS NOT NULL, now()
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS due (name, spec, next_tick)
JOIN {{schema}}.everytick_schedule AS s ON s.name = due.name AND s.key = ''
LEFT JOIN {{schema}}.everytick_pause AS paused ON paused.name = s.name
{{with_jobs}}
WHERE s.spec = due.spec AND s.next_tick = due.next_tick
ORDER BY s.name COLLATE "C"
FOR UPDATE OF s SKIP LOCKED

-- Gives waiting runs without an attempt a later tick. They keep their place in the queue.
-- name: FoldJobs
WITH free AS (
	SELECT id FROM {{schema}}.river_job
	WHERE id = ANY ($1) AND state = 'available' AND attempted_at IS NULL
	FOR UPDATE SKIP LOCKED
)
UPDATE {{schema}}.river_job AS row SET
	metadata = metadata || jsonb_build_object('everytick_tick', fold.text, 'everytick_missed', fold.missed)
FROM free JOIN unnest($1::bigint[], $2::text[], $3::int[]) AS fold (id, text, missed) USING (id)
WHERE row.id = free.id
RETURNING row.id

-- Draws the IDs of the runs to insert.
-- name: AdvanceSchedules
UPDATE {{schema}}.everytick_schedule AS s SET
	next_tick = a.next_tick, last_tick = a.last_tick, last_missed = a.last_missed,
	last_job_id = CASE WHEN a.insert THEN nextval('{{schema}}.river_job_id_seq'::regclass) ELSE nullif(a.last_job_id, 0) END,
	last_state = a.last_state,
	prev_tick = a.prev_tick, prev_missed = a.prev_missed, prev_job_id = nullif(a.prev_job_id, 0), prev_state = a.prev_state,
	skipped_tick = a.skipped_tick, skipped_missed = a.skipped_missed, last_success = a.last_success
FROM jsonb_to_recordset($1::jsonb) AS a (
	name text, insert boolean, next_tick timestamptz, last_success timestamptz,
	last_tick timestamptz, last_missed integer, last_job_id bigint, last_state text,
	prev_tick timestamptz, prev_missed integer, prev_job_id bigint, prev_state text,
	skipped_tick timestamptz, skipped_missed integer
)
WHERE s.name = a.name AND s.key = ''
RETURNING s.name, s.last_job_id

-- name: Standings
SELECT {{columns}}, s.spec, coalesce(last.progress, 0), last.scheduled_at
FROM {{schema}}.everytick_schedule AS s
{{with_jobs}}
WHERE s.key = '' AND s.name = ANY ($1)

-- Copies the outcomes of runs before River deletes them. A later success may have been stored since they were read.
-- name: CopyOutcomes
WITH standing AS (
	SELECT {{columns}}, s.key FROM {{schema}}.everytick_schedule AS s
	{{with_jobs}}
	WHERE s.name = ANY ($1)
), changed AS (
	SELECT s.name, s.key, standing.last_state, standing.prev_state, standing.last_success
	FROM {{schema}}.everytick_schedule AS s JOIN standing USING (name, key)
	WHERE s.last_job_id IS NOT DISTINCT FROM standing.last_job_id
		AND (coalesce(s.last_state, ''), coalesce(s.prev_state, ''), s.last_success)
			IS DISTINCT FROM (standing.last_state, standing.prev_state, standing.last_success)
	ORDER BY s.name, s.key
	FOR UPDATE OF s SKIP LOCKED
)
UPDATE {{schema}}.everytick_schedule AS s
SET last_state = changed.last_state, prev_state = changed.prev_state,
	last_success = greatest(s.last_success, changed.last_success)
FROM changed WHERE s.name = changed.name AND s.key = changed.key

-- Stores the ticks of runs that succeeded.
-- name: PutSuccesses
UPDATE {{schema}}.everytick_schedule AS s SET last_success = greatest(s.last_success, ok.tick)
FROM (
	SELECT s.name, ok.tick FROM {{schema}}.everytick_schedule AS s
	JOIN unnest($1::text[], $2::timestamptz[]) AS ok (name, tick) ON s.name = ok.name AND s.key = ''
	ORDER BY s.name FOR UPDATE OF s SKIP LOCKED
) AS ok
WHERE s.name = ok.name AND s.key = ''
RETURNING s.name

-- name: LastSuccess
SELECT {{last_success}} FROM {{schema}}.everytick_schedule AS s
{{with_jobs}}
WHERE s.name = $1 AND s.key = ''

-- Locks a schedule's row until the transaction ends.
-- name: LockSuccess
SELECT last_success FROM {{schema}}.everytick_schedule WHERE name = $1 AND key = '' FOR UPDATE

-- name: PutSuccess
UPDATE {{schema}}.everytick_schedule SET last_success = $2 WHERE name = $1 AND key = ''

-- The latest tick with a stored run. Used only when the row of a schedule is gone.
-- name: LastTick
SELECT max({{tick}}) FROM {{schema}}.river_job WHERE kind = $1 AND {{is_tick}}
