//! Tests of the api over real connections and a real PostgreSQL; the test itself plays the worker.

mod access;
mod audit;
mod auth;
mod bad_input;
mod browsers;
mod config;
mod developer;
mod documents;
mod editor;
mod execute;
mod executions;
mod form_files;
mod forms;
mod live;
mod mfa;
mod outages;
mod people;
mod proof;
mod providers;
mod sockets;
mod support;
mod tokens;
mod uploads;
mod workflows;
