ALTER TABLE executions DROP COLUMN lane;
ALTER TABLE executions
    ADD COLUMN lane BIGINT NOT NULL GENERATED ALWAYS AS (hashtextextended(CASE WHEN organization_id IS NULL THEN '' ELSE organization_id::TEXT END
        || '/' || CASE WHEN workflow_id IS NULL THEN '' ELSE workflow_id::TEXT END
        || '/' || CASE WHEN concurrency_key IS NULL THEN '' ELSE concurrency_key END, 0)) STORED;
COMMENT ON COLUMN executions.lane IS 'Digest of organization, workflow and key.';
CREATE INDEX executions_lane_idx ON executions (lane, queue_rank, id, due_at) WHERE status = 'Pending';

CREATE OR REPLACE FUNCTION pending_lanes(start BIGINT, most INTEGER) RETURNS SETOF BIGINT
    LANGUAGE plpgsql STABLE ROWS 8
AS $$
DECLARE
    lowest CONSTANT BIGINT := -9223372036854775808;
    highest CONSTANT BIGINT := 9223372036854775807;
    paused CONSTANT UUID[] := ARRAY(SELECT id FROM workflows WHERE paused_at IS NOT NULL);
    -- Lanes of paused workflows that one look may pass by.
    patience INTEGER := 2000;
    low BIGINT := start;
    high BIGINT := highest;
    here BIGINT;
    workflow UUID;
BEGIN
    WHILE most > 0 AND patience > 0 LOOP
        SELECT e.lane, e.workflow_id INTO here, workflow FROM executions e
        WHERE e.status = 'Pending' AND e.lane BETWEEN low AND high
          AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
        ORDER BY e.lane LIMIT 1;
        IF workflow = ANY (paused) THEN
            patience := patience - 1;
        ELSIF here IS NOT NULL THEN
            RETURN NEXT here;
            most := most - 1;
        END IF;
        IF here < high THEN
            low := here + 1;
        ELSE
            -- What is left lies below the start, unless that is done as well.
            EXIT WHEN high < start OR start = lowest;
            low := lowest;
            high := start - 1;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION pending_lanes IS
    'Lanes in which something may start, each found by one look at the index: from start upwards, then around to it, at most so many.';
DROP FUNCTION next_lane;
