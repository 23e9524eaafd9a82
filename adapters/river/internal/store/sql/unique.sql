-- The condition of River's index on unique_key, which a query has to repeat to use it.
-- piece: holds_key
unique_key IS NOT NULL AND unique_states IS NOT NULL
	AND {{schema}}.river_job_state_in_bitmask(unique_states, state)

-- name: FindUnique
SELECT id, state::text, queue FROM {{schema}}.river_job WHERE unique_key = $1 AND {{holds_key}}

-- Workers pass over rows that are locked in whatever way. This lock others can have too.
-- name: LockAvailable
SELECT id FROM {{schema}}.river_job WHERE id = $1 AND state = 'available' FOR KEY SHARE
