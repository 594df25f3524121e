DROP TABLE job_runs;
DROP TABLE oauth_connections;
