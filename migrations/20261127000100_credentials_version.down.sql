REVOKE DELETE ON account_links FROM bifrost_app;
REVOKE SELECT (user_id) ON account_links FROM bifrost_app;
DROP POLICY scope_ends ON account_links;

ALTER TABLE users DROP COLUMN credentials_version;
