-- The audit log becomes a hash chain per organization (ADR 27), and one for what belongs to none.
--
-- Rows are added by audit_append alone, in the transaction of the deed. It belongs to a role that nobody signs in
-- as; the roles of the application may neither insert nor change a row, nor touch the heads.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bifrost_audit') THEN
        CREATE ROLE bifrost_audit NOLOGIN BYPASSRLS;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE TABLE audit_heads (
    chain     UUID PRIMARY KEY,
    sequence  BIGINT NOT NULL,
    hash      BYTEA NOT NULL
) WITH (fillfactor = 50);
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
COMMENT ON TABLE audit_heads IS
    'Where each chain of the audit log ends: its last sequence and hash. The nil UUID is the chain of rows without an organization.';

CREATE FUNCTION audit_chain(org UUID) RETURNS UUID
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN org IS NULL THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE org END;
COMMENT ON FUNCTION audit_chain IS 'The chain that a row of this organization belongs to.';

-- What is hashed: the hash before, and every column as JSON text. Times are written out, since their text
-- otherwise depends on the session.
CREATE FUNCTION audit_hash(previous BYTEA, sequence BIGINT, id UUID, organization_id UUID, actor_id UUID, actor TEXT,
    action TEXT, resource TEXT, request_id TEXT, details TEXT, created_at TIMESTAMPTZ) RETURNS BYTEA
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sha256(previous || convert_to(json_build_array(sequence, id, organization_id, actor_id, actor, action, resource,
        request_id, details, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::TEXT, 'UTF8'));

ALTER TABLE audit_log
    ADD COLUMN sequence BIGINT,
    ADD COLUMN hash BYTEA;

-- Rows of before are chained in the order they were made.
DO $$
DECLARE
    entry audit_log;
    current_chain UUID;
    last_sequence BIGINT;
    last_hash BYTEA;
BEGIN
    FOR entry IN SELECT * FROM audit_log ORDER BY audit_chain(organization_id), id LOOP
        IF current_chain IS DISTINCT FROM audit_chain(entry.organization_id) THEN
            current_chain := audit_chain(entry.organization_id);
            last_sequence := 0;
            last_hash := '';
        END IF;
        last_sequence := last_sequence + 1;
        last_hash := audit_hash(last_hash, last_sequence, entry.id, entry.organization_id, entry.actor_id, entry.actor,
            entry.action, entry.resource, entry.request_id, entry.details::TEXT, entry.created_at);
        UPDATE audit_log SET sequence = last_sequence, hash = last_hash WHERE id = entry.id;
        INSERT INTO audit_heads VALUES (current_chain, last_sequence, last_hash)
        ON CONFLICT (chain) DO UPDATE SET sequence = EXCLUDED.sequence, hash = EXCLUDED.hash;
    END LOOP;
END
$$;

ALTER TABLE audit_log
    ALTER COLUMN sequence SET NOT NULL,
    ALTER COLUMN hash SET NOT NULL;
-- One index keeps the chain and serves the list: within a chain the newest rows have the highest sequence.
DROP INDEX audit_log_list_idx;
CREATE UNIQUE INDEX audit_log_chain_key ON audit_log ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), sequence);

-- Appends one row per array element, in order. The head of a chain stays locked until the transaction ends, so that
-- chains have neither gaps nor forks; chains are taken in one order, so that two batches never wait for each other.
CREATE FUNCTION audit_append(ids UUID[], organization_ids UUID[], actor_ids UUID[], actors TEXT[], actions TEXT[],
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
COMMENT ON FUNCTION audit_append IS 'The only way into the audit log.';
GRANT SELECT, INSERT ON audit_log TO bifrost_audit;
GRANT SELECT, INSERT, UPDATE ON audit_heads TO bifrost_audit;
ALTER FUNCTION audit_append OWNER TO bifrost_audit;
REVOKE ALL ON FUNCTION audit_append FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_append TO bifrost_app, bifrost_system;

REVOKE INSERT, UPDATE, DELETE ON audit_log FROM bifrost_app, bifrost_system;
GRANT SELECT ON audit_heads TO bifrost_system;
