DROP INDEX executions_ended_own_idx;
CREATE INDEX executions_ended_own_idx ON executions (executed_by, id DESC)
    WHERE NOT transient AND status NOT IN ('Pending', 'Running', 'Cancelling');
