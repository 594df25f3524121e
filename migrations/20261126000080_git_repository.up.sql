-- The repository that the workspace is connected with: one at most, since there is one workspace.
CREATE TABLE git_repository (
    id              BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (id),
    repo_url        TEXT,
    branch          TEXT,
    sealed_token    BYTEA,
    backup          TEXT,
    connected_at    TIMESTAMPTZ,
    last_synced_at  TIMESTAMPTZ,
    CHECK ((repo_url IS NULL) = (branch IS NULL))
);
COMMENT ON TABLE git_repository IS 'The repository of the workspace. Without a row, or without an address, there is none.';
COMMENT ON COLUMN git_repository.sealed_token IS 'Sealed with the global data key for this table and the name "token"; never shown.';
COMMENT ON COLUMN git_repository.backup IS 'Where the files are that were in use before the repository was connected, relative to WORKSPACE_PATH.';
COMMENT ON COLUMN git_repository.last_synced_at IS 'When something was last fetched from the repository or pushed to it.';

ALTER TABLE git_repository ENABLE ROW LEVEL SECURITY;
ALTER TABLE git_repository FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON git_repository TO bifrost_app USING (in_scope(NULL)) WITH CHECK (in_scope(NULL));
GRANT SELECT, INSERT, UPDATE ON git_repository TO bifrost_app;
