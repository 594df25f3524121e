-- A record that comes alone, as nearly all deeds leave one, moves the head of its chain with one statement and is written with
-- another, without the arrays and the order that many need. The chain and its rows are the same either way.
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
    IF cardinality(ids) = 1 THEN
        UPDATE audit_heads
        SET sequence = sequence + 1,
            hash = audit_hash(hash, sequence + 1, ids[1], organization_ids[1], actor_ids[1], actors[1], actions[1],
                resources[1], request_ids[1], details[1], now())
        WHERE chain = audit_chain(organization_ids[1])
        RETURNING * INTO head;
        -- The first of its chain finds no head, and takes the way of many.
        IF FOUND THEN
            INSERT INTO audit_log (id, organization_id, actor_id, actor, action, resource, request_id, details, created_at, sequence, hash)
            VALUES (ids[1], organization_ids[1], actor_ids[1], actors[1], actions[1], resources[1], request_ids[1],
                details[1]::JSON, now(), head.sequence, head.hash);
            RETURN 1;
        END IF;
    END IF;
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
