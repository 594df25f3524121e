DELETE FROM job_runs WHERE name = 'metrics';
DROP INDEX executions_failed_idx, executions_failed_list_idx, executions_failed_own_idx;
DROP TRIGGER execution_ended ON executions;
DROP FUNCTION record_ending;
DROP TABLE execution_minutes, execution_metrics, execution_endings;
