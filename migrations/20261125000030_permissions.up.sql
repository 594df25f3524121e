-- What roles allow (ADR 20). The list is read at every request, so it must always be one.
ALTER TABLE roles ADD CHECK (jsonb_typeof(permissions) = 'array');
COMMENT ON COLUMN roles.permissions IS 'Names of permissions; each acts within the organization of the user who has the role.';

-- A membership belongs to the user's organization, that of a global role too: so the people of an organization are
-- seen in its scope.
COMMENT ON COLUMN user_roles.organization_id IS 'The organization of the user; NULL for platform administrators.';
CREATE INDEX user_roles_role_idx ON user_roles (role_id, user_id);
