COMMENT ON TABLE git_repository IS 'The repository of the workspace. Without a row, or without an address, there is none.';
ALTER TABLE git_repository
    DROP COLUMN lease,
    DROP COLUMN lease_expires_at,
    DROP COLUMN disconnected_at,
    DROP COLUMN token_server;
