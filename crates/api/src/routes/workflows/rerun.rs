//! Running an execution again, with the parameters it had.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::Permission;
use domain::executions::bulk::{self, Repeatable};
use domain::executions::list;
use domain::id::ExecutionId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::WorkflowExecutionResponse;
use super::run::{Run, idempotency};
use crate::AppState;
use crate::extract::{IdempotencyKey, Path, Signed};
use crate::problem::{Problem, Problems};

/// The name of this operation in the idempotency table.
const ROUTE: &str = "executions.rerun";

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(rerun_execution))
}

/// Runs an execution again, with the parameters it had.
///
/// A new execution, as the caller, in the organization of the old one, of the workflow as it is now; parameters are
/// checked anew. For platform administrators, and for users with the permission `workflows.execute` who may read the old
/// one, unless that is inline code or came from a form. Answers as `POST /api/workflows/execute` does.
#[utoipa::path(
    post, path = "/api/executions/{execution_id}/rerun", tag = "Executions", security(("bearer" = [])),
    params(
        ("execution_id" = Uuid, Path, description = "The execution to repeat."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, kept a day."),
    ),
    responses(
        (status = 200, body = WorkflowExecutionResponse),
        (status = 202, body = WorkflowExecutionResponse, description = "Not ended yet."),
        Problems,
    ),
)]
async fn rerun_execution(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
    IdempotencyKey(key): IdempotencyKey,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    signed.scope.require(Permission::WorkflowsExecute)?;
    let mut tx = app.platform.db.begin(&signed.scope.clone().widened()).await?;
    // Whether the caller may read it: only then anything is said of it.
    list::get(&mut tx, id).await?;
    let old = bulk::repeatable(&mut tx, id).await?;
    tx.commit().await?;
    check(&old, signed.scope.actor().is_platform_admin)?;
    let scope = signed.scope.within(old.organization_id);
    let idempotency = key.map(|key| idempotency(ROUTE, key, &id, &scope)).transpose()?;
    let run = Run::again(&app, &scope, id, old).await;
    Run::start_or_replay(run, &app, &scope, idempotency, &headers).await
}

/// Code, and speaking for a form, stay with platform administrators as they do when something runs for the first time.
fn check(old: &Repeatable, is_platform_admin: bool) -> Result<(), Problem> {
    if !is_platform_admin && (old.code.is_some() || old.form_id.is_some()) {
        return Err(Problem::forbidden("Superuser privileges required"));
    }
    Ok(())
}
