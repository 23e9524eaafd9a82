-- Whether the job table has grown to many times the size it had when its statistics were collected. On a new table
-- River's queries keep the plans made while it was empty and read the whole table at each fetch, and autovacuum
-- takes a minute to notice. ANALYZE does not count rows of open transactions, but does count their pages, so
-- both the size and the number of modifications are compared.
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

-- name: ServerState
SELECT current_setting('transaction_read_only')::bool,
	EXISTS (SELECT FROM {{schema}}.river_leader WHERE expires_at > now())
