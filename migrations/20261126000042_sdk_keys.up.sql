-- SDK keys: what a developer's machine calls the SDK routes with, as its user; and what such calls start from.
CREATE TABLE sdk_keys (
    id            UUID PRIMARY KEY,
    user_id       UUID NOT NULL REFERENCES users ON DELETE CASCADE,
    name          TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    key_hash      BYTEA NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    key_prefix    TEXT NOT NULL,
    is_active     BOOLEAN NOT NULL DEFAULT TRUE,
    expires_at    TIMESTAMPTZ,
    last_used_at  TIMESTAMPTZ,
    use_count     BIGINT NOT NULL DEFAULT 0,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX sdk_keys_user_idx ON sdk_keys (user_id, id DESC);
COMMENT ON COLUMN sdk_keys.key_hash IS 'SHA-256 of the key, which has 256 random bits and is shown once.';

CREATE TABLE developer_contexts (
    user_id             UUID PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    default_org_id      UUID REFERENCES organizations,
    default_parameters  JSON NOT NULL DEFAULT '{}',
    track_executions    BOOLEAN NOT NULL DEFAULT TRUE,
    updated_at          TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- They belong to a user, wherever the user belongs: a scope reaches those of the users it sees.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['sdk_keys', 'developer_contexts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, UPDATE ON %I TO bifrost_system', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_app', name);
        EXECUTE format('CREATE POLICY scope ON %1$I TO bifrost_app
            USING (EXISTS (SELECT FROM users WHERE users.id = %1$I.user_id))
            WITH CHECK (EXISTS (SELECT FROM users WHERE users.id = %1$I.user_id))', name);
    END LOOP;
END
$$;
