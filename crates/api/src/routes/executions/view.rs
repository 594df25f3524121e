//! How an execution and its lines look to their reader.

use chrono::{DateTime, Utc};
use domain::events::LiveLine;
use domain::executions::{Execution, RawJson, Status, logs};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};

use crate::visibility::{self, Reader};

/// State of an execution. The last five are terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) enum ExecutionStatus {
    Pending,
    Running,
    Cancelling,
    Success,
    CompletedWithErrors,
    Failed,
    Timeout,
    Cancelled,
}

impl From<Status> for ExecutionStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::Running => Self::Running,
            Status::Cancelling => Self::Cancelling,
            Status::Success => Self::Success,
            Status::CompletedWithErrors => Self::CompletedWithErrors,
            Status::Failed => Self::Failed,
            Status::Timeout => Self::Timeout,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

/// An execution.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "workflow_name": "greet", "status": "Success",
    "executed_by": "0198c5a0-1111-7abc-8def-0123456789ab", "executed_by_name": "Ada",
    "input_data": {"name": "Grace"}, "result": {"greeting": "Hello Grace"}, "result_type": "json", "duration_ms": 12,
    "started_at": "2026-01-05T09:30:00Z", "completed_at": "2026-01-05T09:30:00.012Z",
}))]
pub(crate) struct WorkflowExecution {
    #[schema(value_type = String, format = Uuid)]
    execution_id: String,
    /// Null for inline code.
    workflow_id: Option<String>,
    workflow_name: String,
    /// Null for a global execution.
    org_id: Option<String>,
    form_id: Option<String>,
    /// The execution that this one repeats.
    rerun_of: Option<String>,
    executed_by: String,
    executed_by_name: String,
    status: ExecutionStatus,
    #[schema(value_type = Object)]
    input_data: RawJson,
    /// What the workflow returned; a bare number or truth value as its JSON text.
    #[schema(schema_with = result_schema)]
    result: Option<RawJson>,
    /// `json`, `html` or `text`.
    result_type: Option<String>,
    /// For users without platform rights neutral, unless it was written for them.
    error_message: Option<String>,
    /// Class of the exception, or a name of the platform (`TimeoutError`, `WorkerLost`, …).
    error_type: Option<String>,
    /// Duration of the last attempt.
    duration_ms: Option<i64>,
    /// Attempts begun.
    attempt: i32,
    created_at: DateTime<Utc>,
    /// When it was first claimed.
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
    /// Null in lists.
    #[schema(value_type = Option<Vec<Object>>)]
    logs: Option<Vec<ExecutionLogPublic>>,
    /// Locals of the workflow function at its end; for platform administrators.
    #[schema(value_type = Option<Object>)]
    variables: Option<RawJson>,
    /// For platform administrators.
    peak_memory_bytes: Option<i64>,
    /// For platform administrators.
    cpu_total_seconds: Option<f64>,
}

/// A log line.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecutionLogPublic {
    /// From 1 without gaps, counting the lines this reader may see.
    sequence: i64,
    timestamp: DateTime<Utc>,
    /// `DEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL` or `TRACEBACK`.
    level: String,
    message: String,
    /// What was logged along, and the attempt.
    #[schema(value_type = Option<Object>)]
    data: Option<RawJson>,
}

impl WorkflowExecution {
    /// The execution as this reader sees it, without lines.
    pub(crate) fn new(mut execution: Execution, reader: Reader) -> Self {
        reader.redact(&mut execution);
        Self {
            execution_id: execution.id.to_string(),
            workflow_id: execution.workflow_id.map(|id| id.to_string()),
            workflow_name: execution.workflow_name,
            org_id: execution.organization_id.map(|id| id.to_string()),
            form_id: execution.form_id.map(|id| id.to_string()),
            rerun_of: execution.rerun_of.map(|id| id.to_string()),
            executed_by: execution.executed_by.to_string(),
            executed_by_name: execution.executed_by_name,
            status: execution.status.into(),
            input_data: execution.parameters.0,
            result: execution.result.and_then(|result| visibility::result(result.0)),
            result_type: execution.result_type,
            error_message: execution.error_message,
            error_type: execution.error_type,
            duration_ms: execution.duration_ms,
            attempt: execution.attempt,
            created_at: execution.created_at,
            started_at: execution.started_at,
            completed_at: execution.completed_at,
            logs: None,
            variables: execution.variables.map(|variables| variables.0),
            peak_memory_bytes: execution.peak_memory_bytes,
            cpu_total_seconds: execution.cpu_total_seconds,
        }
    }

    /// The same with its lines.
    pub(crate) fn with_lines(self, lines: &[logs::Line], reader: Reader) -> Self {
        Self { logs: Some(ExecutionLogPublic::list(lines, reader)), ..self }
    }
}

impl ExecutionLogPublic {
    /// The lines this reader may see, in their own counting.
    pub(crate) fn list(lines: &[logs::Line], reader: Reader) -> Vec<Self> {
        let shown = lines.iter().map(LiveLine::from);
        shown.filter_map(|line| reader.sequence(&line).map(|sequence| Self::new(sequence, line))).collect()
    }

    fn new(sequence: i64, line: LiveLine) -> Self {
        let data = Some(visibility::data(&line));
        Self { sequence, timestamp: line.logged_at, level: line.level, message: line.message, data }
    }
}

/// Any object, array or text, or null.
pub(crate) fn result_schema() -> Schema {
    let object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(true)));
    AnyOfBuilder::new()
        .item(object)
        .item(ArrayBuilder::new().items(ObjectBuilder::new().schema_type(SchemaType::AnyValue)))
        .item(ObjectBuilder::new().schema_type(Type::String))
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .build()
        .into()
}
