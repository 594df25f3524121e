//! What a follower is told, as it goes over the wire.

use chrono::{DateTime, Utc};
use domain::events::{LiveLine, MAX_INLINE_RESULT, Update};
use domain::executions::{Execution, RawJson, Status};
use domain::id::{ExecutionId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::LastLine;
use crate::visibility::{self, Reader};

/// Something to tell a follower.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Frame {
    Update(Box<UpdateFrame>),
    Log(LogFrame),
}

/// The state of an execution.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct UpdateFrame {
    r#type: &'static str,
    #[serde(rename = "executionId")]
    execution_id: ExecutionId,
    status: Status,
    /// Rises with every change of state; a frame that tells another place in the queue has that of the one before.
    pub(crate) version: i64,
    /// Marks the state at joining; what happens follows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
    timestamp: DateTime<Utc>,
    workflow_name: String,
    executed_by: UserId,
    executed_by_name: String,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
    /// From 1, while it waits: for followers of the execution alone.
    #[serde(rename = "queuePosition", skip_serializing_if = "Option::is_none")]
    queue_position: Option<i64>,
    /// Runs are admitted by slots, so none ever waits for memory: no `memory_pressure`, and no figures of memory.
    #[serde(rename = "waitReason", skip_serializing_if = "Option::is_none")]
    wait_reason: Option<&'static str>,
    #[serde(flatten)]
    end: Option<End>,
}

/// What an update says at the end only.
#[derive(Debug, Clone, Serialize)]
struct End {
    /// Null where there is none; left out where it is too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<RawJson>,
    result_type: Option<String>,
    error: Option<String>,
    error_type: Option<String>,
    duration_ms: Option<i64>,
    #[serde(rename = "durationMs")]
    duration_twin: Option<i64>,
}

/// A line.
#[derive(Debug, Serialize)]
pub(crate) struct LogFrame {
    r#type: &'static str,
    #[serde(rename = "executionId")]
    execution_id: ExecutionId,
    sequence: i64,
    /// Numbers come again with a later attempt, where the one before was lost with lines that were never stored.
    attempt: i32,
    level: String,
    message: String,
    timestamp: DateTime<Utc>,
    data: RawJson,
    metadata: RawJson,
}

impl UpdateFrame {
    /// What a row says.
    pub(crate) fn of_row(execution: &Execution, reader: Reader) -> Self {
        let end = execution.status.is_terminal().then(|| End {
            result: inline(execution.result.as_ref().map(|result| &*result.0)),
            result_type: execution.result_type.clone(),
            error: reader.error(execution.error_message.as_deref(), execution.is_user_error),
            error_type: execution.error_type.clone(),
            duration_ms: execution.duration_ms,
            duration_twin: execution.duration_ms,
        });
        Self {
            r#type: "execution_update",
            execution_id: execution.id,
            status: execution.status,
            version: version(execution.status, execution.attempt),
            snapshot: false,
            timestamp: Utc::now(),
            workflow_name: execution.workflow_name.clone(),
            executed_by: execution.executed_by,
            executed_by_name: execution.executed_by_name.clone(),
            started_at: execution.started_at,
            completed_at: execution.completed_at,
            queue_position: None,
            wait_reason: (execution.status == Status::Pending).then_some("queued"),
            end,
        }
    }

    /// The same, as the state at joining.
    pub(super) fn into_snapshot(self) -> Self {
        Self { snapshot: true, ..self }
    }

    /// Whether it tells of an execution that waits.
    pub(super) fn is_pending(&self) -> bool {
        self.status == Status::Pending
    }

    /// The same a moment later, at this place in the queue.
    pub(super) fn at_position(&self, position: i64) -> Self {
        Self { timestamp: Utc::now(), queue_position: Some(position), ..self.clone() }
    }

    /// What an event says.
    pub(crate) fn of_event(update: &Update, reader: Reader) -> Self {
        let end = update.status.is_terminal().then(|| End {
            result: if update.result_omitted { None } else { inline(update.result.as_deref()) },
            result_type: update.result_type.clone(),
            error: reader.error(update.error_message.as_deref(), update.is_user_error),
            error_type: update.error_type.clone(),
            duration_ms: update.duration_ms,
            duration_twin: update.duration_ms,
        });
        Self {
            r#type: "execution_update",
            execution_id: update.execution_id,
            status: update.status,
            version: version(update.status, update.attempt),
            snapshot: false,
            timestamp: Utc::now(),
            workflow_name: update.workflow_name.clone(),
            executed_by: update.executed_by,
            executed_by_name: update.executed_by_name.clone(),
            started_at: update.started_at,
            completed_at: update.completed_at,
            queue_position: None,
            wait_reason: (update.status == Status::Pending).then_some("queued"),
            end,
        }
    }
}

impl LogFrame {
    /// A line with its number in the counting of its reader.
    pub(super) fn new(execution_id: ExecutionId, sequence: i64, line: LiveLine) -> Self {
        let data = visibility::data(&line);
        Self {
            r#type: "execution_log",
            execution_id,
            sequence,
            attempt: line.attempt,
            level: line.level,
            message: line.message,
            timestamp: line.logged_at,
            metadata: data.clone(),
            data,
        }
    }

    /// What a client that has it tells back to go on after it.
    pub(crate) fn line(&self) -> LastLine {
        LastLine { sequence: self.sequence, attempt: self.attempt }
    }
}

/// What an end tells of a result; `None` when it is too large.
fn inline(result: Option<&RawValue>) -> Option<RawJson> {
    let fits = result.is_none_or(|result| result.get().len() <= MAX_INLINE_RESULT);
    let told = || result.map(ToOwned::to_owned).and_then(visibility::result);
    fits.then(|| told().unwrap_or_else(|| RawValue::NULL.to_owned()))
}

/// Rises along every way an execution can go: within an attempt Running, Cancelling, Pending again (a retry
/// waits), then the end; every attempt lies above the one before.
fn version(status: Status, attempt: i32) -> i64 {
    let step = match status {
        Status::Running => 1,
        Status::Cancelling => 2,
        Status::Pending => 5,
        Status::Success
        | Status::CompletedWithErrors
        | Status::Failed
        | Status::Timeout
        | Status::Cancelled => 9,
    };
    i64::from(attempt) * 10 + step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_rises_along_every_way() {
        let ways: [&[(Status, i32)]; 4] = [
            &[(Status::Pending, 0), (Status::Running, 1), (Status::Success, 1)],
            &[(Status::Pending, 0), (Status::Cancelled, 0)],
            &[(Status::Pending, 0), (Status::Running, 1), (Status::Cancelling, 1), (Status::Cancelled, 1)],
            &[(Status::Running, 1), (Status::Pending, 1), (Status::Running, 2), (Status::Failed, 2)],
        ];
        for way in ways {
            let versions: Vec<i64> = way.iter().map(|(status, attempt)| version(*status, *attempt)).collect();
            assert!(versions.is_sorted_by(|a, b| a < b), "{way:?}: {versions:?}");
        }
    }
}
