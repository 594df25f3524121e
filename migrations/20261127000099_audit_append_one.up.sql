-- A record that comes alone, as nearly all deeds leave one, moves the head of its chain with one statement and is written with
-- another, without the arrays and the order that many need. The chain and its rows are the same either way.
ALTER FUNCTION audit_append RENAME TO audit_append_many;
REVOKE EXECUTE ON FUNCTION audit_append_many FROM bifrost_app, bifrost_system;
COMMENT ON FUNCTION audit_append_many IS 'What audit_append calls for many records, and for the first of a chain.';

CREATE FUNCTION audit_append(ids UUID[], organization_ids UUID[], actor_ids UUID[], actors TEXT[], actions TEXT[],
    resources TEXT[], request_ids TEXT[], details TEXT[]) RETURNS BIGINT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    head audit_heads;
BEGIN
    IF cardinality(ids) = 1 THEN
        UPDATE audit_heads
        SET sequence = sequence + 1,
            hash = audit_hash(hash, sequence + 1, ids[1], organization_ids[1], actor_ids[1], actors[1], actions[1],
                resources[1], request_ids[1], details[1], now())
        WHERE chain = audit_chain(organization_ids[1])
        RETURNING * INTO head;
        IF FOUND THEN
            INSERT INTO audit_log (id, organization_id, actor_id, actor, action, resource, request_id, details, created_at, sequence, hash)
            VALUES (ids[1], organization_ids[1], actor_ids[1], actors[1], actions[1], resources[1], request_ids[1],
                details[1]::JSON, now(), head.sequence, head.hash);
            RETURN 1;
        END IF;
    END IF;
    RETURN audit_append_many(ids, organization_ids, actor_ids, actors, actions, resources, request_ids, details);
END
$$;
COMMENT ON FUNCTION audit_append IS 'The only way into the audit log.';
ALTER FUNCTION audit_append OWNER TO bifrost_audit;
REVOKE ALL ON FUNCTION audit_append FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_append TO bifrost_app, bifrost_system;
