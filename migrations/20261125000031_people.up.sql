-- Lists of people, roles and organizations run by name and show active rows only: each order has its index, so that a
-- page costs the same among ten rows and among a hundred thousand.
DROP INDEX organizations_name_idx;
CREATE INDEX organizations_name_idx ON organizations (name COLLATE "C", id) WHERE is_active;

DROP INDEX users_organization_idx;
CREATE INDEX users_organization_idx ON users (organization_id, email COLLATE "C", id) WHERE is_active;
CREATE INDEX users_email_idx ON users (email COLLATE "C", id) WHERE is_active AND user_type <> 'SYSTEM';
CREATE INDEX users_type_idx ON users (user_type, email COLLATE "C", id) WHERE is_active;

CREATE INDEX roles_organization_idx ON roles (organization_id, name COLLATE "C", id) WHERE is_active;
CREATE INDEX roles_name_idx ON roles (name COLLATE "C", id) WHERE is_active;

-- Ending the sessions of a user belongs into the transaction that changes the user, which has a scope. A scope reaches
-- the sessions of the users it sees, and of these it may read and change nothing but whether they have ended.
CREATE POLICY scope_ends ON sessions TO bifrost_app
    USING (EXISTS (SELECT FROM users WHERE users.id = sessions.user_id));
GRANT SELECT (id, user_id, revoked_at) ON sessions TO bifrost_app;
GRANT UPDATE (revoked_at, revoked_reason) ON sessions TO bifrost_app;
