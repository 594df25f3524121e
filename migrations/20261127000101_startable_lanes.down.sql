CREATE OR REPLACE FUNCTION pending_lanes(start BIGINT, most INTEGER) RETURNS SETOF BIGINT
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
