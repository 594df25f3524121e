//! Many executions at once, by a filter: cancelling them, and repeating what failed.

use axum::extract::State;
use domain::Permission;
use domain::events::{Event, Update};
use domain::executions::Status;
use domain::executions::bulk::{self, Cancelled, MOST, Selection};
use domain::id::{UserId, WorkflowId};
use domain::telemetry::metrics;
use domain::wakeup::Wakeup;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::updated;
use crate::AppState;
use crate::extract::{Json, Signed, check_text, time};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(cancel_executions)).routes(routes!(retry_executions))
}

/// Which executions: all members must hold. At least one is required, or `all`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"workflow_name": "import_sites", "status": ["Failed"], "since": "2026-01-05T00:00:00Z", "limit": 500}))]
struct BulkRequest {
    /// Of the workflow with this id.
    #[schema(format = Uuid)]
    workflow_id: Option<String>,
    /// Of the workflow with this name.
    workflow_name: Option<String>,
    /// In one of these states.
    status: Option<Vec<String>>,
    /// Submitted at or after.
    #[schema(value_type = Option<DateTime<Utc>>)]
    since: Option<String>,
    /// Submitted at or before this time, or on this day.
    #[schema(value_type = Option<DateTime<Utc>>)]
    until: Option<String>,
    /// Started by this user.
    #[schema(format = Uuid)]
    executed_by: Option<String>,
    /// That failed with this class of error.
    error_type: Option<String>,
    /// All of them: must be said.
    all: Option<bool>,
    /// At most so many; 1000 if not given.
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// What was cancelled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"cancelled": 120, "cancelling": 4, "may_have_more": false}))]
struct BulkCancelResponse {
    /// That waited, and never start.
    cancelled: usize,
    /// That run, and are being stopped.
    cancelling: usize,
    /// Whether some still wait or run, as they were too many or somebody else held them at that moment: then call it again.
    may_have_more: bool,
}

/// What is repeated.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"retried": 1, "executions": [{
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "rerun_of": "0198c5a2-0000-7d31-9a54-0d5a3f0c2b11",
}], "may_have_more": false}))]
struct BulkRetryResponse {
    retried: usize,
    executions: Vec<RetriedExecution>,
    /// Whether as many were taken as one call takes: then call it again.
    may_have_more: bool,
}

/// An execution and what it repeats.
#[derive(Debug, Serialize, ToSchema)]
struct RetriedExecution {
    execution_id: String,
    rerun_of: String,
}

/// Cancels executions by a filter.
///
/// Those of the scope that wait or run: the caller's own; for platform administrators, and users with the permission
/// `executions.cancel`, anybody's. The oldest first, at most 1000 at once.
#[utoipa::path(
    post, path = "/api/executions/bulk/cancel", tag = "Executions", security(("bearer" = [])), request_body = BulkRequest,
    responses((status = 200, body = BulkCancelResponse), Problems),
)]
async fn cancel_executions(
    State(app): State<AppState>,
    signed: Signed,
    Json(request): Json<BulkRequest>,
) -> Result<Json<BulkCancelResponse>, Problem> {
    let (mut selection, limit) = request.read(&[Status::Pending, Status::Running])?;
    if selection.error_type.is_some() {
        return Err(Problem::invalid(
            "/error_type",
            "is of executions that have ended, and none of them can be cancelled",
        ));
    }
    if !signed.scope.permits(Permission::ExecutionsCancel) {
        selection.executed_by = Some(only_own(selection.executed_by, signed.principal.user_id)?);
    }
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let Cancelled { executions, has_more } = bulk::cancel(&mut tx, &selection, limit).await?;
    tx.commit().await?;
    let mut cancelling = 0;
    for execution in &executions {
        if execution.status == Status::Cancelling {
            cancelling += 1;
            app.platform
                .events
                .publish(Event::Cancel { execution_id: execution.id, attempt: execution.attempt });
        }
        app.platform.events.publish(updated(execution));
    }
    let cancelled = executions.len() - cancelling;
    Ok(Json(BulkCancelResponse { cancelled, cancelling, may_have_more: has_more }))
}

/// Runs executions again that failed, by a filter.
///
/// For platform administrators, and users with the permission `workflows.execute`, who without `executions.read` repeat
/// their own only. Each becomes a new execution of the caller with the same parameters, which are not checked anew, and
/// names what it repeats; what was repeated before is passed over. States are `Failed` and `Timeout` unless given;
/// `Cancelled` and `CompletedWithErrors` may be. Left out are children, transient runs, and runs of workflows that are
/// gone; for users also inline code and runs of forms. The oldest first, at most 1000 at once.
#[utoipa::path(
    post, path = "/api/executions/bulk/retry", tag = "Executions", security(("bearer" = [])), request_body = BulkRequest,
    responses((status = 200, body = BulkRetryResponse), Problems),
)]
async fn retry_executions(
    State(app): State<AppState>,
    signed: Signed,
    Json(request): Json<BulkRequest>,
) -> Result<Json<BulkRetryResponse>, Problem> {
    signed.scope.require(Permission::WorkflowsExecute)?;
    let allowed = [Status::Failed, Status::Timeout, Status::Cancelled, Status::CompletedWithErrors];
    let (mut selection, limit) = request.read(&allowed)?;
    if !signed.scope.permits(Permission::ExecutionsRead) {
        selection.executed_by = Some(only_own(selection.executed_by, signed.principal.user_id)?);
    }
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let retried = bulk::retry(&mut tx, &selection, limit).await?;
    tx.commit().await?;
    metrics::submitted(retried.len());
    let actor = signed.scope.actor();
    for one in &retried {
        let (org, name) = (one.organization_id, one.workflow_name.clone());
        app.platform.events.publish(Update::submitted(one.id, org, name, actor).into());
    }
    let wakeups = retried.iter().map(|one| Wakeup::new(one.id, one.organization_id, one.priority, None));
    app.platform.wakeups.publish(wakeups.collect());
    let executions: Vec<RetriedExecution> = retried
        .iter()
        .map(|one| RetriedExecution { execution_id: one.id.to_string(), rerun_of: one.rerun_of.to_string() })
        .collect();
    let may_have_more = i64::try_from(executions.len()).is_ok_and(|count| count >= limit);
    Ok(Json(BulkRetryResponse { retried: executions.len(), executions, may_have_more }))
}

impl BulkRequest {
    /// The selection, of these states at most, and how many of it.
    fn read(&self, allowed: &[Status]) -> Result<(Selection, i64), Problem> {
        for (pointer, text) in [("/workflow_name", &self.workflow_name), ("/error_type", &self.error_type)] {
            text.as_deref().map(|text| check_text(pointer, text)).transpose()?;
        }
        let mut statuses = Vec::new();
        for (index, name) in self.status.iter().flatten().enumerate() {
            let status = name.parse::<Status>().ok().filter(|status| allowed.contains(status));
            let names: Vec<&str> = allowed.iter().map(|status| status.as_str()).collect();
            let fault = || {
                Problem::invalid(format!("/status/{index}"), format!("must be one of {}", names.join(", ")))
            };
            statuses.push(status.ok_or_else(fault)?);
        }
        let limit = self.limit.unwrap_or(MOST);
        if !(1..=MOST).contains(&limit) {
            return Err(Problem::invalid("/limit", format!("must be a whole number from 1 to {MOST}")));
        }
        let selection = Selection {
            workflow_id: id::<WorkflowId>("/workflow_id", self.workflow_id.as_deref())?,
            workflow_name: self.workflow_name.clone(),
            statuses,
            since: time::read_at("/since", self.since.as_deref(), time::FIRST_OF_DAY)?,
            until: time::read_at("/until", self.until.as_deref(), time::LAST_OF_DAY)?,
            executed_by: id::<UserId>("/executed_by", self.executed_by.as_deref())?,
            error_type: self.error_type.clone(),
        };
        let narrows = selection.workflow_id.is_some()
            || selection.workflow_name.is_some()
            || !selection.statuses.is_empty()
            || selection.since.is_some()
            || selection.until.is_some()
            || selection.executed_by.is_some()
            || selection.error_type.is_some();
        if !narrows && self.all != Some(true) {
            return Err(Problem::invalid("/all", "must be true, unless a filter is given"));
        }
        Ok((selection, limit))
    }
}

/// Whoever may act on their own executions only may name nobody else.
fn only_own(named: Option<UserId>, own: UserId) -> Result<UserId, Problem> {
    match named {
        Some(other) if other != own => Err(Problem::forbidden("These executions belong to another user")),
        _ => Ok(own),
    }
}

fn id<T: std::str::FromStr>(pointer: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    text.map(|text| text.trim().parse().map_err(|_| Problem::invalid(pointer, "must be a UUID"))).transpose()
}
