//! Tests of the engine with real Python processes, PostgreSQL, RabbitMQ and Redis.

mod calls;
mod endings;
mod examples;
mod faults;
mod metrics;
mod oauth;
mod providers;
mod queue;
mod schedules;
mod stopping;
mod support;
mod uploads;
mod workspace;
