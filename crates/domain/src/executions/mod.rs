//! Executions: the row is the truth. Submit, claim, run, finish; every write of a run names its attempt.
//!
//! Split by verb. The invariant: every execution ends in exactly one terminal state, and a write whose
//! attempt is not the row's current one changes nothing.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::types::Json;

use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};

/// Executions: what comes before the columns, the columns `result` and `variables` (what shows neither leaves them out), what
/// comes after, and the arguments. The macros of sqlx take nothing but text, so this is what keeps the list in one place.
macro_rules! executions {
    ($before:tt, $result:tt, $variables:tt, [$($after:tt)*], $($arguments:tt)*) => {
        sqlx::query_as!(
            Execution,
            $before
                + r#" e.id AS "id!: ExecutionId", e.organization_id AS "organization_id: OrgId",
                    e.workflow_id AS "workflow_id: WorkflowId", e.workflow_name AS "workflow_name!", e.form_id,
                    e.executed_by AS "executed_by!: UserId", e.executed_by_name AS "executed_by_name!",
                    e.status AS "status!: Status", e.priority AS "priority!", e.attempt AS "attempt!",
                    e.max_attempts AS "max_attempts!", e.parameters AS "parameters!: sqlx::types::Json<RawJson>", "#
                + $result
                + r#" AS "result: sqlx::types::Json<RawJson>", e.result_type, e.error_message, e.error_type,
                    e.is_user_error AS "is_user_error!", e.transient AS "transient!", e.rerun_of AS "rerun_of: ExecutionId", "#
                + $variables
                + r#" AS "variables: sqlx::types::Json<RawJson>", e.peak_memory_bytes, e.cpu_total_seconds, e.duration_ms,
                    e.created_at AS "created_at!", e.started_at, e.completed_at "#
                + $($after)*,
            $($arguments)*
        )
    };
}

pub mod bulk;
pub mod cancel;
pub mod claim;
pub mod explain;
pub mod finish;
pub mod history;
pub mod housekeep;
mod limits;
pub mod list;
pub mod logs;
mod queue;
pub mod read;
pub mod reap;
pub mod sealed;
pub mod stuck;
pub mod submit;
pub mod sweep;

/// JSON that passes through unparsed.
pub type RawJson = Box<RawValue>;

/// What stands in for an error text that was not written for users.
pub const NEUTRAL_ERROR: &str = "An error occurred during execution";

/// The text of an error as a reader gets it: all of it for whoever sees everything, for anybody else only what was
/// written for users.
pub fn shown_error(message: Option<&str>, is_user_error: bool, sees_everything: bool) -> Option<String> {
    message.map(|message| if sees_everything || is_user_error { message } else { NEUTRAL_ERROR }.to_owned())
}

/// State of an execution. The last five are terminal: exactly one, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "text")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum Status {
    Pending,
    Running,
    Cancelling,
    Success,
    CompletedWithErrors,
    Failed,
    Timeout,
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Running,
        Self::Cancelling,
        Self::Success,
        Self::CompletedWithErrors,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
    ];

    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Cancelling)
    }

    /// The name of the contract and of the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Cancelling => "Cancelling",
            Self::Success => "Success",
            Self::CompletedWithErrors => "CompletedWithErrors",
            Self::Failed => "Failed",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// What is run. Lists, reads and counts of executions know workflows only: the run of a data provider is part of the
/// request that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Workflow,
    DataProvider,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

/// An execution as stored.
#[derive(Debug, Clone)]
pub struct Execution {
    /// Id.
    pub id: ExecutionId,
    /// Organization; `None`: global.
    pub organization_id: Option<OrgId>,
    /// Workflow; `None` for inline code.
    pub workflow_id: Option<WorkflowId>,
    /// Its name when submitted.
    pub workflow_name: String,
    /// The form it came from.
    pub form_id: Option<uuid::Uuid>,
    /// Who started it.
    pub executed_by: UserId,
    /// Display name of who started it.
    pub executed_by_name: String,
    /// State.
    pub status: Status,
    /// 1 to 10, 10 first.
    pub priority: i16,
    /// Attempts begun.
    pub attempt: i32,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// Input, a JSON object.
    pub parameters: Json<RawJson>,
    /// What the workflow returned.
    pub result: Option<Json<RawJson>>,
    /// `json`, `html` or `text`.
    pub result_type: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Class of the exception, or a name of the platform (`TimeoutError`, `WorkerLost`, …).
    pub error_type: Option<String>,
    /// Whether the message was written for the person who runs it.
    pub is_user_error: bool,
    /// Kept out of lists and metrics.
    pub transient: bool,
    /// The execution that this one repeats.
    pub rerun_of: Option<ExecutionId>,
    /// Locals of the workflow function at its end.
    pub variables: Option<Json<RawJson>>,
    /// Peak memory of the process, in bytes.
    pub peak_memory_bytes: Option<i64>,
    /// CPU time, in seconds.
    pub cpu_total_seconds: Option<f64>,
    /// Duration of the last attempt.
    pub duration_ms: Option<i64>,
    /// Submission.
    pub created_at: DateTime<Utc>,
    /// First claim.
    pub started_at: Option<DateTime<Utc>>,
    /// End.
    pub completed_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_reads_back_from_its_name() {
        for name in [
            "Pending",
            "Running",
            "Cancelling",
            "Success",
            "CompletedWithErrors",
            "Failed",
            "Timeout",
            "Cancelled",
        ] {
            assert_eq!(name.parse::<Status>().map(Status::as_str), Ok(name));
        }
        assert_eq!("success".parse::<Status>(), Err(()));
    }
}
