-- name: Encoding
SELECT current_setting('server_encoding')

-- Prepares a session of the scheduler's own whose server process is $1. Behind a pooler, which draws a number from all
-- of 32 bits, it differs, and what is set could reach sessions of the application. Statements must see what others
-- commit meanwhile, and the role must not cut off a connection that listens or waits for the next heartbeat.
-- PostgreSQL 13 has no idle_session_timeout.
-- name: PrepareSession
SELECT set_config(name, value, false)
FROM (VALUES ('default_transaction_isolation', 'read committed'), ('idle_session_timeout', '0')) AS wanted (name, value)
WHERE pg_backend_pid() = $1::bigint AND current_setting(name, true) <> value
