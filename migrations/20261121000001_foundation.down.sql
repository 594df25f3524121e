-- The roles stay: other databases of the cluster may use them.
DROP TABLE audit_log, secrets, config, data_keys, idempotency_keys, execution_logs, executions,
    workspace_problems, workflows, spent_refresh_tokens, sessions, user_roles, roles, users, organizations;
DROP FUNCTION in_cascade(UUID);
DROP FUNCTION in_scope(UUID);
