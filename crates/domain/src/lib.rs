//! Nouns, rules and scope of Bifrost: every byte of SQL, Redis and AMQP publishing lives in this crate.
//!
//! No HTTP and no process handling. The invariant: whatever a tenant owns is reached through a [`scope`],
//! and row-level security says the same thing a second time.

pub mod api_keys;
pub mod audit;
pub mod background_jobs;
pub mod branding;
pub mod cache;
pub mod config;
pub mod connections;
pub mod data_keys;
pub mod db;
pub mod developer_contexts;
pub mod editor;
pub mod error;
pub mod events;
pub mod executions;
pub mod forms;
pub mod gather;
pub mod git;
pub mod id;
mod job_runs;
pub mod json;
pub mod logins;
pub mod mail;
pub mod metrics;
pub mod mfa;
pub mod notifications;
pub mod opaque;
pub mod organizations;
pub mod outbound;
pub mod packages;
pub mod page;
pub mod passwords;
pub mod permissions;
pub mod platform;
pub mod process;
pub mod python;
pub mod readings;
pub mod remembered;
pub mod roles;
pub mod sabotage;
pub mod schedules;
pub mod schema;
pub mod scope;
pub mod sdk_keys;
pub mod secrets;
pub mod sessions;
pub mod settings;
pub mod system_events;
pub mod telemetry;
pub mod upload_lock;
pub mod uploads;
pub mod users;
pub mod vault;
pub mod wakeup;
pub mod workers;
pub mod workflow_keys;
pub mod workflows;
pub mod workspace_files;
pub mod workspace_trees;

pub use db::{Db, MIGRATOR, OrgTx, SystemTx, in_time};
pub use error::{Error, FieldError, Result};
pub use permissions::{Permission, PermissionSet};
pub use platform::Platform;
pub use scope::{Actor, OrgScope, Reach, SystemScope};
