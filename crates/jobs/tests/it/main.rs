//! Tests of the engine with real Python processes, PostgreSQL, RabbitMQ and Redis.

mod answers;
mod calls;
mod cgroups;
mod children;
mod cuts;
mod endings;
mod events;
mod examples;
mod faults;
mod files;
mod git;
mod isolation;
mod metrics;
mod neighbours;
mod oauth;
mod packages;
mod providers;
mod queue;
mod schedules;
mod stopping;
mod support;
mod uploads;
mod workspace;
