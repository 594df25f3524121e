-- One operation on the repository at a time, over all replicas: a lease in the row of the repository, as with refreshes and
-- executions. A lock would need a transaction that stays open, and PostgreSQL ends those that stand still.
ALTER TABLE git_repository
    ADD COLUMN lease             UUID,
    ADD COLUMN lease_expires_at  TIMESTAMPTZ,
    ADD COLUMN disconnected_at   TIMESTAMPTZ,
    ADD COLUMN token_server      TEXT,
    ADD CHECK ((lease IS NULL) = (lease_expires_at IS NULL));
COMMENT ON TABLE git_repository IS 'The repository of the workspace, one row. Without an address there is none.';
COMMENT ON COLUMN git_repository.lease IS 'Who works on the repository right now: one of all processes, until lease_expires_at.';
COMMENT ON COLUMN git_repository.disconnected_at IS 'When a repository was last let go; jobs that were asked for before connect none.';
COMMENT ON COLUMN git_repository.token_server IS
    'Host, with its port unless that is 443, that the token was given for; NULL: for GitHub.';

-- Tokens from before were given for the repository that is connected, or else for GitHub.
UPDATE git_repository
SET token_server = substring(repo_url FROM '://([^/]+)')
    || CASE WHEN repo_url LIKE 'http://%' AND substring(repo_url FROM '://([^/]+)') !~ ':[0-9]+$' THEN ':80' ELSE '' END
WHERE sealed_token IS NOT NULL;
-- A lease needs its row, also before anything is connected.
INSERT INTO git_repository DEFAULT VALUES ON CONFLICT DO NOTHING;
