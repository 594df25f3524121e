-- Nobody read them, and reading the host's name cost every heartbeat a file.
ALTER TABLE workers DROP COLUMN host, DROP COLUMN started_at;
