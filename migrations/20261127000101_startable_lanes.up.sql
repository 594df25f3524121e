-- A look takes in so many lanes. Those in which nothing may start, since its time has not come or its workflow is paused, are not
-- among them any more: thousands of such lanes kept the others from ever being seen.
CREATE OR REPLACE FUNCTION pending_lanes(start BIGINT, most INTEGER) RETURNS SETOF BIGINT
    LANGUAGE plpgsql STABLE ROWS 8
AS $$
DECLARE
    paused CONSTANT UUID[] := ARRAY(SELECT id FROM workflows WHERE paused_at IS NOT NULL);
    -- Lanes of paused workflows that one look may pass by.
    patience INTEGER := 2000;
    is_second_half BOOLEAN := FALSE;
    here BIGINT;
    workflow UUID;
BEGIN
    SELECT e.lane, e.workflow_id INTO here, workflow FROM executions e
    WHERE e.status = 'Pending' AND e.lane >= start AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
    ORDER BY e.lane LIMIT 1;
    LOOP
        IF here IS NULL THEN
            EXIT WHEN is_second_half;
            is_second_half := TRUE;
            SELECT e.lane, e.workflow_id INTO here, workflow FROM executions e
            WHERE e.status = 'Pending' AND e.lane < start AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
            ORDER BY e.lane LIMIT 1;
            CONTINUE;
        END IF;
        IF workflow = ANY (paused) THEN
            patience := patience - 1;
        ELSE
            RETURN NEXT here;
            most := most - 1;
        END IF;
        EXIT WHEN most <= 0 OR patience <= 0;
        IF is_second_half THEN
            SELECT e.lane, e.workflow_id INTO here, workflow FROM executions e
            WHERE e.status = 'Pending' AND e.lane > here AND e.lane < start
              AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
            ORDER BY e.lane LIMIT 1;
        ELSE
            SELECT e.lane, e.workflow_id INTO here, workflow FROM executions e
            WHERE e.status = 'Pending' AND e.lane > here AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
            ORDER BY e.lane LIMIT 1;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION pending_lanes IS
    'Lanes in which something may start, each found by one look at the index: from start upwards, then around to it, at most so many.';
