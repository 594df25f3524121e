-- A person's own of one workflow or status are looked for among all of theirs: in the index alone, which holds what the
-- filters and the policy of the table ask for (ADR 51). What has ended is not changed any more, so it is written once still.
DROP INDEX executions_ended_own_idx;
CREATE INDEX executions_ended_own_idx ON executions (executed_by, id DESC)
    INCLUDE (organization_id, workflow_name, status, created_at)
    WHERE NOT transient AND status NOT IN ('Pending', 'Running', 'Cancelling');
