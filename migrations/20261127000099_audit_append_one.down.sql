-- Each record by the way of many.
CREATE OR REPLACE FUNCTION audit_append(ids UUID[], organization_ids UUID[], actor_ids UUID[], actors TEXT[], actions TEXT[],
    resources TEXT[], request_ids TEXT[], details TEXT[]) RETURNS BIGINT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    entry RECORD;
    head audit_heads;
    sequences BIGINT[] := array_fill(NULL::BIGINT, ARRAY[cardinality(ids)]);
    hashes BYTEA[] := array_fill(NULL::BYTEA, ARRAY[cardinality(ids)]);
BEGIN
    FOR entry IN
        SELECT e.*, audit_chain(e.organization_id) AS chain
        FROM UNNEST(ids, organization_ids, actor_ids, actors, actions, resources, request_ids, details) WITH ORDINALITY
            AS e (id, organization_id, actor_id, actor, action, resource, request_id, details, at)
        ORDER BY chain, at
    LOOP
        IF head.chain IS DISTINCT FROM entry.chain THEN
            IF head.chain IS NOT NULL THEN
                UPDATE audit_heads SET sequence = head.sequence, hash = head.hash WHERE chain = head.chain;
            END IF;
            SELECT * INTO head FROM audit_heads WHERE chain = entry.chain FOR UPDATE;
            IF NOT FOUND THEN
                INSERT INTO audit_heads VALUES (entry.chain, 0, '') ON CONFLICT DO NOTHING;
                SELECT * INTO STRICT head FROM audit_heads WHERE chain = entry.chain FOR UPDATE;
            END IF;
        END IF;
        head.sequence := head.sequence + 1;
        head.hash := audit_hash(head.hash, head.sequence, entry.id, entry.organization_id, entry.actor_id, entry.actor,
            entry.action, entry.resource, entry.request_id, entry.details, now());
        sequences[entry.at] := head.sequence;
        hashes[entry.at] := head.hash;
    END LOOP;
    IF head.chain IS NOT NULL THEN
        UPDATE audit_heads SET sequence = head.sequence, hash = head.hash WHERE chain = head.chain;
    END IF;
    INSERT INTO audit_log (id, organization_id, actor_id, actor, action, resource, request_id, details, created_at, sequence, hash)
    SELECT e.id, e.organization_id, e.actor_id, e.actor, e.action, e.resource, e.request_id, e.details::JSON, now(), e.sequence, e.hash
    FROM UNNEST(ids, organization_ids, actor_ids, actors, actions, resources, request_ids, details, sequences, hashes)
        AS e (id, organization_id, actor_id, actor, action, resource, request_id, details, sequence, hash);
    RETURN cardinality(ids);
END
$$;
