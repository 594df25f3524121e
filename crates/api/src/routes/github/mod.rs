//! The repository of the workspace, for platform administrators: looking at it. What changes it is in `change.rs`,
//! connecting in `connect.rs`, the shapes in `shapes.rs`.
//!
//! The invariant: an operation of git that fails is an answer (`success: false` and `error`), not a problem of the request.

use std::time::Duration;

use axum::extract::State;
use domain::git::{Failed, look, merge, store};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Admin, Json, Query, whole_number};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

mod change;
mod connect;
mod shapes;

use shapes::{CommitHistoryResponse, Conflicts, GitHubConfigResponse, GitRefreshStatusResponse};

const MAX_LIMIT: i64 = 100;
/// How long an operation may take that speaks with the server of the repository.
const OPERATION: Duration = Duration::from_secs(1_800);
/// How long one may take that looks at the files of the workspace.
const LOOK: Duration = Duration::from_secs(120);

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_git_status))
        .routes(routes!(refresh_git_status))
        .routes(routes!(list_git_changes))
        .routes(routes!(list_git_commits))
        .routes(routes!(list_git_conflicts))
        .routes(routes!(get_git_config))
        .merge(change::router())
        .merge(connect::router())
}

#[derive(Debug, Deserialize)]
struct HistoryQuery {
    limit: Option<String>,
    offset: Option<String>,
}

/// The state of the workspace's repository.
///
/// Branch, changed files, conflicts of a merge in progress, how far this and the server are apart, the latest commits. No server is
/// asked: `POST /api/github/refresh` does that. Without a repository it is `initialized: false`.
#[utoipa::path(
    get, path = "/api/github/status", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = GitRefreshStatusResponse), Problems),
)]
async fn get_git_status(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<GitRefreshStatusResponse>, Problem> {
    status(&app, &admin).await
}

/// Asks the server what it has, and gives the state after that.
///
/// Nothing of the workspace changes. When the server cannot be reached, `error` says why beside the state as it was known.
#[utoipa::path(
    post, path = "/api/github/refresh", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = GitRefreshStatusResponse), Problems),
)]
async fn refresh_git_status(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<GitRefreshStatusResponse>, Problem> {
    let is_connected = {
        let mut tx = app.platform.db.begin(&admin.scope.clone().widened()).await?;
        store::find(&mut tx).await?.repo_url.is_some()
    };
    deadline::may_wait(OPERATION);
    let fetched = if is_connected { merge::fetch(&app.platform, &admin.scope).await } else { Ok(()) };
    status_after(&app, &admin, said(fetched)?).await
}

/// The changed files of the workspace.
///
/// The same as the state of the repository; kept for clients that ask for this alone.
#[utoipa::path(
    get, path = "/api/github/changes", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = GitRefreshStatusResponse), Problems),
)]
async fn list_git_changes(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<GitRefreshStatusResponse>, Problem> {
    status(&app, &admin).await
}

/// Commits of the branch, the newest first.
#[utoipa::path(
    get, path = "/api/github/commits", tag = "GitHub", security(("bearer" = [])),
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "How many; 20 if not given."),
        ("offset" = Option<i64>, Query, minimum = 0, description = "How many to pass by."),
    ),
    responses((status = 200, body = CommitHistoryResponse), Problems),
)]
async fn list_git_commits(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<CommitHistoryResponse>, Problem> {
    let limit = whole_number("limit", query.limit.as_deref(), 20, 1..=MAX_LIMIT)?;
    let offset = whole_number("offset", query.offset.as_deref(), 0, 0..=i64::from(i32::MAX))?;
    deadline::may_wait(LOOK);
    let history = said(look::history(&app.platform, &admin.scope, limit, offset).await)?.unwrap_or_default();
    Ok(Json(CommitHistoryResponse::new(history, offset)))
}

/// The conflicts of a merge in progress.
///
/// With both sides and what both began with. A conflict is resolved by saving the file as it should be, or deleting
/// it; then commit.
#[utoipa::path(
    get, path = "/api/github/conflicts", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = Conflicts), Problems),
)]
async fn list_git_conflicts(State(app): State<AppState>, admin: Admin) -> Result<Json<Conflicts>, Problem> {
    deadline::may_wait(LOOK);
    let conflicts = said(look::conflicts(&app.platform, &admin.scope).await)?.unwrap_or_default();
    Ok(Json(conflicts.into()))
}

/// What the workspace is connected with.
///
/// The token is never shown, only whether there is one.
#[utoipa::path(
    get, path = "/api/github/config", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = GitHubConfigResponse), Problems),
)]
async fn get_git_config(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<GitHubConfigResponse>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.clone().widened()).await?;
    Ok(Json(store::find(&mut tx).await?.into()))
}

async fn status(app: &AppState, admin: &Admin) -> Result<Json<GitRefreshStatusResponse>, Problem> {
    deadline::may_wait(LOOK);
    Ok(Json(match look::status(&app.platform, &admin.scope).await {
        Ok(status) => status.into(),
        Err(Failed::Said(words)) => GitRefreshStatusResponse::failed(words),
        Err(Failed::Broken(error)) => return Err(error.into()),
    }))
}

/// The state after an operation; one that failed says why beside it.
async fn status_after(
    app: &AppState,
    admin: &Admin,
    done: Result<(), String>,
) -> Result<Json<GitRefreshStatusResponse>, Problem> {
    let Json(state) = status(app, admin).await?;
    Ok(Json(match done {
        Ok(()) => state,
        Err(words) => state.because(words),
    }))
}

/// `Err` for what is a problem of the platform; what git says goes into the answer.
fn said<T>(outcome: Result<T, Failed>) -> Result<Result<T, String>, Problem> {
    match outcome {
        Ok(done) => Ok(Ok(done)),
        Err(Failed::Said(words)) => Ok(Err(words)),
        Err(Failed::Broken(error)) => Err(error.into()),
    }
}
