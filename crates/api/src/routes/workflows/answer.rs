//! The answer to a request that runs something: what the run has become by now.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::executions::submit::{Idempotency, Work};
use domain::executions::{Execution, RawJson, read};
use domain::id::{ExecutionId, WorkflowId};
use domain::{OrgScope, Result};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::wait::Outcome;
use crate::extract::Json;
use crate::problem::Problem;
use crate::routes::executions::{self, ALL_LINES, ExecutionLogPublic, ExecutionStatus, result_schema};
use crate::visibility::{self, Reader};
use crate::{AppState, deadline};

/// An execution that was started, or ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "workflow_name": "greet", "status": "Success",
    "result": {"greeting": "Hello Grace"}, "duration_ms": 12, "is_transient": false,
}))]
pub(crate) struct WorkflowExecutionResponse {
    execution_id: String,
    /// Null for inline code.
    workflow_id: Option<String>,
    workflow_name: Option<String>,
    status: ExecutionStatus,
    /// What the workflow returned; a bare number or truth value as its JSON text.
    #[schema(schema_with = result_schema)]
    result: Option<RawJson>,
    error: Option<String>,
    error_type: Option<String>,
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
    duration_ms: Option<i64>,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
    /// For platform administrators, of a run that has ended.
    #[schema(value_type = Option<Vec<Object>>)]
    logs: Option<Vec<ExecutionLogPublic>>,
    /// For platform administrators, of a run that has ended.
    #[schema(value_type = Option<Object>)]
    variables: Option<RawJson>,
    is_transient: bool,
}

/// What is run, as the answer tells of it.
pub(super) struct Told {
    id: Option<WorkflowId>,
    name: String,
    is_transient: bool,
}

/// What became of a run while the request waited.
pub(crate) struct Ran {
    pub(crate) id: ExecutionId,
    pub(crate) outcome: Outcome,
    /// 202 tells that a caller who expected the end must ask again.
    pub(crate) status: StatusCode,
    /// Whether a key named an earlier submission.
    pub(crate) replayed: bool,
}

impl Ran {
    /// What became of a run, for a caller who `waits` for its end.
    pub(super) fn new(id: ExecutionId, outcome: Outcome, waits: bool, replayed: bool) -> Self {
        let is_late = waits && !outcome.status.is_terminal();
        let status = if is_late { StatusCode::ACCEPTED } else { StatusCode::OK };
        Self { id, outcome, status, replayed }
    }

    /// What an earlier request has run.
    pub(crate) fn replayed(execution: Execution, waits: bool) -> Self {
        Self::new(execution.id, execution.into(), waits, true)
    }
}

/// Marks the answer to a repeated submission.
pub(crate) fn mark_replayed(headers: &mut HeaderMap) {
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
}

/// What platform administrators see of a run that has ended, and nobody else.
#[derive(Default)]
struct Details {
    lines: Vec<ExecutionLogPublic>,
    variables: Option<RawJson>,
}

impl WorkflowExecutionResponse {
    fn new(id: ExecutionId, what: Told, outcome: Outcome, reader: Reader) -> Self {
        Self {
            execution_id: id.to_string(),
            workflow_id: what.id.map(|id| id.to_string()),
            workflow_name: Some(what.name),
            status: outcome.status.into(),
            result: outcome.result.and_then(visibility::result),
            error: reader.error(outcome.error_message.as_deref(), outcome.is_user_error),
            error_type: outcome.error_type,
            details: None,
            duration_ms: outcome.duration_ms,
            started_at: outcome.started_at,
            completed_at: outcome.completed_at,
            logs: None,
            variables: None,
            is_transient: what.is_transient,
        }
    }

    fn with(self, details: Option<Details>) -> Self {
        let Some(Details { lines, variables }) = details else { return self };
        let none = || RawValue::from_string("{}".into()).expect("is JSON");
        Self { logs: Some(lines), variables: Some(variables.unwrap_or_else(none)), ..self }
    }
}

impl Told {
    pub(super) fn of(work: &Work, is_transient: bool) -> Self {
        let id = match work {
            Work::Workflow(workflow) => Some(workflow.id),
            Work::Inline { .. } => None,
        };
        Self { id, name: work.name().to_owned(), is_transient }
    }
}

/// What there is to show to this reader beside the outcome; `None` while it runs, and for users. A run that left nothing is not
/// read again.
async fn details(app: &AppState, scope: &OrgScope, id: ExecutionId, outcome: &Outcome) -> Option<Details> {
    if !outcome.status.is_terminal() || !Reader::of(scope).sees_everything() {
        return None;
    }
    if !outcome.has_details {
        return Some(Details::default());
    }
    Box::pin(async {
        let reader = Reader::of(scope);
        let scope = scope.clone().widened();
        let read = read::get_with_lines(&app.platform.db, &scope, id, ALL_LINES, true);
        match deadline::in_time(read).await {
            Ok((execution, lines)) => Some(Details {
                lines: ExecutionLogPublic::list(&lines, reader),
                variables: execution.variables.map(|variables| variables.0),
            }),
            // It has ended, which counts; what it left is there to be read.
            Err(error) => {
                tracing::debug!(execution.id = %id, %error, "cannot read what a run left");
                None
            }
        }
    })
    .await
}

/// Answers a repeated request that could not be made today, with 200 also while it goes on; one that is made for the first time
/// gets the problem.
///
/// # Errors
/// The problem.
pub(super) async fn replayed_or(
    app: &AppState,
    scope: &OrgScope,
    idempotency: Option<Idempotency>,
    problem: Problem,
) -> Result<Response, Problem> {
    let Some(execution) = earlier(app, scope, idempotency.as_ref()).await? else { return Err(problem) };
    let what = Told {
        id: execution.workflow_id,
        name: execution.workflow_name.clone(),
        is_transient: execution.transient,
    };
    // Whether the request waited then is not known any more.
    Ok(respond(app, scope, what, Ran::replayed(execution, false)).await)
}

/// The answer of what was run.
pub(super) async fn respond(app: &AppState, scope: &OrgScope, what: Told, ran: Ran) -> Response {
    let Ran { id, outcome, status, replayed } = ran;
    let details = details(app, scope, id, &outcome).await;
    let body = WorkflowExecutionResponse::new(id, what, outcome, Reader::of(scope));
    let mut response = (status, Json(body.with(details))).into_response();
    if replayed {
        mark_replayed(response.headers_mut());
    }
    response
}

/// What an earlier request with this key has started, if there was one.
///
/// # Errors
/// [`domain::Error::Invalid`] for a key that was used with another body; as for reading an execution.
pub(crate) async fn earlier(
    app: &AppState,
    scope: &OrgScope,
    idempotency: Option<&Idempotency>,
) -> Result<Option<Execution>> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let replay = app.platform.submitter.replay(scope, idempotency);
    let Some(earlier) = deadline::in_time(replay).await? else { return Ok(None) };
    executions::get(app, scope.clone(), earlier.id).await.map(Some)
}
