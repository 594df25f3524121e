-- Files are read before their rows are written, and in between others may save one and index it. Each reading takes a number before it
-- begins, and what was read before the reading that is in the rows changes nothing.
CREATE SEQUENCE workspace_readings;
CREATE TABLE workspace_index (
    id       BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (id),
    reading  BIGINT NOT NULL DEFAULT 0
);
COMMENT ON TABLE workspace_index IS 'Which index of the workspace the rows of workflows are equal to, one row.';
COMMENT ON COLUMN workspace_index.reading IS 'Its number of workspace_readings, taken before the files were read.';
INSERT INTO workspace_index DEFAULT VALUES;

ALTER TABLE workspace_index ENABLE ROW LEVEL SECURITY;
ALTER TABLE workspace_index FORCE ROW LEVEL SECURITY;
GRANT SELECT, UPDATE ON workspace_index TO bifrost_system;
GRANT USAGE ON SEQUENCE workspace_readings TO bifrost_system;
