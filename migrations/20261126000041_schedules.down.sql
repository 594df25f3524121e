DROP INDEX workflows_schedule_idx;
DROP TABLE schedule_fires, schedules;
