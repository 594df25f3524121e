ALTER TABLE executions DROP COLUMN sealed_parameters;
