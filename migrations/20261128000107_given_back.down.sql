ALTER TABLE executions DROP COLUMN given_back;
