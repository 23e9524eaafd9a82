-- Keys of jobs.IdempotencyKey. All states hold such a key, so it is taken until the row is deleted.
-- name: FindOnce
SELECT id, coalesce(metadata->>'everytick_fingerprint', '') FROM {{schema}}.river_job
WHERE unique_key = $1 AND {{holds_key}}
