-- OAuth connections to the services that workflows call (ADR 33).
CREATE TABLE oauth_connections (
    id                 UUID PRIMARY KEY,
    organization_id    UUID REFERENCES organizations,
    name               TEXT NOT NULL CHECK (name ~ '^[a-zA-Z0-9_-]{1,100}$'),
    display_name       TEXT,
    description        TEXT,
    flow               TEXT NOT NULL CHECK (flow IN ('authorization_code', 'client_credentials', 'refresh_token')),
    client_id          TEXT NOT NULL,
    client_secret      BYTEA,
    authorization_url  TEXT,
    token_url          TEXT NOT NULL,
    scopes             TEXT NOT NULL DEFAULT '',
    redirect_uri       TEXT,
    status             TEXT NOT NULL DEFAULT 'not_connected' CHECK (status IN ('not_connected', 'waiting_callback',
                           'testing', 'connected', 'completed', 'failed')),
    status_message     TEXT,
    pending_state      BYTEA,
    access_token       BYTEA,
    refresh_token      BYTEA,
    token_type         TEXT NOT NULL DEFAULT 'Bearer',
    granted_scopes     TEXT,
    expires_at         TIMESTAMPTZ,
    generation         BIGINT NOT NULL DEFAULT 0,
    attempts           BIGINT NOT NULL DEFAULT 0,
    refusals           INTEGER NOT NULL DEFAULT 0,
    lease              UUID,
    lease_expires_at   TIMESTAMPTZ,
    last_refresh_at    TIMESTAMPTZ,
    last_test_at       TIMESTAMPTZ,
    created_by         TEXT NOT NULL,
    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (organization_id, name)
);
CREATE INDEX oauth_connections_due_idx ON oauth_connections (expires_at) WHERE access_token IS NOT NULL;
COMMENT ON COLUMN oauth_connections.client_secret IS 'Sealed with the data key of the organization, as both tokens are.';
COMMENT ON COLUMN oauth_connections.pending_state IS 'Hash of the state of the one authorization that may be completed.';
COMMENT ON COLUMN oauth_connections.generation IS 'Rises with every new token: whoever waited for one sees that it came.';
COMMENT ON COLUMN oauth_connections.attempts IS 'Rises with every refresh that ended, well or not.';
COMMENT ON COLUMN oauth_connections.refusals IS 'Refusals of the provider since the last token.';
COMMENT ON COLUMN oauth_connections.lease IS 'Who refreshes right now: one of all processes, until lease_expires_at.';

-- When the platform''s own periodic jobs last ran; one row each. Not a tenant''s.
CREATE TABLE job_runs (
    name        TEXT PRIMARY KEY,
    started_at  TIMESTAMPTZ NOT NULL,
    ended_at    TIMESTAMPTZ,
    report      JSON
);
COMMENT ON TABLE job_runs IS 'The last run of each periodic job that one replica at a time does.';

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['oauth_connections', 'job_runs'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_system', name);
    END LOOP;
END
$$;
CREATE POLICY scope_read ON oauth_connections FOR SELECT TO bifrost_app USING (in_cascade(organization_id));
CREATE POLICY scope_insert ON oauth_connections FOR INSERT TO bifrost_app WITH CHECK (in_scope(organization_id));
CREATE POLICY scope_update ON oauth_connections FOR UPDATE TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
CREATE POLICY scope_delete ON oauth_connections FOR DELETE TO bifrost_app USING (in_scope(organization_id));
GRANT SELECT, INSERT, UPDATE, DELETE ON oauth_connections TO bifrost_app;
