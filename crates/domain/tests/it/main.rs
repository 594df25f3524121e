//! Tests of the domain against a real PostgreSQL, RabbitMQ and Redis; each has its own database and prefixes.

mod attempts;
mod audit;
mod directory;
mod executions;
mod history;
mod listing;
mod loans;
mod logs;
mod metrics;
mod migrations;
mod packages;
mod people;
mod queue;
mod readings;
mod schedules;
mod support;
mod tenancy;
mod timetable;
mod vault;
mod wakeups;
mod watching;
mod workflows;
mod workspace_files;
