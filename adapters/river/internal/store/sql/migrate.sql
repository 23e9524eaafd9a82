-- Migrate executes these one after the other, outside a transaction. Each can be repeated.

-- name: SchemaExists
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)

-- name: TryMigrateLock
SELECT pg_try_advisory_xact_lock(hashtextextended('everytick migrate', 0))

-- name: MissingTables
SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass('{{schema}}.' || name) IS NULL

-- The names of paused jobs.
-- name: CreatePause
CREATE TABLE {{schema}}.everytick_pause (
	name  text PRIMARY KEY,
	since timestamptz NOT NULL DEFAULT now()
)

-- name: CreateSchedule
CREATE TABLE {{schema}}.everytick_schedule (
	name         text NOT NULL,               -- the job
	key          text NOT NULL DEFAULT '',    -- '' for the registration's schedule
	spec         text NOT NULL,               -- the schedule's canonical text
	data         jsonb NOT NULL DEFAULT '{}', -- the handler's data
	claimed_by   text NOT NULL DEFAULT '',    -- hash of all registrations of the process that set spec
	claimed_at   timestamptz NOT NULL,        -- start of that process
	next_tick    timestamptz,                 -- null if no tick is left
	last_tick    timestamptz,                 -- the latest tick inserted
	last_missed  integer,                     -- how many earlier ticks it stands for
	last_job_id  bigint,                      -- its run
	last_state   text,                        -- the run's state, if it was copied
	prev_tick    timestamptz,                 -- the tick before it, with the same columns
	prev_missed  integer,
	prev_job_id  bigint,
	prev_state   text,
	skipped_tick   timestamptz,               -- the latest tick that a pause skipped
	skipped_missed integer,
	last_success timestamptz,                 -- the tick of the latest run that succeeded
	PRIMARY KEY (name, key)
) WITH (fillfactor = 70);
CREATE INDEX everytick_schedule_next_tick ON {{schema}}.everytick_schedule (next_tick)

-- name: CreateProcess
CREATE TABLE {{schema}}.everytick_process (
	id            text PRIMARY KEY,       -- River's client ID
	beat          bigint NOT NULL,        -- increases while the process lives; 0 once it has stopped
	host          text NOT NULL,
	pid           integer NOT NULL,
	version       text NOT NULL,          -- of the program
	registrations text NOT NULL,          -- hash of all its registrations
	jobs          text[] NOT NULL,        -- their names
	workers       integer NOT NULL,
	busy          integer NOT NULL,       -- how many workers run a job
	started_at    timestamptz NOT NULL,
	seen_at       timestamptz NOT NULL    -- of the latest beat
) WITH (fillfactor = 50)

-- Calls of jobs.OnFailed that are still to be made.
-- name: CreateFailed
CREATE TABLE {{schema}}.everytick_failed (
	job_id     bigint PRIMARY KEY,              -- a run that has failed for good, or is about to
	name       text NOT NULL,                   -- its job
	failures   integer NOT NULL DEFAULT 1,      -- how often it has failed since the last call
	claimed_by text,                            -- the process that makes the call
	since      timestamptz NOT NULL DEFAULT now()
)

-- Older versions stored the next tick as a job before it was due.
-- name: DeleteOldTicks
DELETE FROM {{schema}}.river_job
WHERE metadata->'everytick_tick' = 'true' AND state IN ('available', 'scheduled') AND attempt = 0
	AND (args->>'tick')::timestamptz > now()

-- name: RenameWiderIndex
ALTER INDEX {{schema}}.everytick_job_kind_index RENAME TO river_job_kind

-- The indexes of the schema, whether this role may rebuild them, whether they are valid, and whether they have the
-- columns that Migrate gives them. PostgreSQL quotes the columns if quote_all_identifiers is on.
-- name: Indexes
SELECT relname, pg_has_role(relowner, 'USAGE'), indisvalid,
	relname <> 'river_job_kind' OR replace(pg_get_indexdef(indexrelid), '"', '') LIKE '%(kind, state)'
FROM pg_class JOIN pg_index ON indexrelid = oid
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
