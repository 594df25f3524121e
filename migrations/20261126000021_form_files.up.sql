-- Forms are mirrored in files of the workspace, in both directions.
ALTER TABLE forms
    ADD COLUMN file_path TEXT,
    ADD COLUMN file_hash TEXT,
    ADD COLUMN file_is_due BOOLEAN NOT NULL DEFAULT TRUE;
CREATE UNIQUE INDEX forms_file_path_key ON forms (file_path);
CREATE INDEX forms_file_due_idx ON forms (id) WHERE file_is_due;
COMMENT ON COLUMN forms.file_path IS 'Where the workspace mirrors it, relative to the workspace; NULL: not yet.';
COMMENT ON COLUMN forms.file_hash IS 'SHA-256 of the file as it was last written or read: another one means that somebody changed it.';
COMMENT ON COLUMN forms.file_is_due IS 'The row has changed since the file was written: the row wins.';

ALTER TABLE workspace_problems ADD COLUMN source TEXT NOT NULL DEFAULT 'python' CHECK (source IN ('python', 'form'));
COMMENT ON COLUMN workspace_problems.source IS 'Which of the two indexings found it; each replaces its own.';
