DROP FUNCTION audit_append;
ALTER FUNCTION audit_append_many RENAME TO audit_append;
GRANT EXECUTE ON FUNCTION audit_append TO bifrost_app, bifrost_system;
COMMENT ON FUNCTION audit_append IS 'The only way into the audit log.';
