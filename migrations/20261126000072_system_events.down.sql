DROP INDEX audit_log_newest_idx;
DROP TABLE system_events;
