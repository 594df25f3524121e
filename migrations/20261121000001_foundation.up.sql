-- The foundation: tenancy, people, workflows, executions and their logs, configuration, secrets, audit.
--
-- Two roles do all the work, both without login:
--   bifrost_app     acts for one request or run; row-level security shows it one scope and nothing else
--   bifrost_system  acts for the platform (claim, finish, reap, sign-in); passes by the policies
-- The scope of a transaction is the setting bifrost.org_id: an organization's uuid, 'GLOBAL' for the rows
-- that belong to no organization, or 'PLATFORM' for a platform administrator who spans all of them.
-- Unset means none: nothing is visible.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bifrost_app') THEN
        CREATE ROLE bifrost_app NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bifrost_system') THEN
        CREATE ROLE bifrost_system NOLOGIN BYPASSRLS;
    END IF;
EXCEPTION
    -- Databases of one cluster share its roles: another database's migration was quicker.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE FUNCTION in_scope(org UUID) RETURNS BOOLEAN
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE current_setting('bifrost.org_id', TRUE)
        WHEN 'PLATFORM' THEN TRUE
        WHEN 'GLOBAL' THEN org IS NULL
        ELSE COALESCE(org = NULLIF(current_setting('bifrost.org_id', TRUE), '')::UUID, FALSE)
    END;
COMMENT ON FUNCTION in_scope IS 'Whether a row of this organization belongs to the scope of the transaction.';

CREATE FUNCTION in_cascade(org UUID) RETURNS BOOLEAN
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN in_scope(org)
        OR (org IS NULL AND COALESCE(current_setting('bifrost.org_id', TRUE), '') <> '');
COMMENT ON FUNCTION in_cascade IS 'As in_scope, and global rows may be read from every scope.';

CREATE TABLE organizations (
    id          UUID PRIMARY KEY,
    name        TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    domain      TEXT CHECK (domain = lower(domain)),
    is_active   BOOLEAN NOT NULL DEFAULT TRUE,
    settings    JSONB NOT NULL DEFAULT '{}',
    created_by  TEXT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX organizations_domain_key ON organizations (domain) WHERE is_active;
CREATE INDEX organizations_name_idx ON organizations (name COLLATE "C", id);

CREATE TABLE users (
    id                 UUID PRIMARY KEY,
    organization_id    UUID REFERENCES organizations,
    email              TEXT NOT NULL UNIQUE CHECK (email = lower(email)),
    name               TEXT NOT NULL DEFAULT '',
    password_hash      TEXT,
    user_type          TEXT NOT NULL CHECK (user_type IN ('SYSTEM', 'PLATFORM', 'ORG')),
    is_active          BOOLEAN NOT NULL DEFAULT TRUE,
    is_superuser       BOOLEAN NOT NULL DEFAULT FALSE,
    is_verified        BOOLEAN NOT NULL DEFAULT FALSE,
    is_registered      BOOLEAN NOT NULL DEFAULT TRUE,
    last_login         TIMESTAMPTZ,
    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at         TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX users_organization_idx ON users (organization_id, email COLLATE "C");
COMMENT ON COLUMN users.password_hash IS 'Argon2id PHC string; NULL: no password sign-in.';

-- Owns the runs that no person started (keys, public endpoints, schedules).
INSERT INTO users (id, email, name, user_type, is_verified)
VALUES ('00000000-0000-0000-0000-000000000001', 'system@bifrost.invalid', 'System', 'SYSTEM', TRUE);

CREATE TABLE roles (
    id               UUID PRIMARY KEY,
    organization_id  UUID REFERENCES organizations,
    name             TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    description      TEXT NOT NULL DEFAULT '',
    permissions      JSONB NOT NULL DEFAULT '[]',
    is_active        BOOLEAN NOT NULL DEFAULT TRUE,
    created_by       TEXT NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE user_roles (
    user_id          UUID NOT NULL REFERENCES users ON DELETE CASCADE,
    role_id          UUID NOT NULL REFERENCES roles ON DELETE CASCADE,
    organization_id  UUID REFERENCES organizations,
    assigned_by      TEXT NOT NULL,
    assigned_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, role_id)
);

-- A session is a refresh-token family: rotating replaces the current hash, presenting an old token revokes it.
CREATE TABLE sessions (
    id                  UUID PRIMARY KEY,
    user_id             UUID NOT NULL REFERENCES users ON DELETE CASCADE,
    refresh_hash        BYTEA NOT NULL UNIQUE,
    created_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    rotated_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at          TIMESTAMPTZ NOT NULL,
    revoked_at          TIMESTAMPTZ,
    revoked_reason      TEXT,
    user_agent          TEXT
);
CREATE INDEX sessions_user_idx ON sessions (user_id) WHERE revoked_at IS NULL;

CREATE TABLE spent_refresh_tokens (
    refresh_hash  BYTEA PRIMARY KEY,
    session_id    UUID NOT NULL REFERENCES sessions ON DELETE CASCADE,
    spent_at      TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE spent_refresh_tokens IS 'Hashes of rotated refresh tokens: seeing one again revokes its session.';

CREATE TABLE workflows (
    id                UUID PRIMARY KEY,
    organization_id   UUID REFERENCES organizations,
    kind              TEXT NOT NULL CHECK (kind IN ('workflow', 'data_provider')),
    path              TEXT NOT NULL,
    function_name     TEXT NOT NULL,
    name              TEXT NOT NULL,
    description       TEXT,
    category          TEXT NOT NULL DEFAULT 'General',
    execution_mode    TEXT NOT NULL DEFAULT 'async' CHECK (execution_mode IN ('sync', 'async')),
    isolation         TEXT NOT NULL DEFAULT 'process' CHECK (isolation IN ('process', 'pooled')),
    timeout_seconds   INTEGER NOT NULL DEFAULT 1800 CHECK (timeout_seconds BETWEEN 1 AND 7200),
    max_attempts      INTEGER NOT NULL DEFAULT 1 CHECK (max_attempts BETWEEN 1 AND 10),
    parameters        JSONB NOT NULL DEFAULT '[]',
    definition        JSONB NOT NULL DEFAULT '{}',
    content_hash      TEXT NOT NULL,
    is_active         BOOLEAN NOT NULL DEFAULT TRUE,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (organization_id, kind, path, function_name)
);
CREATE INDEX workflows_name_idx ON workflows (name) WHERE is_active;
COMMENT ON COLUMN workflows.path IS 'Relative to the workspace.';
COMMENT ON COLUMN workflows.definition IS 'Everything else the decorator said: tags, schedule, endpoint options, retry policy.';

CREATE TABLE workspace_problems (
    path      TEXT NOT NULL,
    line      INTEGER NOT NULL,
    severity  TEXT NOT NULL,
    message   TEXT NOT NULL,
    hint      TEXT,
    found_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE workspace_problems IS 'What the last indexing of the workspace found wrong, file by file.';

CREATE TABLE executions (
    id                 UUID PRIMARY KEY,
    organization_id    UUID REFERENCES organizations,
    workflow_id        UUID,
    workflow_name      TEXT NOT NULL,
    code               TEXT,
    script_name        TEXT,
    parameters         JSON NOT NULL,
    startup            JSON,
    form_id            UUID,
    parent_id          UUID,
    transient          BOOLEAN NOT NULL DEFAULT FALSE,
    executed_by        UUID NOT NULL,
    executed_by_name   TEXT NOT NULL,
    executed_by_email  TEXT NOT NULL,
    is_platform_admin  BOOLEAN NOT NULL DEFAULT FALSE,
    is_function_key    BOOLEAN NOT NULL DEFAULT FALSE,

    status             TEXT NOT NULL DEFAULT 'Pending' CHECK (status IN ('Pending', 'Running', 'Cancelling',
                           'Success', 'CompletedWithErrors', 'Failed', 'Timeout', 'Cancelled')),
    priority           SMALLINT NOT NULL CHECK (priority BETWEEN 1 AND 10),
    queue_rank         TIMESTAMPTZ NOT NULL,
    due_at             TIMESTAMPTZ NOT NULL,
    attempt            INTEGER NOT NULL DEFAULT 0,
    max_attempts       INTEGER NOT NULL DEFAULT 1,
    retry_policy       JSON,
    timeout_seconds    INTEGER NOT NULL,
    lease_owner        UUID,
    lease_expires_at   TIMESTAMPTZ,
    cancel_requested_at TIMESTAMPTZ,

    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at         TIMESTAMPTZ,
    attempt_started_at TIMESTAMPTZ,
    completed_at       TIMESTAMPTZ,
    duration_ms        BIGINT,
    result             JSON,
    result_type        TEXT,
    error_message      TEXT,
    error_type         TEXT,
    is_user_error      BOOLEAN NOT NULL DEFAULT FALSE,
    variables          JSON,
    peak_memory_bytes  BIGINT,
    cpu_total_seconds  DOUBLE PRECISION,
    traceparent        TEXT
) WITH (fillfactor = 85);
-- Global rows are listed like an organization's: an index finds equality, and IS NOT DISTINCT FROM it does not. CASE and
-- not COALESCE, which counts as leaky, so that the index would be of no use beside row-level security.
CREATE INDEX executions_list_idx ON executions ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), id DESC) WHERE NOT transient;
CREATE INDEX executions_pending_idx ON executions (queue_rank, id) WHERE status = 'Pending';
CREATE INDEX executions_live_idx ON executions (lease_expires_at) WHERE status IN ('Running', 'Cancelling');
COMMENT ON COLUMN executions.attempt IS 'The fence: every write of a run names the attempt it was claimed with.';
COMMENT ON COLUMN executions.queue_rank IS
    'created_at less one minute per step of priority: the smallest goes first, so that waiting a minute counts as one step.';

CREATE TABLE execution_logs (
    execution_id     UUID NOT NULL,
    sequence         BIGINT NOT NULL,
    user_sequence    BIGINT,
    organization_id  UUID,
    attempt          INTEGER NOT NULL,
    level            TEXT NOT NULL,
    message          TEXT NOT NULL,
    data             JSON,
    logged_at        TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (execution_id, sequence)
);
COMMENT ON COLUMN execution_logs.sequence IS 'From 1 without gaps, in order of emission, across attempts.';
COMMENT ON COLUMN execution_logs.user_sequence IS
    'The same, counting only the lines a user without platform rights may see; NULL for the others.';

CREATE TABLE idempotency_keys (
    organization_id  UUID,
    user_id          UUID NOT NULL,
    route            TEXT NOT NULL,
    key              TEXT NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint      BYTEA NOT NULL,
    execution_id     UUID NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (organization_id, user_id, route, key)
);
CREATE INDEX idempotency_keys_age_idx ON idempotency_keys (created_at);

CREATE TABLE data_keys (
    id               UUID PRIMARY KEY,
    organization_id  UUID REFERENCES organizations,
    master_key_id    TEXT NOT NULL,
    wrapped          BYTEA NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (organization_id)
);
COMMENT ON TABLE data_keys IS 'One data key per organization and one global, wrapped by a master key.';

CREATE TABLE config (
    id               UUID PRIMARY KEY,
    organization_id  UUID REFERENCES organizations,
    key              TEXT NOT NULL CHECK (key ~ '^[a-zA-Z0-9_]+$'),
    value_type       TEXT NOT NULL CHECK (value_type IN ('string', 'int', 'bool', 'json', 'secret')),
    value            TEXT,
    sealed           BYTEA,
    description      TEXT,
    updated_by       TEXT NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    CHECK ((value_type = 'secret') = (sealed IS NOT NULL) AND (value IS NULL) = (sealed IS NOT NULL)),
    UNIQUE NULLS NOT DISTINCT (organization_id, key)
);

CREATE TABLE secrets (
    id               UUID PRIMARY KEY,
    organization_id  UUID REFERENCES organizations,
    key              TEXT NOT NULL CHECK (key ~ '^[a-zA-Z0-9_-]{1,100}$'),
    sealed           BYTEA NOT NULL,
    updated_by       TEXT NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (organization_id, key)
);

CREATE TABLE audit_log (
    id               UUID PRIMARY KEY,
    organization_id  UUID,
    actor_id         UUID,
    actor            TEXT NOT NULL,
    action           TEXT NOT NULL,
    resource         TEXT NOT NULL,
    request_id       TEXT,
    details          JSON,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_list_idx ON audit_log (organization_id, id DESC);
COMMENT ON TABLE audit_log IS 'Append-only for both roles: neither may update or delete a row.';

-- Row-level security: forced on every table; a table without a policy for bifrost_app is closed to it.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT LIKE '\_sqlx%' LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_system', name);
    END LOOP;
    -- Strict: exactly the scope.
    FOREACH name IN ARRAY ARRAY['users', 'executions', 'execution_logs', 'idempotency_keys', 'audit_log', 'user_roles'] LOOP
        EXECUTE format('CREATE POLICY scope ON %I TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id))', name);
    END LOOP;
    -- Cascade: the scope's rows, and reading the global ones.
    FOREACH name IN ARRAY ARRAY['workflows', 'config', 'secrets', 'data_keys', 'roles'] LOOP
        EXECUTE format('CREATE POLICY scope_read ON %I FOR SELECT TO bifrost_app USING (in_cascade(organization_id))', name);
        EXECUTE format('CREATE POLICY scope_insert ON %I FOR INSERT TO bifrost_app WITH CHECK (in_scope(organization_id))', name);
        EXECUTE format('CREATE POLICY scope_update ON %I FOR UPDATE TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id))', name);
        EXECUTE format('CREATE POLICY scope_delete ON %I FOR DELETE TO bifrost_app USING (in_scope(organization_id))', name);
    END LOOP;
END
$$;
CREATE POLICY scope ON organizations TO bifrost_app USING (in_scope(id)) WITH CHECK (in_scope(id));

GRANT SELECT, INSERT, UPDATE, DELETE ON organizations, users, roles, user_roles, workflows, config, secrets TO bifrost_app;
GRANT SELECT, INSERT ON data_keys, audit_log, idempotency_keys TO bifrost_app;
GRANT SELECT, INSERT, UPDATE ON executions TO bifrost_app;
GRANT SELECT ON execution_logs TO bifrost_app;
REVOKE UPDATE, DELETE ON audit_log FROM bifrost_system;
