REVOKE UPDATE (revoked_at, revoked_reason) ON sessions FROM bifrost_app;
REVOKE SELECT (id, user_id, revoked_at) ON sessions FROM bifrost_app;
DROP POLICY scope_ends ON sessions;

DROP INDEX roles_name_idx;
DROP INDEX roles_organization_idx;

DROP INDEX users_type_idx;
DROP INDEX users_email_idx;
DROP INDEX users_organization_idx;
CREATE INDEX users_organization_idx ON users (organization_id, email COLLATE "C");

DROP INDEX organizations_name_idx;
CREATE INDEX organizations_name_idx ON organizations (name COLLATE "C", id);
