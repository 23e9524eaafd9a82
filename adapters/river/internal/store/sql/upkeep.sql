-- Whether the table of jobs has grown to many times the size it had when its statistics were made. On a new table
-- River's queries keep the plans they got while it was empty, and read all of it at each fetch; autovacuum comes a
-- minute late. What was stored by a transaction that had not ended then was not seen, but had its size.
-- name: HasGrown
SELECT coalesce(pg_has_role(relowner, 'USAGE') AND (
		pg_relation_size(oid) / 8192 > 4 * greatest(relpages, 0) + 32
		OR pg_stat_get_mod_since_analyze(oid) > 4 * greatest(reltuples, 0) + 1000
	), false)
FROM pg_class WHERE oid = '{{schema}}.river_job'::regclass

-- name: TryAnalyzeLock
SELECT pg_try_advisory_xact_lock(hashtextextended('everytick analyze ' || $1, 0))

-- name: Analyze
ANALYZE {{schema}}.river_job

-- name: HasLeader
SELECT EXISTS (SELECT FROM {{schema}}.river_leader WHERE expires_at > now())

-- name: IsReadOnly
SELECT current_setting('transaction_read_only')::bool

-- name: Encoding
SELECT current_setting('server_encoding')
