DROP INDEX workflows_endpoints_idx;
DROP TABLE workflow_keys;
