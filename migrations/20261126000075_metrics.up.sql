-- Metrics (ADR 41): what ended, summed up by organization, workflow, person and day, apart from the history of executions.
--
-- An execution that ends leaves a row here, in its own transaction, whatever ended it. Every two minutes these rows are
-- deleted and added to the sums in one statement, so that each is counted once, whoever does it and however often.
CREATE TABLE execution_endings (
    organization_id    UUID,
    workflow_name      TEXT NOT NULL,
    executed_by        UUID NOT NULL,
    status             TEXT NOT NULL,
    completed_at       TIMESTAMPTZ NOT NULL,
    duration_ms        BIGINT,
    peak_memory_bytes  BIGINT,
    cpu_microseconds   BIGINT
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE execution_endings IS
    'Executions that ended and are not in execution_metrics yet. Without an index: it is read whole, and empty most of the time.';

-- It runs as whoever ends the execution, so row-level security checks it too.
CREATE FUNCTION record_ending() RETURNS TRIGGER
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO execution_endings (organization_id, workflow_name, executed_by, status, completed_at, duration_ms,
        peak_memory_bytes, cpu_microseconds)
    VALUES (NEW.organization_id, NEW.workflow_name, NEW.executed_by, NEW.status, NEW.completed_at, NEW.duration_ms,
        NEW.peak_memory_bytes, round(NEW.cpu_total_seconds * 1000000)::BIGINT);
    RETURN NULL;
END
$$;
CREATE TRIGGER execution_ended AFTER UPDATE ON executions FOR EACH ROW
    WHEN (OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL AND NOT NEW.transient AND NEW.kind = 'workflow')
    EXECUTE FUNCTION record_ending();

-- What ended before.
INSERT INTO execution_endings
SELECT organization_id, workflow_name, executed_by, status, completed_at, duration_ms, peak_memory_bytes,
    round(cpu_total_seconds * 1000000)::BIGINT
FROM executions
WHERE completed_at IS NOT NULL AND NOT transient AND kind = 'workflow';

CREATE TABLE execution_metrics (
    grain                  TEXT NOT NULL CHECK (grain IN ('total', 'person', 'day', 'workflow_day')),
    organization_id        UUID REFERENCES organizations,
    day                    DATE,
    workflow_name          TEXT,
    executed_by            UUID,
    executions             BIGINT NOT NULL,
    successes              BIGINT NOT NULL,
    failures               BIGINT NOT NULL,
    timeouts               BIGINT NOT NULL,
    cancellations          BIGINT NOT NULL,
    timed                  BIGINT NOT NULL,
    duration_ms            BIGINT NOT NULL,
    max_duration_ms        BIGINT NOT NULL,
    measured               BIGINT NOT NULL,
    memory_bytes           BIGINT NOT NULL,
    peak_memory_bytes      BIGINT NOT NULL,
    cpu_microseconds       BIGINT NOT NULL,
    peak_cpu_microseconds  BIGINT NOT NULL,
    CHECK ((grain IN ('day', 'workflow_day')) = (day IS NOT NULL)),
    CHECK ((grain = 'workflow_day') = (workflow_name IS NOT NULL)),
    CHECK ((grain = 'person') = (executed_by IS NOT NULL)),
    UNIQUE NULLS NOT DISTINCT (grain, organization_id, day, workflow_name, executed_by)
) WITH (fillfactor = 70);
CREATE INDEX execution_metrics_day_idx ON execution_metrics (grain, day) WHERE day IS NOT NULL;
CREATE INDEX execution_metrics_person_idx ON execution_metrics (executed_by) WHERE executed_by IS NOT NULL;
COMMENT ON TABLE execution_metrics IS 'Sums over executions that ended; they stay when their executions are removed.';
COMMENT ON COLUMN execution_metrics.grain IS
    'Summed over what: total and person for all time, day and workflow_day for the day (UTC) of the end. Days are kept for 400.';
COMMENT ON COLUMN execution_metrics.failures IS 'Failed and CompletedWithErrors.';
COMMENT ON COLUMN execution_metrics.timed IS 'Executions that have a duration: what was cancelled while it waited has none.';
COMMENT ON COLUMN execution_metrics.measured IS 'Executions whose memory and CPU time are known.';
COMMENT ON COLUMN execution_metrics.cpu_microseconds IS 'Whole numbers, so that the order in which they are added changes nothing.';

CREATE TABLE execution_minutes (
    minute            TIMESTAMPTZ PRIMARY KEY,
    executions        BIGINT NOT NULL,
    successes         BIGINT NOT NULL,
    failures          BIGINT NOT NULL,
    timed             BIGINT NOT NULL,
    duration_ms       BIGINT NOT NULL,
    memory_bytes      BIGINT NOT NULL,
    cpu_microseconds  BIGINT NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE execution_minutes IS 'The same of the whole platform, by the minute of the end, for the last 25 hours.';
COMMENT ON COLUMN execution_minutes.failures IS 'Failed, CompletedWithErrors and Timeout.';

-- The newest failures: of a person, of an organization, of all. They hold failures alone, so only those pay for them.
CREATE INDEX executions_failed_own_idx ON executions (executed_by, id DESC)
    WHERE status IN ('Failed', 'Timeout', 'CompletedWithErrors') AND NOT transient AND kind = 'workflow';
CREATE INDEX executions_failed_list_idx ON executions ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), id DESC)
    WHERE status IN ('Failed', 'Timeout', 'CompletedWithErrors') AND NOT transient AND kind = 'workflow';
CREATE INDEX executions_failed_idx ON executions (id DESC)
    WHERE status IN ('Failed', 'Timeout', 'CompletedWithErrors') AND NOT transient AND kind = 'workflow';

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['execution_endings', 'execution_metrics', 'execution_minutes'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_system', name);
    END LOOP;
END
$$;
CREATE POLICY scope ON execution_endings TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
CREATE POLICY scope_read ON execution_metrics FOR SELECT TO bifrost_app USING (in_scope(organization_id));
GRANT SELECT, INSERT ON execution_endings TO bifrost_app;
GRANT SELECT ON execution_metrics TO bifrost_app;
