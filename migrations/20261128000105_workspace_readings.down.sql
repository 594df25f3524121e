DROP TABLE workspace_index;
DROP SEQUENCE workspace_readings;
