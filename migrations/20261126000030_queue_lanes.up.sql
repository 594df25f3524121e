-- The queue in lanes, and what holds a run back (ADR 12, 13): fairness between organizations, limits on concurrency and
-- rate, pausing.
--
-- A lane holds the waiting runs that are alike to every limit: of one organization, workflow and concurrency key. The
-- claim looks at the head of each lane, so a backlog hides nothing but itself.
ALTER TABLE executions
    ADD COLUMN concurrency_key TEXT CHECK (length(concurrency_key) <= 200),
    ADD COLUMN is_awaited BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE executions
    ADD COLUMN lane BIGINT NOT NULL GENERATED ALWAYS AS (hashtextextended(CASE WHEN organization_id IS NULL THEN '' ELSE organization_id::TEXT END
        || '/' || CASE WHEN workflow_id IS NULL THEN '' ELSE workflow_id::TEXT END
        || '/' || CASE WHEN concurrency_key IS NULL THEN '' ELSE concurrency_key END, 0)) STORED;
COMMENT ON COLUMN executions.concurrency_key IS 'Runs of an organization with the same key share a limit; filled in from the workflow''s template.';
COMMENT ON COLUMN executions.is_awaited IS 'Whether somebody waits for its end whom the organization''s limit must not hold up: the run that started it, or a form.';
COMMENT ON COLUMN executions.lane IS 'Digest of organization, workflow and key.';
COMMENT ON COLUMN executions.queue_rank IS
    'due_at less one minute per step of priority: the smallest goes first, so that waiting a minute counts as one step.';

DROP INDEX executions_pending_idx;
-- due_at comes last so that rows that are not due yet are passed over within the index.
CREATE INDEX executions_lane_idx ON executions (lane, queue_rank, id, due_at) WHERE status = 'Pending';

-- A loop and not a recursive query: its statements are planned once per connection.
CREATE FUNCTION pending_lanes(start BIGINT, most INTEGER) RETURNS SETOF BIGINT
    LANGUAGE plpgsql STABLE ROWS 8
AS $$
DECLARE
    here BIGINT;
BEGIN
    SELECT e.lane INTO here FROM executions e WHERE e.status = 'Pending' AND e.lane >= start ORDER BY e.lane LIMIT 1;
    WHILE here IS NOT NULL AND most > 0 LOOP
        RETURN NEXT here;
        most := most - 1;
        SELECT e.lane INTO here FROM executions e WHERE e.status = 'Pending' AND e.lane > here ORDER BY e.lane LIMIT 1;
    END LOOP;
    IF most > 0 THEN
        SELECT e.lane INTO here FROM executions e WHERE e.status = 'Pending' AND e.lane < start ORDER BY e.lane LIMIT 1;
    END IF;
    WHILE here IS NOT NULL AND most > 0 LOOP
        RETURN NEXT here;
        most := most - 1;
        SELECT e.lane INTO here FROM executions e
        WHERE e.status = 'Pending' AND e.lane > here AND e.lane < start ORDER BY e.lane LIMIT 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION pending_lanes IS
    'Lanes in which something waits, each found by one look at the index: from start upwards, then around to it, at most so many.';

-- What the decorator says of limits, out of its definition, so that a changed file acts on what waits already.
ALTER TABLE workflows
    ADD COLUMN concurrency_limit INTEGER GENERATED ALWAYS AS ((definition ->> 'concurrency_limit')::INTEGER) STORED,
    ADD COLUMN concurrency_key TEXT GENERATED ALWAYS AS (definition ->> 'concurrency_key') STORED,
    ADD COLUMN rate_limit_starts INTEGER GENERATED ALWAYS AS ((definition -> 'rate_limit' ->> 'starts')::INTEGER) STORED,
    ADD COLUMN rate_limit_seconds INTEGER GENERATED ALWAYS AS ((definition -> 'rate_limit' ->> 'seconds')::INTEGER) STORED,
    ADD COLUMN paused_at TIMESTAMPTZ,
    ADD COLUMN paused_by TEXT;
CREATE INDEX workflows_limited_idx ON workflows (id)
    WHERE concurrency_limit IS NOT NULL OR rate_limit_starts IS NOT NULL OR paused_at IS NOT NULL;
COMMENT ON COLUMN workflows.concurrency_limit IS 'Runs at once: in all, or with a key per organization and key.';
COMMENT ON COLUMN workflows.paused_at IS 'Since then nothing of it starts; what is submitted waits.';

ALTER TABLE organizations
    ADD COLUMN concurrency_limit INTEGER GENERATED ALWAYS AS (CASE WHEN jsonb_typeof(settings -> 'concurrency_limit') = 'number'
        THEN LEAST(GREATEST(trunc((settings ->> 'concurrency_limit')::NUMERIC), 1), 1000000)::INTEGER END) STORED;
CREATE INDEX organizations_limited_idx ON organizations (id) WHERE concurrency_limit IS NOT NULL;
COMMENT ON COLUMN organizations.concurrency_limit IS
    'Runs at once that no other run waits for, from its settings; NULL: no limit.';

CREATE TABLE workflow_starts (
    workflow_id  UUID NOT NULL,
    started_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX workflow_starts_idx ON workflow_starts (workflow_id, started_at);
ALTER TABLE workflow_starts ENABLE ROW LEVEL SECURITY;
ALTER TABLE workflow_starts FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON workflow_starts TO bifrost_system;
COMMENT ON TABLE workflow_starts IS 'When attempts of workflows with a rate limit were claimed; kept for a day.';
