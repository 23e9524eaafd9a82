-- The outbox: messages are inserted in the application's transaction and sent from here.

-- +goose Up
CREATE TABLE email_outbox (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_key       text        UNIQUE, -- the job that sends this message; null for messages enqueued directly
    recipients    text[]      NOT NULL CHECK (cardinality(recipients) > 0),
    subject       text        NOT NULL,
    body_text     text        NOT NULL,
    body_html     text        NOT NULL,
    status        text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sent', 'failed')),
    attempts      integer     NOT NULL DEFAULT 0,
    last_error    text        NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz NOT NULL DEFAULT now(),
    -- The claim of the process that is sending the message, valid until claimed_until; null if there is none.
    claim         uuid,
    claimed_until timestamptz,
    finished_at   timestamptz CHECK ((finished_at IS NULL) = (status = 'pending'))
);

CREATE INDEX email_outbox_due_at_idx ON email_outbox (due_at, id) WHERE status = 'pending';
CREATE INDEX email_outbox_finished_at_idx ON email_outbox (finished_at) WHERE finished_at IS NOT NULL;

-- +goose Down
DROP TABLE email_outbox;
