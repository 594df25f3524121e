-- Logins with providers (ADR 29). They belong to a user, not to an organization, and only the platform itself looks at
-- them.
CREATE TABLE provider_logins (
    id            UUID PRIMARY KEY,
    user_id       UUID NOT NULL REFERENCES users ON DELETE CASCADE,
    provider      TEXT NOT NULL CHECK (provider IN ('google', 'microsoft', 'github', 'oidc')),
    issuer        TEXT NOT NULL,
    subject       TEXT NOT NULL,
    email         TEXT NOT NULL,
    linked_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at  TIMESTAMPTZ,
    UNIQUE (issuer, subject),
    UNIQUE (user_id, provider)
);
COMMENT ON TABLE provider_logins IS 'Who a person is at a login provider. Issuer and subject identify, the address does not.';
COMMENT ON COLUMN provider_logins.email IS 'As the provider showed it last; for its owner to recognize.';

ALTER TABLE provider_logins ENABLE ROW LEVEL SECURITY;
ALTER TABLE provider_logins FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_logins TO bifrost_system;
