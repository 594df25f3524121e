-- Workflow keys: what a machine calls the endpoints of workflows with.
CREATE TABLE workflow_keys (
    id                  UUID PRIMARY KEY,
    organization_id     UUID REFERENCES organizations,
    workflow_id         UUID REFERENCES workflows,
    key_hash            BYTEA NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    masked_key          TEXT NOT NULL,
    description         TEXT,
    disable_global_key  BOOLEAN NOT NULL DEFAULT FALSE,
    created_by          TEXT NOT NULL,
    created_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at          TIMESTAMPTZ,
    last_used_at        TIMESTAMPTZ,
    revoked_at          TIMESTAMPTZ,
    revoked_by          TEXT
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX workflow_keys_active_key ON workflow_keys (organization_id, workflow_id) NULLS NOT DISTINCT
    WHERE workflow_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX workflow_keys_workflow_idx ON workflow_keys (workflow_id, organization_id);
CREATE INDEX workflow_keys_organization_idx ON workflow_keys (organization_id, id DESC);
COMMENT ON COLUMN workflow_keys.workflow_id IS 'NULL: a global key, which opens every endpoint of its scope that takes one.';
COMMENT ON COLUMN workflow_keys.key_hash IS 'SHA-256 of the key, which has 256 random bits and is shown once.';
COMMENT ON COLUMN workflow_keys.disable_global_key IS 'While this key is active, global keys do not open its workflow in this scope.';

ALTER TABLE workflow_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE workflow_keys FORCE ROW LEVEL SECURITY;
GRANT SELECT, UPDATE ON workflow_keys TO bifrost_system;
GRANT SELECT, INSERT, UPDATE ON workflow_keys TO bifrost_app;
CREATE POLICY scope ON workflow_keys TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));

-- The endpoints that the OpenAPI document describes.
CREATE INDEX workflows_endpoints_idx ON workflows (name) WHERE is_active AND definition @> '{"endpoint_enabled": true}';
