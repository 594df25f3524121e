-- What the first step of a sign-in found is good only as long as the credentials are the same: every statement that sets or
-- removes a password raises the version, and a session starts only at the version that the sign-in found.
ALTER TABLE users ADD COLUMN credentials_version BIGINT NOT NULL DEFAULT 0;
COMMENT ON COLUMN users.credentials_version IS 'Raised when the password is set or removed; not when it is only hashed anew.';

-- A new address ends the links that were mailed to the old one, in the transaction that changes the user, which has a scope.
-- A scope reaches the links of the users it sees, and of these it may see nothing but whose they are, and delete them.
CREATE POLICY scope_ends ON account_links TO bifrost_app
    USING (EXISTS (SELECT FROM users WHERE users.id = account_links.user_id));
GRANT SELECT (user_id) ON account_links TO bifrost_app;
GRANT DELETE ON account_links TO bifrost_app;
