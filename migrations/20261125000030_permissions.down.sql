DROP INDEX user_roles_role_idx;
COMMENT ON COLUMN user_roles.organization_id IS NULL;
COMMENT ON COLUMN roles.permissions IS NULL;
ALTER TABLE roles DROP CONSTRAINT roles_permissions_check;
