DROP FUNCTION audit_append;
DROP INDEX audit_log_chain_key;
ALTER TABLE audit_log
    DROP COLUMN sequence,
    DROP COLUMN hash;
CREATE INDEX audit_log_list_idx ON audit_log (organization_id, id DESC);
DROP FUNCTION audit_hash;
DROP FUNCTION audit_chain;
DROP TABLE audit_heads;
GRANT SELECT, INSERT ON audit_log TO bifrost_app;
GRANT SELECT, INSERT ON audit_log TO bifrost_system;
REVOKE ALL ON audit_log FROM bifrost_audit;
