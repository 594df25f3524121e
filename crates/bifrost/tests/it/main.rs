//! Tests of the binaries as a person or a script uses them: real processes, real signals, real exit codes.

mod away;
mod backup;
mod boards;
mod client;
mod database;
mod doctor;
mod migrations;
mod observing;
mod queue;
mod refusals;
mod settings;
mod stopping;
mod support;
mod tour;
mod up;
