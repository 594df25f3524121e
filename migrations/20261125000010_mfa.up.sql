-- The second factor: one-time codes, recovery codes, trusted devices (ADR 22). All of it belongs to a user, not to an
-- organization, and only the platform itself looks at it.
CREATE TABLE mfa_methods (
    user_id       UUID PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    sealed        BYTEA NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    activated_at  TIMESTAMPTZ,
    last_step     BIGINT
);
COMMENT ON COLUMN mfa_methods.sealed IS 'The secret of RFC 6238, sealed with the global data key.';
COMMENT ON COLUMN mfa_methods.last_step IS 'The last 30-second step a code of which was accepted: no code is good twice.';

CREATE TABLE recovery_codes (
    user_id    UUID NOT NULL REFERENCES users ON DELETE CASCADE,
    code_hash  BYTEA NOT NULL,
    used_at    TIMESTAMPTZ,
    PRIMARY KEY (user_id, code_hash)
);

CREATE TABLE trusted_devices (
    id            UUID PRIMARY KEY,
    user_id       UUID NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash    BYTEA NOT NULL UNIQUE,
    user_agent    TEXT NOT NULL,
    name          TEXT,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at  TIMESTAMPTZ,
    expires_at    TIMESTAMPTZ NOT NULL
);
CREATE INDEX trusted_devices_user_idx ON trusted_devices (user_id);
COMMENT ON TABLE trusted_devices IS 'Browsers that need no code, each proven by a secret cookie and the name it goes by.';

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['mfa_methods', 'recovery_codes', 'trusted_devices'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_system', name);
    END LOOP;
END
$$;
