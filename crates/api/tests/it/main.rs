//! Tests of the api over real connections and a real PostgreSQL; the test itself plays the worker.

mod access;
mod audit;
mod auth;
mod bad_input;
mod browsers;
mod config;
mod documents;
mod execute;
mod executions;
mod forms;
mod live;
mod logins;
mod mfa;
mod outages;
mod people;
mod sockets;
mod support;
mod tokens;
mod workflows;
