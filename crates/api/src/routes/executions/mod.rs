//! Executions: reading them and their parts, and cancelling.
//!
//! An id addresses a row whatever organization a platform administrator named; the row decides who may read.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use domain::events::{Event, Update};
use domain::executions::cancel::{self, Cancelled};
use domain::executions::list::{self, Filters};
use domain::executions::{Execution, Status, logs, read};
use domain::id::ExecutionId;
use domain::page::Cursor;
use domain::{OrgScope, Permission, Result};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Json, Path, Query, Signed, time, whole_number};
use crate::problem::{Problem, Problems};
use crate::visibility::Reader;

mod bulk;
mod cleanup;
mod explain;
mod view;

pub(crate) use view::{ExecutionLogPublic, ExecutionStatus, WorkflowExecution, result_schema};

/// More lines than an execution can have.
pub(crate) const ALL_LINES: i64 = 100_000;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_executions))
        .routes(routes!(get_execution))
        .routes(routes!(get_execution_result))
        .routes(routes!(get_execution_logs))
        .routes(routes!(get_execution_variables))
        .routes(routes!(cancel_execution))
        .merge(cleanup::router())
        .merge(bulk::router())
        .merge(explain::router())
}

/// What a list shows. Names are also accepted in snake case.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Exact name of the workflow.
    #[param(rename = "workflowName")]
    workflow_name: Option<String>,
    /// State.
    #[param(value_type = Option<ExecutionStatus>, inline)]
    status: Option<String>,
    /// Submitted at or after this time or day; what cannot be read is ignored.
    #[param(rename = "startDate", example = "2026-01-05T00:00:00Z")]
    start_date: Option<String>,
    /// Submitted at or before this time, or on this day; what cannot be read is ignored.
    #[param(rename = "endDate")]
    end_date: Option<String>,
    /// How many, 25 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 25)]
    limit: Option<String>,
    /// From the answer before, for the rows after it; the filters must be the same.
    #[param(rename = "continuationToken")]
    continuation_token: Option<String>,
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// Only lines after this one.
    #[param(value_type = Option<i64>, minimum = 0)]
    after_sequence: Option<String>,
}

/// A page of executions.
#[derive(Debug, Serialize, ToSchema)]
struct ExecutionsListResponse {
    executions: Vec<WorkflowExecution>,
    /// For the next page; null at the end.
    continuation_token: Option<String>,
}

/// Executions, newest first.
///
/// Users see their own, platform administrators and users with the permission `executions.read` those of the scope. Logs and variables are left out.
#[utoipa::path(
    get, path = "/api/executions", tag = "Executions", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = ExecutionsListResponse), Problems),
)]
async fn list_executions(
    State(app): State<AppState>,
    signed: Signed,
    Query(query): Query<ListQuery>,
) -> Result<Json<ExecutionsListResponse>, Problem> {
    let limit = whole_number("limit", query.limit.as_deref(), 25, 1..=1000)?;
    let reader = Reader::of(&signed.scope);
    let filters = filters(&query, &signed)?;
    // The token is bound to what the caller reaches as well, so that it cannot be carried over.
    let list = (&filters, signed.scope.reach());
    let after = query.continuation_token.as_deref().map(|token| Cursor::parse(token, &list)).transpose()?;

    let mut tx = app.platform.db.begin(&signed.scope).await?;
    // One more tells whether there is a next page.
    let mut executions = list::list(&mut tx, &filters, limit + 1, after).await?;
    tx.commit().await?;

    let has_more = executions.len() as i64 > limit;
    if has_more {
        executions.pop();
    }
    let last = executions.last().filter(|_| has_more);
    let continuation_token = last.map(|last| Cursor(last.id.0).token(&list));
    let executions =
        executions.into_iter().map(|execution| WorkflowExecution::new(execution, reader)).collect();
    Ok(Json(ExecutionsListResponse { executions, continuation_token }))
}

/// One execution with its log.
///
/// For its owner and platform administrators; the lines are those the reader may see, in their own counting.
#[utoipa::path(
    get, path = "/api/executions/{execution_id}", tag = "Executions", security(("bearer" = [])),
    params(("execution_id" = Uuid, Path, description = "The execution.")),
    responses((status = 200, body = WorkflowExecution), Problems),
)]
async fn get_execution(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
) -> Result<Json<WorkflowExecution>, Problem> {
    let reader = Reader::of(&signed.scope);
    let (db, scope) = (&app.platform.db, signed.scope.widened());
    let (execution, lines) =
        read::get_with_lines(db, &scope, id, ALL_LINES, reader.sees_everything()).await?;
    Ok(Json(WorkflowExecution::new(execution, reader).with_lines(&lines, reader)))
}

/// What the workflow returned, itself.
///
/// Null while it runs, and where it returned nothing.
#[utoipa::path(
    get, path = "/api/executions/{execution_id}/result", tag = "Executions", security(("bearer" = [])),
    params(("execution_id" = Uuid, Path, description = "The execution.")),
    responses((status = 200, body = serde_json::Value, description = "Any JSON."), Problems),
)]
async fn get_execution_result(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
) -> Result<Response, Problem> {
    let execution = get(&app, signed.scope, id).await?;
    let json = execution.result.map_or_else(|| "null".to_owned(), |result| result.get().to_owned());
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// The log of an execution.
///
/// In order of emission; `after_sequence` continues where an earlier answer ended.
#[utoipa::path(
    get, path = "/api/executions/{execution_id}/logs", tag = "Executions", security(("bearer" = [])),
    params(("execution_id" = Uuid, Path, description = "The execution."), LogsQuery),
    responses((status = 200, body = Vec<ExecutionLogPublic>), Problems),
)]
async fn get_execution_logs(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
    Query(query): Query<LogsQuery>,
) -> Result<Json<Vec<ExecutionLogPublic>>, Problem> {
    let after = whole_number("after_sequence", query.after_sequence.as_deref(), 0, 0..=i64::MAX)?;
    let reader = Reader::of(&signed.scope);
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    list::get(&mut tx, id).await?;
    let lines = logs::list(&mut tx, id, after, ALL_LINES, reader.sees_everything()).await?;
    tx.commit().await?;
    Ok(Json(ExecutionLogPublic::list(&lines, reader)))
}

/// The locals of the workflow function at its end.
///
/// For platform administrators.
#[utoipa::path(
    get, path = "/api/executions/{execution_id}/variables", tag = "Executions", security(("bearer" = [])),
    params(("execution_id" = Uuid, Path, description = "The execution.")),
    responses((status = 200, body = Object), Problems),
)]
async fn get_execution_variables(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
) -> Result<Response, Problem> {
    let reader = Reader::of(&signed.scope);
    // First whether it exists for the caller: a 403 must not tell of what belongs to others.
    let execution = get(&app, signed.scope, id).await?;
    if !reader.sees_everything() {
        return Err(Problem::forbidden("Superuser privileges required"));
    }
    let json = execution.variables.map_or_else(|| "{}".to_owned(), |variables| variables.get().to_owned());
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// Cancels an execution.
///
/// One that waits never starts; one that runs is stopped within seconds. Cancelling twice is fine, and an
/// execution that ended otherwise is 400.
#[utoipa::path(
    post, path = "/api/executions/{execution_id}/cancel", tag = "Executions", security(("bearer" = [])),
    params(("execution_id" = Uuid, Path, description = "The execution.")),
    responses((status = 200, body = WorkflowExecution), Problems),
)]
async fn cancel_execution(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
) -> Result<Json<WorkflowExecution>, Problem> {
    let reader = Reader::of(&signed.scope);
    let mut tx = app.platform.db.begin(&signed.scope.clone().widened()).await?;
    // Whether the caller may: only then anything is changed.
    if list::get(&mut tx, id).await?.executed_by != signed.principal.user_id {
        signed.scope.require(Permission::ExecutionsCancel)?;
    }
    let cancelled = cancel::cancel(&mut tx, id).await?;
    let execution = list::get(&mut tx, id).await?;
    tx.commit().await?;
    if cancelled.changed {
        announce(&app, &execution, cancelled);
    }
    Ok(Json(WorkflowExecution::new(execution, reader)))
}

/// One execution, if the caller may read it.
pub(crate) async fn get(app: &AppState, scope: OrgScope, id: ExecutionId) -> Result<Execution> {
    read::get(&app.platform.db, &scope.widened(), id).await
}

/// Tells the worker to stop, and everybody who watches.
fn announce(app: &AppState, execution: &Execution, cancelled: Cancelled) {
    let events = &app.platform.events;
    if cancelled.status == Status::Cancelling {
        events.publish(Event::Cancel { execution_id: execution.id, attempt: cancelled.attempt });
    }
    events.publish(updated(execution));
}

/// What watchers are told of an execution that somebody ended or stopped.
fn updated(execution: &Execution) -> Event {
    let executed_by = (execution.executed_by, execution.executed_by_name.clone());
    let (org, name) = (execution.organization_id, execution.workflow_name.clone());
    Event::from(Update {
        started_at: execution.started_at,
        completed_at: execution.completed_at,
        duration_ms: execution.duration_ms,
        error_message: execution.error_message.clone(),
        error_type: execution.error_type.clone(),
        is_user_error: execution.is_user_error,
        transient: execution.transient,
        ..Update::new(execution.id, org, name, executed_by, execution.status, execution.attempt)
    })
}

fn filters(query: &ListQuery, signed: &Signed) -> Result<Filters, Problem> {
    let status = match query.status.as_deref() {
        None => None,
        Some(name) => Some(
            name.parse::<Status>()
                .map_err(|()| Problem::invalid("?status", "is no status of an execution"))?,
        ),
    };
    let is_own_only = !signed.scope.permits(Permission::ExecutionsRead);
    Ok(Filters {
        workflow_name: query.workflow_name.clone(),
        status,
        since: query.start_date.as_deref().and_then(|text| time::read(text, time::FIRST_OF_DAY)),
        until: query.end_date.as_deref().and_then(|text| time::read(text, time::LAST_OF_DAY)),
        executed_by: is_own_only.then_some(signed.principal.user_id),
    })
}
