-- The statements of a transactional attempt, in the transaction of its handler.

-- Limits how long the server keeps the transaction of a process that is frozen or cut off. A shorter limit of the
-- role or the database stays.
-- name: LimitIdle
SELECT set_config('idle_in_transaction_session_timeout', $1::text, true)
WHERE current_setting('idle_in_transaction_session_timeout')::interval
	NOT BETWEEN interval '1 millisecond' AND $1::text::float8 * interval '1 millisecond'

-- Reads an attempt and keeps its row from changing until the transaction ends. It waits for a transaction that has
-- changed the row.
-- name: LockAttempt
SELECT state::text, attempt = $2 AND attempted_by[cardinality(attempted_by)] = $3, metadata ? 'cancel_attempted_at'
FROM {{schema}}.river_job WHERE id = $1 FOR UPDATE
