-- Notifications: what the platform tells one user about work that goes on without them.
CREATE TABLE notifications (
    id               UUID PRIMARY KEY,
    organization_id  UUID REFERENCES organizations,
    user_id          UUID NOT NULL,
    for_admins       BOOLEAN NOT NULL DEFAULT FALSE,
    category         TEXT NOT NULL
                         CHECK (category IN ('github_setup', 'github_sync', 'file_upload', 'package_install', 'system')),
    title            TEXT NOT NULL,
    description      TEXT,
    status           TEXT NOT NULL DEFAULT 'pending'
                         CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    percent          DOUBLE PRECISION CHECK (percent BETWEEN 0 AND 100),
    error            TEXT,
    result           JSONB,
    metadata         JSONB,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at       TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX notifications_user_idx ON notifications (user_id, id DESC);
CREATE INDEX notifications_admins_idx ON notifications (id DESC) WHERE for_admins;
CREATE INDEX notifications_expiry_idx ON notifications (expires_at);
COMMENT ON TABLE notifications IS 'Short-lived: an hour after the last update, five minutes after the end.';
COMMENT ON COLUMN notifications.for_admins IS 'Every platform administrator sees it; only its owner dismisses it.';

ALTER TABLE notifications ENABLE ROW LEVEL SECURITY;
ALTER TABLE notifications FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON notifications TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT, INSERT, DELETE ON notifications TO bifrost_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON notifications TO bifrost_system;
