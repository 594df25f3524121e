-- The lanes of one organization lie beside each other, so that a look at the queue can pass from one to the next however many lanes
-- the first has. While they lay anywhere, thousands of lanes of one organization left others to be seen by chance (ADR 12).
--
-- This writes the table anew: about ten seconds for a million executions, in which submissions are refused after four.
ALTER TABLE executions DROP COLUMN lane;
ALTER TABLE executions
    ADD COLUMN lane BIGINT NOT NULL GENERATED ALWAYS AS (
        (hashtextextended(CASE WHEN organization_id IS NULL THEN '' ELSE organization_id::TEXT END, 0) >> 44 << 44)
        | (hashtextextended(CASE WHEN organization_id IS NULL THEN '' ELSE organization_id::TEXT END
            || '/' || CASE WHEN workflow_id IS NULL THEN '' ELSE workflow_id::TEXT END
            || '/' || CASE WHEN concurrency_key IS NULL THEN '' ELSE concurrency_key END, 0) & ((1::BIGINT << 44) - 1))) STORED;
COMMENT ON COLUMN executions.lane IS 'Digest of the organization (20 bits), then of organization, workflow and key (44 bits).';
CREATE INDEX executions_lane_idx ON executions (lane, queue_rank, id, due_at) WHERE status = 'Pending';

-- The planner knows nothing of a column that is new.
ANALYZE executions (lane);
-- Whoever kept a lease waited for this: it is not lost yet.
UPDATE executions SET lease_expires_at = clock_timestamp() + interval '30 seconds'
WHERE status IN ('Running', 'Cancelling') AND lease_expires_at > now();

CREATE FUNCTION next_lane(low BIGINT, high BIGINT, paused UUID[], patience INTEGER, OUT lane BIGINT, OUT patience_left INTEGER)
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    workflow UUID;
BEGIN
    patience_left := patience;
    WHILE low <= high AND patience_left > 0 LOOP
        SELECT e.lane, e.workflow_id INTO lane, workflow FROM executions e
        WHERE e.status = 'Pending' AND e.lane BETWEEN low AND high
          AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
        ORDER BY e.lane LIMIT 1;
        EXIT WHEN lane IS NULL OR workflow IS NULL OR workflow <> ALL (paused);
        patience_left := patience_left - 1;
        EXIT WHEN lane = high;
        low := lane + 1;
    END LOOP;
    IF workflow = ANY (paused) THEN
        lane := NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION next_lane IS
    'The first lane of a range in which something may start; passes by so many of paused workflows, and says how many more it may.';

CREATE OR REPLACE FUNCTION pending_lanes(start BIGINT, most INTEGER) RETURNS SETOF BIGINT
    LANGUAGE plpgsql STABLE ROWS 8
AS $$
DECLARE
    lowest CONSTANT BIGINT := -9223372036854775808;
    within CONSTANT BIGINT := (1::BIGINT << 44) - 1;
    paused CONSTANT UUID[] := ARRAY(SELECT id FROM workflows WHERE paused_at IS NOT NULL);
    -- Lanes that an organization shows before the next one's turn.
    share CONSTANT INTEGER := 8;
    -- Lanes of paused workflows that one look may pass by in one organization before it goes about it otherwise, and in all.
    patience_within CONSTANT INTEGER := 500;
    patience INTEGER := 2000;
    -- All organizations are gone through, from that of the start on and around to it.
    low BIGINT := start & ~within;
    high BIGINT := 9223372036854775807;
    is_second BOOLEAN := start & ~within = lowest;
    is_done BOOLEAN := FALSE;
    here BIGINT;
    workflow UUID;
    -- The one that is being gone through: its first lane, its last possible one, what it shows, and what was passed by in it.
    first BIGINT;
    ends BIGINT;
    own BIGINT[] := '{}';
    passed INTEGER;
    is_crowded BOOLEAN;
    place BIGINT;
    next RECORD;
    -- Where organizations go on that have more than their share.
    lows BIGINT[] := '{}';
    highs BIGINT[] := '{}';
BEGIN
    LOOP
        here := NULL;
        IF NOT is_done AND patience > 0 THEN
            SELECT e.lane, e.workflow_id INTO here, workflow FROM executions e
            WHERE e.status = 'Pending' AND e.lane BETWEEN low AND high
              AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
            ORDER BY e.lane LIMIT 1;
        END IF;
        IF here IS NULL OR here | within IS DISTINCT FROM ends THEN
            RETURN QUERY SELECT UNNEST(own) LIMIT most;
            most := most - cardinality(own);
            EXIT WHEN most <= 0;
            own := '{}';
            passed := 0;
            is_crowded := FALSE;
            first := here;
            ends := here | within;
        END IF;
        IF here IS NULL THEN
            EXIT WHEN is_second OR patience = 0;
            is_second := TRUE;
            is_done := FALSE;
            low := lowest;
            high := (start & ~within) - 1;
            CONTINUE;
        END IF;
        IF workflow = ANY (paused) THEN
            patience := patience - 1;
            passed := passed + 1;
            is_crowded := passed = patience_within;
        ELSIF cardinality(own) < share THEN
            own := own || here;
        ELSE
            is_crowded := TRUE;
        END IF;
        IF is_crowded THEN
            -- It has more: it shows its share from a random place on and around to it, so that each of its lanes has its turn.
            own := '{}';
            place := GREATEST(first, (first & ~within) | (start & within));
            here := ends;
            next := next_lane(place, here, paused, patience);
            LOOP
                IF next.lane IS NULL THEN
                    EXIT WHEN here < place OR place = first;
                    here := place - 1;
                    next := next_lane(first, here, paused, next.patience_left);
                    CONTINUE;
                END IF;
                IF cardinality(own) = share THEN
                    lows := lows || next.lane;
                    highs := highs || here;
                    IF here >= place AND place > first THEN
                        lows := lows || first;
                        highs := highs || (place - 1);
                    END IF;
                    EXIT;
                END IF;
                own := own || next.lane;
                IF next.lane < here THEN
                    next := next_lane(next.lane + 1, here, paused, next.patience_left);
                ELSE
                    next.lane := NULL;
                END IF;
            END LOOP;
            patience := next.patience_left;
            here := ends;
        END IF;
        is_done := here >= high;
        IF NOT is_done THEN
            low := here + 1;
        END IF;
    END LOOP;
    -- Then more of those that have more.
    FOR range IN 1 .. cardinality(lows) LOOP
        next := next_lane(lows[range], highs[range], paused, patience);
        WHILE next.lane IS NOT NULL AND most > 0 LOOP
            RETURN NEXT next.lane;
            most := most - 1;
            EXIT WHEN next.lane = highs[range];
            next := next_lane(next.lane + 1, highs[range], paused, next.patience_left);
        END LOOP;
        patience := next.patience_left;
    END LOOP;
END
$$;
COMMENT ON FUNCTION pending_lanes IS
    'Lanes in which something may start, each found by one look at the index: some of each organization, then more of those that have more, at most so many.';
