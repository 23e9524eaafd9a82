-- Notifications shown to users inside the application.

-- +goose Up
CREATE TABLE notifications (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    text        NOT NULL CHECK (user_id <> ''),
    kind       text        NOT NULL DEFAULT '',
    title      text        NOT NULL CHECK (title <> ''),
    body       text        NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at    timestamptz,
    expires_at timestamptz
);

CREATE INDEX notifications_user_idx ON notifications (user_id, id);
CREATE INDEX notifications_unread_idx ON notifications (user_id, id) WHERE read_at IS NULL;
-- For the cleanup job.
CREATE INDEX notifications_created_at_idx ON notifications (created_at);
CREATE INDEX notifications_expires_at_idx ON notifications (expires_at) WHERE expires_at IS NOT NULL;

-- +goose Down
DROP TABLE notifications;
