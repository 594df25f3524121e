-- What explains and repeats runs: which workers are alive, and of which execution another is the repetition.
CREATE TABLE workers (
    id          UUID PRIMARY KEY,
    host        TEXT NOT NULL,
    slots       INTEGER NOT NULL,
    running     INTEGER NOT NULL,
    started_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    seen_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);
ALTER TABLE workers ENABLE ROW LEVEL SECURITY;
ALTER TABLE workers FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO bifrost_system;
COMMENT ON TABLE workers IS 'Workers and when they were last seen; alive is who was within ten seconds. Leases do not depend on it.';

ALTER TABLE executions ADD COLUMN rerun_of UUID;
CREATE INDEX executions_rerun_idx ON executions (rerun_of) WHERE rerun_of IS NOT NULL;
COMMENT ON COLUMN executions.rerun_of IS 'The execution that this one repeats.';
