-- Schedules: when workflows run by themselves, and what became of each tick.
CREATE TABLE schedules (
    workflow_id        UUID PRIMARY KEY REFERENCES workflows ON DELETE CASCADE,
    organization_id    UUID REFERENCES organizations,
    expression         TEXT NOT NULL,
    timezone           TEXT NOT NULL,
    overlap            TEXT NOT NULL,
    misfire            TEXT NOT NULL,
    error              TEXT,
    next_fire_at       TIMESTAMPTZ,
    waiting_fire_at    TIMESTAMPTZ,
    open_executions    UUID[] NOT NULL DEFAULT '{}',
    paused_at          TIMESTAMPTZ,
    paused_by          TEXT,
    last_run_at        TIMESTAMPTZ,
    last_execution_id  UUID,
    run_count          BIGINT NOT NULL DEFAULT 0,
    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at         TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE INDEX schedules_due_idx ON schedules (next_fire_at) WHERE next_fire_at IS NOT NULL AND paused_at IS NULL;
CREATE INDEX schedules_waiting_idx ON schedules (waiting_fire_at) WHERE waiting_fire_at IS NOT NULL;
COMMENT ON TABLE schedules IS 'Follows what the files say; a row of a workflow that has no schedule any more keeps its counts, and its expression is empty.';
COMMENT ON COLUMN schedules.next_fire_at IS 'The next tick; NULL: none, because the expression is invalid, never comes true, or is gone.';
COMMENT ON COLUMN schedules.waiting_fire_at IS 'A tick that waits for the run before it to end (overlap `queue`); at most one.';
COMMENT ON COLUMN schedules.open_executions IS 'Scheduled runs that had not ended when the last tick looked.';

CREATE TABLE schedule_fires (
    workflow_id      UUID NOT NULL REFERENCES workflows ON DELETE CASCADE,
    fire_at          TIMESTAMPTZ NOT NULL,
    organization_id  UUID REFERENCES organizations,
    outcome          TEXT NOT NULL CHECK (outcome IN ('started', 'waiting', 'overlapped', 'missed', 'inactive')),
    ticks            INTEGER NOT NULL DEFAULT 1 CHECK (ticks >= 1),
    execution_id     UUID,
    decided_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (workflow_id, fire_at),
    CHECK ((outcome = 'started') = (execution_id IS NOT NULL))
);
CREATE INDEX schedule_fires_age_idx ON schedule_fires (decided_at);
COMMENT ON TABLE schedule_fires IS 'The primary key is what makes a tick fire once: the row is written with its execution.';
COMMENT ON COLUMN schedule_fires.ticks IS 'How many ticks a row of missed ones stands for; it bears the time of the last.';

-- Workflows that have a schedule, for the schedules to follow.
CREATE INDEX workflows_schedule_idx ON workflows (id) WHERE is_active AND definition ->> 'schedule' IS NOT NULL;

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['schedules', 'schedule_fires'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_system', name);
        EXECUTE format('CREATE POLICY scope_read ON %I FOR SELECT TO bifrost_app USING (in_cascade(organization_id))', name);
    END LOOP;
END
$$;
CREATE POLICY scope_update ON schedules FOR UPDATE TO bifrost_app
    USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT, UPDATE ON schedules TO bifrost_app;
GRANT SELECT ON schedule_fires TO bifrost_app;
