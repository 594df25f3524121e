-- Data providers behind forms: their runs, which no list shows, and their answers, kept for a while.
ALTER TABLE executions ADD COLUMN kind TEXT NOT NULL DEFAULT 'workflow' CHECK (kind IN ('workflow', 'data_provider'));
COMMENT ON COLUMN executions.kind IS
    'data_provider: a run that fills the options of a form. No list, read, count or audit shows it, and it is removed at its end.';
CREATE INDEX executions_provider_idx ON executions (created_at) WHERE kind = 'data_provider';

CREATE TABLE provider_answers (
    organization_id  UUID REFERENCES organizations,
    provider_id      UUID NOT NULL,
    inputs_hash      BYTEA NOT NULL,
    content_hash     TEXT NOT NULL,
    execution_id     UUID NOT NULL,
    options          JSON,
    expires_at       TIMESTAMPTZ,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (organization_id, provider_id, inputs_hash)
);
CREATE INDEX provider_answers_expires_idx ON provider_answers (expires_at);
COMMENT ON TABLE provider_answers IS
    'What data providers answered, per organization and inputs; may be lost, then it is computed again.';
COMMENT ON COLUMN provider_answers.inputs_hash IS 'SHA-256 of the canonical inputs.';
COMMENT ON COLUMN provider_answers.content_hash IS 'Of the provider''s file: another one makes the answer void.';
COMMENT ON COLUMN provider_answers.execution_id IS 'The latest run that computes it: who asks meanwhile waits for that one.';
COMMENT ON COLUMN provider_answers.options IS 'NULL until the first run has succeeded.';

ALTER TABLE provider_answers ENABLE ROW LEVEL SECURITY;
ALTER TABLE provider_answers FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON provider_answers TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_answers TO bifrost_app, bifrost_system;
