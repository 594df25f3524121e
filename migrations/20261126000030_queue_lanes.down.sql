DROP TABLE workflow_starts;
ALTER TABLE organizations DROP COLUMN concurrency_limit;
DROP INDEX workflows_limited_idx;
ALTER TABLE workflows
    DROP COLUMN concurrency_limit,
    DROP COLUMN concurrency_key,
    DROP COLUMN rate_limit_starts,
    DROP COLUMN rate_limit_seconds,
    DROP COLUMN paused_at,
    DROP COLUMN paused_by;
DROP FUNCTION pending_lanes(BIGINT, INTEGER);
DROP INDEX executions_lane_idx;
ALTER TABLE executions DROP COLUMN lane, DROP COLUMN concurrency_key, DROP COLUMN is_awaited;
CREATE INDEX executions_pending_idx ON executions (queue_rank, id) WHERE status = 'Pending';
COMMENT ON COLUMN executions.queue_rank IS
    'created_at less one minute per step of priority: the smallest goes first, so that waiting a minute counts as one step.';
