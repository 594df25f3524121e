-- System events: what happened to the platform, for whoever looks after it. What people did is in the audit log.
CREATE TABLE system_events (
    id                UUID PRIMARY KEY,
    organization_id   UUID,
    category          TEXT NOT NULL CHECK (category IN ('discovery', 'organization', 'user', 'role', 'config', 'secret', 'form',
                          'oauth', 'execution', 'system', 'error')),
    level             TEXT NOT NULL CHECK (level IN ('info', 'warning', 'error', 'critical')),
    message           TEXT NOT NULL,
    details           JSONB,
    said_once         TEXT UNIQUE,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- As the list asks, beside row-level security: the rows of one organization, or those of none.
CREATE INDEX system_events_newest_idx ON system_events ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), id DESC);
CREATE INDEX system_events_age_idx ON system_events (created_at);
CREATE INDEX audit_log_newest_idx ON audit_log ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), id DESC);
COMMENT ON TABLE system_events IS 'Kept for 90 days. An organization is named where the event is about something of its own.';
COMMENT ON COLUMN system_events.said_once IS 'What several replicas notice at once is written by the first of them.';

ALTER TABLE system_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE system_events FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON system_events TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT ON system_events TO bifrost_app;
GRANT SELECT, INSERT, DELETE ON system_events TO bifrost_system;
