DROP TABLE provider_answers;
DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM executions WHERE kind = 'data_provider');
DELETE FROM executions WHERE kind = 'data_provider';
ALTER TABLE executions DROP COLUMN kind;
