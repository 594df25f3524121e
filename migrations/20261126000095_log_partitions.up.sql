-- Log lines in partitions (ADR 50): one for each week in which executions were submitted, so that what is too old is dropped
-- whole and the disk has it back.
--
-- By execution_id: it is a UUIDv7, which begins with its time. So the key stays unique over all partitions, and whoever
-- reads the lines of an execution looks at one partition.

CREATE FUNCTION first_id_at(moment TIMESTAMPTZ) RETURNS UUID
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN rpad(lpad(to_hex(GREATEST(extract(EPOCH FROM moment) * 1000, 0)::BIGINT), 12, '0'), 32, '0')::UUID;
COMMENT ON FUNCTION first_id_at IS 'Not greater than any UUIDv7 of this millisecond or later.';

-- What is there becomes the first partition as it is: nothing is copied, but the lines are read once to see that they fit.
ALTER TABLE execution_logs RENAME TO execution_logs_before;
ALTER TABLE execution_logs_before RENAME CONSTRAINT execution_logs_pkey TO execution_logs_before_pkey;
DROP POLICY scope ON execution_logs_before;
REVOKE ALL ON execution_logs_before FROM bifrost_app, bifrost_system;

CREATE TABLE execution_logs (
    LIKE execution_logs_before INCLUDING COMMENTS,
    PRIMARY KEY (execution_id, sequence)
) PARTITION BY RANGE (execution_id);
CREATE TABLE execution_logs_default PARTITION OF execution_logs DEFAULT;
COMMENT ON TABLE execution_logs IS
    'A partition for each week of submission. Policies and grants are those of this table; the partitions are closed.';
COMMENT ON TABLE execution_logs_default IS
    'What no partition is made for: nothing is refused. Emptied when its partition is made, and by retention row by row.';

ALTER TABLE execution_logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE execution_logs FORCE ROW LEVEL SECURITY;
ALTER TABLE execution_logs_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE execution_logs_default FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON execution_logs TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT ON execution_logs TO bifrost_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON execution_logs, execution_logs_default TO bifrost_system;

DO $$
DECLARE
    bound UUID := first_id_at((date_trunc('week', now() AT TIME ZONE 'UTC') + interval '1 week') AT TIME ZONE 'UTC');
BEGIN
    -- Ids that no clock has reached yet: there should be none.
    WITH beyond AS (DELETE FROM execution_logs_before WHERE execution_id >= bound RETURNING *)
    INSERT INTO execution_logs_default SELECT * FROM beyond;
    EXECUTE format('ALTER TABLE execution_logs ATTACH PARTITION execution_logs_before FOR VALUES FROM (MINVALUE) TO (%L)', bound);
END
$$;

CREATE FUNCTION log_partitions() RETURNS TABLE (name NAME, lower UUID, upper UUID)
    LANGUAGE sql STABLE
    SET search_path = public, pg_temp
AS $$
    -- The bounds stand in the catalogue as text only. The first partition has no lower one.
    SELECT c.relname, substring(b.bounds FROM $re$FROM \('([0-9a-f-]{36})'\)$re$)::UUID, substring(b.bounds FROM $re$TO \('([0-9a-f-]{36})'\)$re$)::UUID
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b (bounds)
    WHERE i.inhparent = 'execution_logs'::REGCLASS AND b.bounds <> 'DEFAULT'
$$;
COMMENT ON FUNCTION log_partitions IS 'Partitions of execution_logs but the default one, with the ids from lower on and below upper.';

-- Partitions are made and dropped by their owner; the application may do neither, but for these two functions. They wait a
-- moment for locks at most, since whoever comes behind them in the queue for one waits as well: the next tick tries again.
CREATE FUNCTION prepare_log_partitions(weeks INTEGER) RETURNS INTEGER
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
    SET lock_timeout = '1s'
AS $$
DECLARE
    this_week TIMESTAMP := date_trunc('week', now() AT TIME ZONE 'UTC');
    week TIMESTAMP;
    partition TEXT;
    lower_bound UUID;
    upper_bound UUID;
    made INTEGER := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('bifrost.log_partitions'));
    FOR week IN SELECT generate_series(this_week, this_week + make_interval(weeks => weeks), interval '1 week') LOOP
        lower_bound := first_id_at(week AT TIME ZONE 'UTC');
        upper_bound := first_id_at((week + interval '1 week') AT TIME ZONE 'UTC');
        CONTINUE WHEN EXISTS (SELECT FROM log_partitions() p WHERE p.upper > lower_bound);
        partition := to_char(week, '"execution_logs_"IYYY"w"IW');
        EXECUTE format('CREATE TABLE %I (LIKE execution_logs)', partition);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', partition);
        -- What came meanwhile for want of it. Nothing more comes until this transaction ends.
        LOCK TABLE execution_logs_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM execution_logs_default WHERE execution_id >= %L AND execution_id < %L RETURNING *)
            INSERT INTO %I SELECT * FROM moved', lower_bound, upper_bound, partition);
        EXECUTE format('ALTER TABLE execution_logs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, lower_bound, upper_bound);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION prepare_log_partitions IS
    'Makes the partitions of this week and so many more that are missing; returns how many. lock_not_available: later.';

CREATE FUNCTION drop_log_partitions(days INTEGER) RETURNS INTEGER
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
    SET lock_timeout = '1s'
AS $$
DECLARE
    partition RECORD;
    kept UUID[];
    dropped INTEGER := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('bifrost.log_partitions'));
    FOR partition IN
        SELECT p.name, COALESCE(p.lower, '00000000-0000-0000-0000-000000000000') AS lower, p.upper
        FROM log_partitions() p
        WHERE p.upper <= first_id_at(now() - make_interval(days => days))
        ORDER BY p.upper
    LOOP
        -- As many may be left as wait for another attempt, or have ended late; with more, retention is not done yet.
        CONTINUE WHEN (SELECT count(*) > 1000
                       FROM (SELECT 1 FROM executions e
                             WHERE e.id >= partition.lower AND e.id < partition.upper AND e.attempt > 0
                             LIMIT 1001) AS left_over);
        EXECUTE format('ALTER TABLE execution_logs DETACH PARTITION %I', partition.name);
        -- Nobody writes lines any more, so these are all, and none of theirs is lost.
        kept := ARRAY(SELECT e.id FROM executions e
                      WHERE e.id >= partition.lower AND e.id < partition.upper AND e.attempt > 0);
        EXECUTE format('INSERT INTO execution_logs SELECT * FROM %I WHERE execution_id = ANY ($1)', partition.name) USING kept;
        EXECUTE format('DROP TABLE %I', partition.name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION drop_log_partitions IS
    'Drops the partitions all of whose executions were submitted so many days ago, if no more than a few still exist; their
lines move to the default partition. Returns how many. lock_not_available: later.';

REVOKE ALL ON FUNCTION log_partitions(), prepare_log_partitions(INTEGER), drop_log_partitions(INTEGER) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION prepare_log_partitions(INTEGER), drop_log_partitions(INTEGER) TO bifrost_system;

-- A function, so that a claim has no partition in its plan: only later attempts ask.
CREATE FUNCTION last_sequence(execution UUID, of_users BOOLEAN) RETURNS BIGINT
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF of_users THEN
        RETURN COALESCE((SELECT max(user_sequence) FROM execution_logs WHERE execution_id = execution), 0);
    END IF;
    RETURN COALESCE((SELECT max(sequence) FROM execution_logs WHERE execution_id = execution), 0);
END
$$;
COMMENT ON FUNCTION last_sequence IS 'The last line of an execution, in the counting of users or of all; 0 without lines.';

SELECT prepare_log_partitions(4);
