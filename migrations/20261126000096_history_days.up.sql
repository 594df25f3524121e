-- How long an organization keeps its history (ADR 50), out of its settings as its limit of runs is.
ALTER TABLE organizations
    ADD COLUMN history_days INTEGER GENERATED ALWAYS AS (CASE WHEN jsonb_typeof(settings -> 'history_days') = 'number'
        THEN LEAST(GREATEST(trunc((settings ->> 'history_days')::NUMERIC), 1), 36500)::INTEGER END) STORED;
COMMENT ON COLUMN organizations.history_days IS
    'Days for which executions that ended are kept, where the platform keeps them longer; NULL: as long as the platform.';

-- Housekeeping looks for them every hour, and few there are among all.
CREATE INDEX executions_transient_idx ON executions (completed_at) WHERE transient;
