//! What changes the repository and the files of the workspace: commit, push, pull, abort, discard.

use axum::extract::State;
use domain::git::discard::Discarded;
use domain::git::names::CommitName;
use domain::git::{Failed, change, discard, merge};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::shapes::{CommitInfo, ConflictInfo, all};
use super::{OPERATION, said};
use crate::extract::{Admin, Json, OptionalJson, check_text};
use crate::indexing::{self, Changed};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(commit_git_changes))
        .routes(routes!(push_to_git))
        .routes(routes!(pull_from_git))
        .routes(routes!(abort_git_merge))
        .routes(routes!(discard_unpushed_commits))
        .routes(routes!(discard_git_commit))
}

/// What is to be committed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"message": "Clean up weekly"}))]
struct PushToGitHubRequest {
    /// The message of the commit; there is one if it is left out.
    message: Option<String>,
    /// Sent by clients; there is one repository, so that it says nothing.
    #[expect(dead_code, reason = "sent by clients, and there is one repository")]
    connection_id: Option<String>,
}

/// What is to be pulled.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct PullFromGitHubRequest {
    /// Sent by clients; there is one repository, so that it says nothing.
    #[expect(dead_code, reason = "sent by clients, and there is one repository")]
    connection_id: Option<String>,
}

/// A commit to take back.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"commit_sha": "1c002dd4b536e7479fe34593e72e6c6c1819e53b"}))]
struct DiscardCommitRequest {
    #[schema(min_length = 1)]
    commit_sha: String,
}

/// What was committed.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(example = json!({
    "success": true, "commit_sha": "1c002dd4b536e7479fe34593e72e6c6c1819e53b", "files_committed": 2, "error": null,
}))]
struct Committed {
    success: bool,
    commit_sha: Option<String>,
    files_committed: usize,
    error: Option<String>,
}

/// Whether it was pushed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": false, "error": "the branch on the server has commits that are not here; pull first"}))]
struct PushToGitHubResponse {
    success: bool,
    error: Option<String>,
}

/// What was pulled.
#[derive(Debug, Default, Serialize, ToSchema)]
struct PullFromGitHubResponse {
    success: bool,
    /// Files that changed.
    updated_files: Vec<String>,
    /// What somebody has to decide; then no file changed, and a merge is in progress.
    conflicts: Vec<ConflictInfo>,
    error: Option<String>,
}

/// What was taken back.
#[derive(Debug, Default, Serialize, ToSchema)]
struct DiscardUnpushedCommitsResponse {
    success: bool,
    discarded_commits: Vec<CommitInfo>,
    new_head: Option<String>,
    error: Option<String>,
}

/// Whether a merge was given up.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "message": "The merge was given up", "error": null}))]
struct Aborted {
    success: bool,
    message: String,
    error: Option<String>,
}

/// Commits everything that was changed.
///
/// While a merge is in progress it commits its result: each file with a conflict has to be stored as it should be before.
#[utoipa::path(
    post, path = "/api/github/commit", tag = "GitHub", security(("bearer" = [])),
    request_body = PushToGitHubRequest,
    responses((status = 200, body = Committed), Problems),
)]
async fn commit_git_changes(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<PushToGitHubRequest>,
) -> Result<Json<Committed>, Problem> {
    let message = message(input)?;
    let scope = admin.scope;
    let done = seen_through(&app, move |app: AppState| async move {
        Box::pin(change::commit(&app.platform, &scope, message.as_deref())).await
    });
    Ok(Json(match done.await? {
        Ok(committed) => Committed {
            success: true,
            commit_sha: Some(committed.sha),
            files_committed: committed.files,
            error: None,
        },
        Err(words) => Committed { error: Some(words), ..Committed::default() },
    }))
}

/// Commits what is pending and pushes.
///
/// What was committed stays committed when the server refuses.
#[utoipa::path(
    post, path = "/api/github/push", tag = "GitHub", security(("bearer" = [])),
    request_body = PushToGitHubRequest,
    responses((status = 200, body = PushToGitHubResponse), Problems),
)]
async fn push_to_git(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<PushToGitHubRequest>,
) -> Result<Json<PushToGitHubResponse>, Problem> {
    let message = message(input)?;
    let scope = admin.scope;
    let done = seen_through(&app, move |app: AppState| async move {
        Box::pin(change::push(&app.platform, &scope, message.as_deref())).await
    });
    let error = done.await?.err();
    Ok(Json(PushToGitHubResponse { success: error.is_none(), error }))
}

/// Brings the commits of the server into the workspace.
///
/// A run sees all files as they were or all as they become. It is refused when it would overwrite what is not committed.
/// What both sides have changed comes back with both sides and the base, and leaves a merge in progress: no file of this side
/// changes until it is committed. What was deleted here and changed there is written, to be saved or deleted again.
#[utoipa::path(
    post, path = "/api/github/pull", tag = "GitHub", security(("bearer" = [])),
    request_body = Option<PullFromGitHubRequest>,
    responses((status = 200, body = PullFromGitHubResponse), Problems),
)]
async fn pull_from_git(
    State(app): State<AppState>,
    admin: Admin,
    _input: OptionalJson<PullFromGitHubRequest>,
) -> Result<Json<PullFromGitHubResponse>, Problem> {
    let scope = admin.scope;
    let done =
        seen_through(
            &app,
            move |app: AppState| async move { Box::pin(merge::pull(&app.platform, &scope)).await },
        );
    Ok(Json(match done.await? {
        Ok(pulled) => PullFromGitHubResponse {
            success: pulled.conflicts.is_empty(),
            error: (!pulled.conflicts.is_empty()).then(|| {
                "both sides have changed the same; resolve the conflicts and commit, or abort the merge"
                    .into()
            }),
            updated_files: pulled.updated,
            conflicts: all(pulled.conflicts),
        },
        Err(words) => PullFromGitHubResponse { error: Some(words), ..PullFromGitHubResponse::default() },
    }))
}

/// Gives a merge up.
///
/// Files whose conflict was being resolved become what they were.
#[utoipa::path(
    post, path = "/api/github/abort-merge", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = Aborted), Problems),
)]
async fn abort_git_merge(State(app): State<AppState>, admin: Admin) -> Result<Json<Aborted>, Problem> {
    let scope = admin.scope;
    let done = seen_through(&app, move |app: AppState| async move {
        Box::pin(merge::abort(&app.platform, &scope)).await
    });
    Ok(Json(match done.await? {
        Ok(()) => Aborted { success: true, message: "The merge was given up".into(), error: None },
        Err(words) => Aborted { success: false, message: words.clone(), error: Some(words) },
    }))
}

/// Takes back all commits that were not pushed.
///
/// Files go back with them. It is refused when that would overwrite what is not committed.
#[utoipa::path(
    post, path = "/api/github/discard-unpushed", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = DiscardUnpushedCommitsResponse), Problems),
)]
async fn discard_unpushed_commits(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<DiscardUnpushedCommitsResponse>, Problem> {
    let scope = admin.scope;
    let done = seen_through(&app, move |app: AppState| async move {
        Box::pin(discard::unpushed(&app.platform, &scope)).await
    });
    Ok(Json(done.await?.into()))
}

/// Takes back a commit that was not pushed, and those after it.
///
/// Files go back with them. It is refused when that would overwrite what is not committed.
#[utoipa::path(
    post, path = "/api/github/discard-commit", tag = "GitHub", security(("bearer" = [])),
    request_body = DiscardCommitRequest,
    responses((status = 200, body = DiscardUnpushedCommitsResponse), Problems),
)]
async fn discard_git_commit(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<DiscardCommitRequest>,
) -> Result<Json<DiscardUnpushedCommitsResponse>, Problem> {
    let name = CommitName::parse("/commit_sha", input.commit_sha.trim())?;
    let scope = admin.scope;
    let done = seen_through(&app, move |app: AppState| async move {
        Box::pin(discard::commit(&app.platform, &scope, &name)).await
    });
    Ok(Json(done.await?.into()))
}

impl From<Result<Discarded, String>> for DiscardUnpushedCommitsResponse {
    fn from(done: Result<Discarded, String>) -> Self {
        match done {
            Ok(discarded) => Self {
                success: true,
                discarded_commits: all(discarded.commits),
                new_head: Some(discarded.head),
                error: None,
            },
            Err(words) => Self { error: Some(words), ..Self::default() },
        }
    }
}

fn message(input: PushToGitHubRequest) -> Result<Option<String>, Problem> {
    if let Some(message) = &input.message {
        check_text("/message", message)?;
    }
    Ok(input.message)
}

/// Sees an operation through when its client leaves, and has the files indexed before the answer.
pub(super) async fn seen_through<T, W>(
    app: &AppState,
    work: impl FnOnce(AppState) -> W + Send + 'static,
) -> Result<Result<T, String>, Problem>
where
    T: Send + 'static,
    W: Future<Output = Result<T, Failed>> + Send + 'static,
{
    let app = app.clone();
    let done = deadline::to_the_end(OPERATION, async move {
        let done = work(app.clone()).await;
        if done.is_ok() {
            indexing::follow(&app, Changed::ANY).await;
        }
        Ok(done)
    });
    said(done.await?)
}
