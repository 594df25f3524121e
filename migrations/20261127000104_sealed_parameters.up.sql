-- A run may hand a secret that it has read to a run that it starts. What is shown of that run's parameters is masked then, and what
-- it runs with is sealed beside them with the key of its organization. It goes with its row.
ALTER TABLE executions ADD COLUMN sealed_parameters BYTEA;
COMMENT ON COLUMN executions.sealed_parameters IS
    'What the run gets in the place of parameters, which are masked then, and the secrets in it; sealed for this row. NULL: parameters are what it gets.';
