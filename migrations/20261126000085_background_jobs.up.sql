-- Background jobs: what works on the workspace for somebody who does not wait for it.
CREATE TABLE background_jobs (
    id                  UUID PRIMARY KEY,
    kind                TEXT NOT NULL CHECK (kind IN ('git.sync', 'packages.install')),
    organization_id     UUID REFERENCES organizations,
    requested_by        UUID NOT NULL,
    requested_by_name   TEXT NOT NULL,
    requested_by_email  TEXT NOT NULL,
    payload             JSONB NOT NULL,
    notification_id     UUID,
    traceparent         TEXT,

    status              TEXT NOT NULL DEFAULT 'Pending'
                            CHECK (status IN ('Pending', 'Running', 'Success', 'Conflict', 'Failed')),
    attempt             INTEGER NOT NULL DEFAULT 0,
    max_attempts        INTEGER NOT NULL CHECK (max_attempts BETWEEN 1 AND 10),
    timeout_seconds     INTEGER NOT NULL CHECK (timeout_seconds BETWEEN 1 AND 7200),
    lease_owner         UUID,
    lease_expires_at    TIMESTAMPTZ,
    woken_at            TIMESTAMPTZ NOT NULL DEFAULT now(),

    message             TEXT,
    result              JSONB,
    created_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at          TIMESTAMPTZ,
    completed_at        TIMESTAMPTZ,
    CHECK ((status = 'Running') = (lease_expires_at IS NOT NULL)),
    CHECK ((status IN ('Success', 'Conflict', 'Failed')) = (completed_at IS NOT NULL))
);
CREATE INDEX background_jobs_pending_idx ON background_jobs (id) WHERE status = 'Pending';
CREATE INDEX background_jobs_age_idx ON background_jobs (completed_at) WHERE completed_at IS NOT NULL;
-- The workspace is one, and whatever changes it does so alone.
CREATE UNIQUE INDEX background_jobs_running_key ON background_jobs (status) WHERE status = 'Running';
COMMENT ON TABLE background_jobs IS 'Git jobs and package builds: one runs at a time, the oldest first. Kept for 30 days.';
COMMENT ON COLUMN background_jobs.kind IS 'The queue that wakes its workers; what is to be done is in the payload.';
COMMENT ON COLUMN background_jobs.attempt IS 'The fence: every write of a job names the attempt it was claimed with.';
COMMENT ON COLUMN background_jobs.woken_at IS 'When a wake-up was last published for it.';
COMMENT ON COLUMN background_jobs.message IS 'How it ended, for the person who asked for it.';

ALTER TABLE background_jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE background_jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON background_jobs TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT, INSERT ON background_jobs TO bifrost_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON background_jobs TO bifrost_system;
