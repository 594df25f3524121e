-- Back into one table; the lines are copied.
CREATE TABLE execution_logs_all (LIKE execution_logs INCLUDING COMMENTS);
INSERT INTO execution_logs_all SELECT * FROM execution_logs;
DROP FUNCTION last_sequence, drop_log_partitions, prepare_log_partitions, log_partitions;
DROP TABLE execution_logs;
DROP FUNCTION first_id_at;

ALTER TABLE execution_logs_all RENAME TO execution_logs;
ALTER TABLE execution_logs ADD PRIMARY KEY (execution_id, sequence);
ALTER TABLE execution_logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE execution_logs FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON execution_logs TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id));
GRANT SELECT ON execution_logs TO bifrost_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON execution_logs TO bifrost_system;
