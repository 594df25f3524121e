-- The lock of bulk uploads: one administrator at a time fills the workspace with many files.
CREATE TABLE upload_locks (
    name           TEXT PRIMARY KEY CHECK (name = 'upload'),
    owner_user_id  UUID NOT NULL,
    owner_email    TEXT NOT NULL,
    operation      TEXT NOT NULL,
    locked_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at     TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE upload_locks IS 'A row is a lease: it holds until expires_at, and whoever comes after that takes it over.';

ALTER TABLE upload_locks ENABLE ROW LEVEL SECURITY;
ALTER TABLE upload_locks FORCE ROW LEVEL SECURITY;
-- The workspace belongs to the platform, and so does its lock.
CREATE POLICY platform ON upload_locks TO bifrost_app
    USING (current_setting('bifrost.org_id', TRUE) = 'PLATFORM')
    WITH CHECK (current_setting('bifrost.org_id', TRUE) = 'PLATFORM');
GRANT SELECT, INSERT, UPDATE, DELETE ON upload_locks TO bifrost_app;
