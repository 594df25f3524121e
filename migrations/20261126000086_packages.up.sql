-- Packages: the environments that were built for the workspace, and which of them is in use.
CREATE TABLE package_environments (
    id          TEXT PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
    lock        TEXT NOT NULL,
    packages    JSONB NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE package_environments IS 'What an environment consists of. Its files are made from this on each machine that runs workflows.';
COMMENT ON COLUMN package_environments.id IS 'Digest of the lock: the same lock is the same environment.';
COMMENT ON COLUMN package_environments.lock IS 'Every package with its version and the hashes of its files, one a line.';

CREATE TABLE package_switches (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment_id  TEXT REFERENCES package_environments,
    requirements    TEXT NOT NULL,
    file_is_due     BOOLEAN NOT NULL DEFAULT TRUE,
    job_id          UUID NOT NULL UNIQUE,
    switched_by     TEXT NOT NULL,
    switched_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX package_switches_environment_idx ON package_switches (environment_id);
COMMENT ON TABLE package_switches IS 'The newest row says which environment is in use: adding it is the switch.';
COMMENT ON COLUMN package_switches.environment_id IS 'NULL: no packages.';
COMMENT ON COLUMN package_switches.requirements IS 'The content of requirements.txt that belongs to it.';
COMMENT ON COLUMN package_switches.file_is_due IS 'The file has not been written yet: the row wins.';

-- No policy: both are the platform's own, and closed to bifrost_app.
ALTER TABLE package_environments ENABLE ROW LEVEL SECURITY;
ALTER TABLE package_environments FORCE ROW LEVEL SECURITY;
ALTER TABLE package_switches ENABLE ROW LEVEL SECURITY;
ALTER TABLE package_switches FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON package_environments TO bifrost_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON package_switches TO bifrost_system;
