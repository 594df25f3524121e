-- Files that users upload for forms; their bytes are in the upload store.
CREATE TABLE uploads (
    id                UUID PRIMARY KEY,
    organization_id   UUID REFERENCES organizations,
    form_id           UUID NOT NULL REFERENCES forms,
    path              TEXT NOT NULL UNIQUE,
    name              TEXT NOT NULL,
    content_type      TEXT NOT NULL,
    announced_bytes   BIGINT NOT NULL CHECK (announced_bytes >= 0),
    received_bytes    BIGINT,
    created_by        UUID NOT NULL,
    created_by_name   TEXT NOT NULL,
    created_by_email  TEXT NOT NULL,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at        TIMESTAMPTZ NOT NULL,
    receiving_since   TIMESTAMPTZ,
    received_at       TIMESTAMPTZ
);
CREATE INDEX uploads_form_idx ON uploads (form_id, path COLLATE "C") WHERE received_at IS NOT NULL;
CREATE INDEX uploads_unused_idx ON uploads (expires_at) WHERE received_at IS NULL;
COMMENT ON TABLE uploads IS 'Files that users upload for forms. A run reads those of its own form and organization alone.';
COMMENT ON COLUMN uploads.path IS 'Form, id and safe name, as runs address it.';
COMMENT ON COLUMN uploads.receiving_since IS 'Somebody is sending the bytes: the URL is used.';

ALTER TABLE uploads ENABLE ROW LEVEL SECURITY;
ALTER TABLE uploads FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON uploads TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT, INSERT, UPDATE ON uploads TO bifrost_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON uploads TO bifrost_system;
