-- Attempts that were given back were hidden in max_attempts, which then said neither how many are allowed nor how many count.
ALTER TABLE executions ADD COLUMN given_back INT NOT NULL DEFAULT 0;
COMMENT ON COLUMN executions.given_back IS 'Attempts of which nothing has run, because a machine could not: they do not count.';
