DELETE FROM workspace_problems WHERE source <> 'python';
ALTER TABLE workspace_problems DROP COLUMN source;
ALTER TABLE forms DROP COLUMN file_path, DROP COLUMN file_hash, DROP COLUMN file_is_due;
