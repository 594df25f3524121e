DROP INDEX executions_transient_idx;
ALTER TABLE organizations DROP COLUMN history_days;
