-- The audit trail: the entries of the last year, and an archive of older ones.

-- +goose Up
CREATE TABLE audit_entries (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    actor       text        NOT NULL CHECK (actor <> ''),
    action      text        NOT NULL CHECK (action <> ''),
    target      text        NOT NULL DEFAULT '',
    detail      jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object')
);

-- The first index serves the retention job as well as listings.
CREATE INDEX audit_entries_occurred_at_idx ON audit_entries (occurred_at, id);
CREATE INDEX audit_entries_actor_idx ON audit_entries (actor, occurred_at, id);
CREATE INDEX audit_entries_target_idx ON audit_entries (target, occurred_at, id) WHERE target <> '';

-- An archived entry keeps its id, so the primary key prevents archiving it twice.
CREATE TABLE audit_archive (
    id          bigint      PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    actor       text        NOT NULL,
    action      text        NOT NULL,
    target      text        NOT NULL,
    detail      jsonb       NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX audit_archive_occurred_at_idx ON audit_archive (occurred_at, id);

-- +goose Down
DROP TABLE audit_archive;
DROP TABLE audit_entries;
