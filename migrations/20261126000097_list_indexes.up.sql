-- What the filters of the list find by (ADR 51). Of executions that ended only, so that each is written once, at its end:
-- an execution leaves three versions of its row, and what waits or runs is found by the queue's indexes.
CREATE INDEX executions_ended_own_idx ON executions (executed_by, id DESC)
    WHERE NOT transient AND status NOT IN ('Pending', 'Running', 'Cancelling');
CREATE INDEX executions_ended_workflow_idx ON executions ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), workflow_name, id DESC)
    WHERE NOT transient AND status NOT IN ('Pending', 'Running', 'Cancelling');
-- Success is what most end with: the list in its order comes to it soon.
CREATE INDEX executions_status_idx ON executions ((CASE WHEN organization_id IS NULL
    THEN '00000000-0000-0000-0000-000000000000'::UUID ELSE organization_id END), status, id DESC)
    WHERE NOT transient AND status IN ('Failed', 'CompletedWithErrors', 'Timeout', 'Cancelled');
