-- name: Beat
INSERT INTO {{schema}}.everytick_process AS p
	(id, beat, host, pid, version, registrations, jobs, workers, busy, started_at, seen_at)
VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, now(), now())
ON CONFLICT (id) DO UPDATE SET beat = p.beat + 1, busy = excluded.busy,
	registrations = excluded.registrations, seen_at = now()

-- name: Processes
SELECT id, beat, registrations, clock_timestamp() FROM {{schema}}.everytick_process

-- name: ListProcesses
SELECT id, host, pid, version, started_at, seen_at, seen_at > now() - $1::float8 * interval '1 second',
	EXISTS (SELECT FROM {{schema}}.river_leader WHERE leader_id = p.id AND expires_at > now()),
	ARRAY (SELECT name FROM unnest(jobs) AS name ORDER BY name COLLATE "C"), workers, busy
FROM {{schema}}.everytick_process AS p WHERE beat > 0
ORDER BY started_at, id COLLATE "C"

-- name: RecentRegistrations
SELECT registrations FROM {{schema}}.everytick_process WHERE beat > 0 AND seen_at > now() - $1::float8 * interval '1 second'

-- A stopped process is dead at once. Its row stays for a while, and as long as runs it left behind are not rescued.
-- name: EndProcess
UPDATE {{schema}}.everytick_process SET beat = 0, busy = 0, seen_at = now() WHERE id = $1

-- name: ForgetProcesses
DELETE FROM {{schema}}.everytick_process AS p
WHERE seen_at < now() - CASE WHEN beat = 0 THEN interval '1 hour' ELSE interval '1 day' END AND NOT EXISTS (
	SELECT FROM {{schema}}.river_job WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = p.id
)

-- What provider.Jitter returns for a row of river_job named "row".
-- piece: jitter
(0.9 + 0.2 * (256 * get_byte({{jitter_hash}}, 0) + get_byte({{jitter_hash}}, 1)) / 65535)

-- piece: jitter_hash
sha256(convert_to(row.id || '/' || row.attempt, 'UTF8'))

-- Gives runs of dead processes another attempt: of the processes in $6, and of those without a heartbeat whose
-- attempt has taken too long. A run that a worker was moving to the queue of paused jobs goes to the job's own
-- queue, since the pause may be over.
-- The wait is that of provider.Definition.Backoff.
-- The WITH matters: with poor statistics a subquery would be executed for every row.
-- name: Rescue
WITH lost AS (
	SELECT id, kind, home, delay, on_failed, attempts, CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled'
		WHEN attempt < attempts THEN 'available' ELSE 'discarded' END AS state
	FROM {{schema}}.river_job AS job
	JOIN unnest($1::text[], $2::text[], $3::float8[], $4::float8[], $8::bool[], $9::smallint[])
		AS own (name, home, delay, after, on_failed, registered) ON kind = name,
	-- The process that inserted a run may not have known the job's options, and its first attempt stores them.
	LATERAL (SELECT CASE WHEN metadata ? 'everytick_open' AND attempt = 1 THEN registered ELSE max_attempts END AS attempts) AS a
	WHERE state = 'running' AND (
		attempted_by[cardinality(attempted_by)] = ANY ($6)
		OR attempted_at < now() - after * interval '1 second' AND NOT EXISTS (
			SELECT FROM {{schema}}.everytick_process AS p WHERE p.id = attempted_by[cardinality(attempted_by)]
		)
	)
	FOR UPDATE OF job SKIP LOCKED
), noted AS (
	INSERT INTO {{schema}}.everytick_failed AS f (job_id, name)
	SELECT id, kind FROM lost WHERE state = 'discarded' AND on_failed
	ON CONFLICT (job_id) DO UPDATE SET failures = f.failures + 1
)
UPDATE {{schema}}.river_job AS row SET
	state = lost.state::{{schema}}.river_job_state, max_attempts = lost.attempts,
	finalized_at = CASE WHEN lost.state <> 'available' THEN now() END,
	scheduled_at = CASE WHEN lost.state = 'available'
		THEN now() + least(lost.delay * 2 ^ least(row.attempt - 1, 100), 86400) * {{jitter}} * interval '1 second'
		ELSE row.scheduled_at END,
	queue = CASE WHEN row.queue = $5 THEN lost.home ELSE row.queue END,
	errors = array_append(row.errors, jsonb_build_object('at', now(), 'attempt', row.attempt, 'error', $7::text, 'trace', ''))
FROM lost WHERE row.id = lost.id
RETURNING row.id, row.kind, row.state::text, row.attempt, row.max_attempts
