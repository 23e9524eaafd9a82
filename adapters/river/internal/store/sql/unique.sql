-- The condition of River's index on unique_key. A query must repeat it to use the index.
-- piece: holds_key
unique_key IS NOT NULL AND unique_states IS NOT NULL
	AND {{schema}}.river_job_state_in_bitmask(unique_states, state)

-- A key of jobs.IdempotencyKey is held in all states, so it is taken until the row is deleted.
-- name: FindUnique
SELECT id, state::text, queue, coalesce(metadata->>'everytick_fingerprint', '') FROM {{schema}}.river_job
WHERE unique_key = $1 AND {{holds_key}}

-- Workers skip rows with any lock. Several transactions can hold this one.
-- name: LockAvailable
SELECT id FROM {{schema}}.river_job WHERE id = $1 AND state = 'available' FOR KEY SHARE
