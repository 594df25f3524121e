//! Workflows and data providers: what the files of the workspace declare.
//!
//! The rows follow the files (`sync`); user code is never imported to index it. What is wrong with a file is kept
//! beside them (`problems`). Runs find their definition in the `catalog` and check their input in `parameters`;
//! calls over HTTP find what is allowed in `endpoint`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;

use crate::id::{OrgId, WorkflowId};
use crate::{OrgTx, Result};

mod catalog;
mod endpoint;
mod parameters;
pub mod pause;
mod problems;
pub mod providers;
pub mod signature;
mod sync;

pub use catalog::Catalog;
pub use endpoint::{CallRate, Endpoint, list_endpoints};
pub use parameters::{check_at, check_parameters};
pub use problems::{FileProblem, Problem, list_problems};
pub use sync::{Found, Index, IndexedFile, Reading, Synced};

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, 1 to 10.
    pub max_attempts: i32,
    /// Pause after the first attempt; doubles with each.
    pub backoff_seconds: f64,
    /// Longest pause.
    pub max_backoff_seconds: f64,
    /// Exception classes that are retried; `None`: all but `UserError` and timeouts.
    pub retry_on: Option<Vec<String>>,
}

impl RetryPolicy {
    /// Pause after attempt `n` (from 1) of those that count, before jitter.
    pub fn pause_after(&self, attempt: i32) -> Duration {
        let pause = self.backoff_seconds * 2f64.powi(attempt.max(1) - 1);
        Duration::from_secs_f64(pause.min(self.max_backoff_seconds).clamp(0.0, 86_400.0))
    }
}

/// A declared parameter.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Parameter {
    /// Name.
    pub name: String,
    /// `string`, `int`, `float`, `bool`, `list`, `json` or `email`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a run must give it.
    pub required: bool,
    /// What people read.
    pub label: Option<String>,
    /// Value when it is not given.
    pub default_value: Option<Value>,
    /// Help text.
    pub description: Option<String>,
    /// For the form that asks for it; the server does not enforce it.
    #[serde(default)]
    pub validation: Option<Value>,
    /// The provider of its options.
    #[serde(default)]
    pub data_provider: Option<String>,
    /// Fixed options.
    #[serde(default)]
    pub options: Option<Value>,
}

/// A workflow or data provider that can run.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// Id.
    pub id: WorkflowId,
    /// `None`: for everybody.
    pub organization_id: Option<OrgId>,
    /// Path relative to the workspace.
    pub path: String,
    /// Name that runs address it by.
    pub name: String,
    /// Description.
    pub description: Option<String>,
    /// Category.
    pub category: String,
    /// `sync` or `async`.
    pub execution_mode: String,
    /// Limit of one attempt, in seconds.
    pub timeout_seconds: i32,
    /// Attempts in all.
    pub max_attempts: i32,
    /// Declared parameters.
    pub parameters: Json<Vec<Parameter>>,
    /// Everything else the decorator said.
    pub definition: Json<Value>,
}

impl Workflow {
    /// Whether whoever starts it waits for its end.
    pub fn is_sync(&self) -> bool {
        self.execution_mode == "sync"
    }
}

/// The active workflows in reach, by name.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx) -> Result<Vec<Workflow>> {
    list_kind(tx, "workflow").await
}

/// The active data providers in reach, by name.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list_data_providers(tx: &mut OrgTx) -> Result<Vec<Workflow>> {
    list_kind(tx, "data_provider").await
}

async fn list_kind(tx: &mut OrgTx, kind: &str) -> Result<Vec<Workflow>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    Ok(sqlx::query_as!(
        Workflow,
        r#"SELECT id AS "id: WorkflowId", organization_id AS "organization_id: OrgId", path, name, description, category,
               execution_mode, timeout_seconds, max_attempts, parameters AS "parameters: Json<Vec<Parameter>>",
               definition AS "definition: Json<Value>"
           FROM workflows
           WHERE is_active AND kind = $3 AND ($1 OR organization_id IS NULL OR organization_id = $2)
           ORDER BY name, path, function_name"#,
        spans_all,
        org as _,
        kind,
    )
    .fetch_all(tx.conn())
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        let policy =
            RetryPolicy { max_attempts: 4, backoff_seconds: 2.0, max_backoff_seconds: 7.0, retry_on: None };
        assert_eq!([1, 2, 3, 4].map(|attempt| policy.pause_after(attempt).as_secs()), [2, 4, 7, 7]);
    }
}
