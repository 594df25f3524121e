//! Connecting the workspace with a repository: tokens, what GitHub has, connecting and letting go.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::background_jobs::{self, Kind, NewJob};
use domain::git::connect::{self, Standing, Wanted};
use domain::git::github::{self, NewRepository, Repository};
use domain::git::names::{Address, Branch, Server};
use domain::git::{self, store};
use domain::{Error, OrgScope, audit};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::seen_through;
use super::shapes::{GitRefreshStatusResponse, all};
use super::{LOOK, OPERATION, said, status_after};
use crate::extract::{Admin, Json, Query, check_text};
use crate::observe::traceparent;
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(validate_git_token))
        .routes(routes!(list_github_repositories))
        .routes(routes!(list_github_branches))
        .routes(routes!(create_github_repository))
        .routes(routes!(analyze_workspace))
        .routes(routes!(init_git))
        .routes(routes!(configure_git))
        .routes(routes!(disconnect_git))
}

/// A token to keep.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"token": "github_pat_…"}))]
struct ValidateTokenRequest {
    #[schema(format = "password")]
    token: String,
}

/// A repository to connect.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"repo_url": "https://github.com/acme/flows.git", "auth_token": "", "branch": "main"}))]
struct GitHubConfigRequest {
    /// Its address, which begins with `https://`; or `owner/name` on GitHub.
    #[schema(min_length = 1)]
    repo_url: String,
    /// The token; empty for the one that was validated.
    #[schema(format = "password")]
    auth_token: String,
    #[serde(default = "main")]
    #[schema(default = "main", required = false)]
    branch: String,
}

/// A repository to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "flows", "description": "Our workflows", "private": true}))]
struct CreateRepoRequest {
    #[schema(min_length = 1)]
    name: String,
    description: Option<String>,
    #[serde(default = "yes")]
    #[schema(default = true, required = false)]
    private: bool,
    /// The organization on GitHub that it belongs to; the token's owner if it is left out.
    organization: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RepositoryQuery {
    repo: Option<String>,
}

/// A repository that the token opens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "flows", "full_name": "acme/flows", "description": "Our workflows", "url": "https://github.com/acme/flows",
    "private": true,
}))]
struct GitHubRepoInfo {
    name: String,
    full_name: String,
    description: Option<String>,
    url: String,
    private: bool,
}

/// A repository of GitHub that the workspace has already.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"full_name": "acme/flows", "branch": "main"}))]
struct DetectedRepoInfo {
    full_name: String,
    branch: String,
}

/// Repositories that the token opens, those that changed last first; at most 500.
#[derive(Debug, Serialize, ToSchema)]
struct GitHubReposResponse {
    repositories: Vec<GitHubRepoInfo>,
    detected_repo: Option<DetectedRepoInfo>,
}

/// A branch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"name": "main", "protected": true, "commit_sha": "1c002dd4b536e7479fe34593e72e6c6c1819e53b"}))]
struct GitHubBranchInfo {
    name: String,
    protected: bool,
    commit_sha: String,
}

/// The branches of a repository; at most 500.
#[derive(Debug, Serialize, ToSchema)]
struct GitHubBranchesResponse {
    branches: Vec<GitHubBranchInfo>,
}

/// A repository that was made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "full_name": "acme/flows", "url": "https://github.com/acme/flows", "clone_url": "https://github.com/acme/flows.git",
}))]
struct CreateRepoResponse {
    full_name: String,
    url: String,
    clone_url: String,
}

/// What the workspace is, compared with a repository.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WorkspaceStatus {
    Empty,
    HasFilesNoGit,
    IsGitRepo,
    IsDifferentGitRepo,
}

/// What connecting would replace.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "workspace_status": "has_files_no_git", "file_count": 12, "existing_remote": null, "requires_confirmation": true,
    "backup_will_be_created": true,
}))]
struct WorkspaceAnalysisResponse {
    workspace_status: WorkspaceStatus,
    file_count: usize,
    existing_remote: Option<String>,
    /// Whether files would be replaced that are not of this repository.
    requires_confirmation: bool,
    /// Always: whatever is replaced is kept.
    #[schema(default = true, required = false)]
    backup_will_be_created: bool,
}

/// A job that connects a repository.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "job_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "notification_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12",
    "status": "queued",
}))]
struct GitHubSetupResponse {
    /// Its progress is told on the channel `git:{user}`.
    job_id: String,
    /// The notification that follows it.
    notification_id: String,
    #[schema(default = "queued", required = false)]
    status: String,
}

/// Whether the repository was let go.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "message": "The repository is disconnected; the files stay as they are"}))]
struct Disconnected {
    success: bool,
    message: String,
}

/// Keeps a token for GitHub and lists what it opens.
///
/// It is asked at GitHub first, then sealed; nothing ever shows it again.
#[utoipa::path(
    post, path = "/api/github/validate", tag = "GitHub", security(("bearer" = [])),
    request_body = ValidateTokenRequest,
    responses(
        (status = 200, body = GitHubReposResponse),
        (status = 400, description = "GitHub refuses the token."),
        Problems,
    ),
)]
async fn validate_git_token(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<ValidateTokenRequest>,
) -> Result<Json<GitHubReposResponse>, Problem> {
    let token = input.token.trim();
    store::check_token("/token", token)?;
    let token = SecretString::from(token);
    deadline::may_wait(deadline::OTHERS);
    let found = github::repositories(&app.platform, &token).await?;
    let mut tx = app.platform.db.begin(&admin.scope.clone().widened()).await?;
    let github = Server::github(&app.platform.settings)?;
    store::set_token(&mut tx, &app.platform.vault, &token, &github).await?;
    tx.commit().await?;
    repositories(&app, &admin.scope, found).await
}

/// The repositories that the kept token opens.
#[utoipa::path(
    get, path = "/api/github/repositories", tag = "GitHub", security(("bearer" = [])),
    responses(
        (status = 200, body = GitHubReposResponse),
        (status = 400, description = "There is no token, or GitHub refuses it."),
        Problems,
    ),
)]
async fn list_github_repositories(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<GitHubReposResponse>, Problem> {
    let token = github_token(&app, &admin.scope).await?;
    let found = github::repositories(&app.platform, &token).await?;
    repositories(&app, &admin.scope, found).await
}

/// The branches of a repository on GitHub.
#[utoipa::path(
    get, path = "/api/github/branches", tag = "GitHub", security(("bearer" = [])),
    params(("repo" = String, Query, description = "`owner/name`.")),
    responses(
        (status = 200, body = GitHubBranchesResponse),
        (status = 400, description = "There is no token, or GitHub refuses it."),
        Problems,
    ),
)]
async fn list_github_branches(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<RepositoryQuery>,
) -> Result<Json<GitHubBranchesResponse>, Problem> {
    let repository = query.repo.ok_or_else(|| Problem::invalid("?repo", "is required"))?;
    if git::names::full_name(&repository).is_none() {
        return Err(Problem::invalid("?repo", "must be `owner/name` of a repository"));
    }
    let token = github_token(&app, &admin.scope).await?;
    let found = github::branches(&app.platform, &token, &repository).await?;
    let branches = found.into_iter().map(|branch| GitHubBranchInfo {
        name: branch.name,
        protected: branch.protected,
        commit_sha: branch.commit.sha,
    });
    Ok(Json(GitHubBranchesResponse { branches: branches.collect() }))
}

/// Makes an empty repository on GitHub.
#[utoipa::path(
    post, path = "/api/github/create-repository", tag = "GitHub", security(("bearer" = [])),
    request_body = CreateRepoRequest,
    responses(
        (status = 200, body = CreateRepoResponse),
        (status = 400, description = "There is no token, or GitHub refuses it."),
        (status = 409, description = "GitHub has a repository of this name."),
        Problems,
    ),
)]
async fn create_github_repository(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<CreateRepoRequest>,
) -> Result<Json<CreateRepoResponse>, Problem> {
    check_text("/name", &input.name)?;
    if !git::names::is_repository(&input.name) {
        return Err(Problem::invalid("/name", "must be letters, digits, `-`, `_` and `.`, 100 at most"));
    }
    let organization = input.organization.as_deref().filter(|name| !name.is_empty());
    if organization.is_some_and(|name| !git::names::is_repository(name)) {
        return Err(Problem::invalid("/organization", "must be the name of an organization on GitHub"));
    }
    let token = github_token(&app, &admin.scope).await?;
    let new = NewRepository {
        name: input.name.clone(),
        description: input.description.clone(),
        private: input.private,
    };
    let made = github::create(&app.platform, &token, &new, organization).await?;
    let mut tx = app.platform.db.begin(&admin.scope.clone().widened()).await?;
    let details = json!({"private": input.private});
    let resource = format!("git/{}", made.full_name);
    audit::record(&mut tx, audit::Action::GitRepositoryCreated, resource, &details).await?;
    tx.commit().await?;
    Ok(Json(CreateRepoResponse { full_name: made.full_name, url: made.html_url, clone_url: made.clone_url }))
}

/// What connecting this repository would replace.
#[utoipa::path(
    post, path = "/api/github/analyze-workspace", tag = "GitHub", security(("bearer" = [])),
    request_body = GitHubConfigRequest,
    responses((status = 200, body = WorkspaceAnalysisResponse), Problems),
)]
async fn analyze_workspace(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<GitHubConfigRequest>,
) -> Result<Json<WorkspaceAnalysisResponse>, Problem> {
    let (address, _) = read(&app, &input)?;
    deadline::may_wait(LOOK);
    let found = connect::analyze(&app.platform, &admin.scope, &address).await?;
    Ok(Json(WorkspaceAnalysisResponse {
        workspace_status: match found.standing {
            Standing::Empty => WorkspaceStatus::Empty,
            Standing::FilesOnly => WorkspaceStatus::HasFilesNoGit,
            Standing::Same => WorkspaceStatus::IsGitRepo,
            Standing::Different => WorkspaceStatus::IsDifferentGitRepo,
        },
        requires_confirmation: found.files > 0 && found.standing != Standing::Same,
        file_count: found.files,
        existing_remote: found.remote,
        backup_will_be_created: true,
    }))
}

/// Connects a repository, whose files take the place of the workspace.
///
/// It waits for the end; `POST /api/github/configure` does not. The files that were in use stay on the server as a backup. An empty
/// repository leaves the files as they are, to be committed and pushed. The token is kept when the repository is
/// connected; when connecting fails, the one before stays, and `error` says why beside the state as it was.
#[utoipa::path(
    post, path = "/api/github/init", tag = "GitHub", security(("bearer" = [])),
    request_body = GitHubConfigRequest,
    responses((status = 200, body = GitRefreshStatusResponse), Problems),
)]
async fn init_git(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<GitHubConfigRequest>,
) -> Result<Json<GitRefreshStatusResponse>, Problem> {
    let (address, branch) = read(&app, &input)?;
    let token = input.auth_token.trim();
    if !token.is_empty() {
        store::check_token("/auth_token", token)?;
    }
    let token = (!token.is_empty()).then(|| SecretString::from(token));
    let wanted = Wanted { repo_url: address.url().to_string(), branch: branch.as_str().to_owned() };
    let scope = admin.scope.clone();
    let done = seen_through(&app, move |app: AppState| async move {
        match token {
            Some(token) => connect::connect_with(&app.platform, &scope, &wanted, token).await,
            None => connect::connect(&app.platform, &scope, &wanted, None, |_| {}).await,
        }
    });
    status_after(&app, &admin, done.await?).await
}

/// Connects a repository in the background.
///
/// As `POST /api/github/init`, with the token that was validated. Progress and end are told on the channel `git:{user}` and by the notification.
#[utoipa::path(
    post, path = "/api/github/configure", tag = "GitHub", security(("bearer" = [])),
    request_body = GitHubConfigRequest,
    responses(
        (status = 200, body = GitHubSetupResponse),
        (status = 400, description = "No token was validated."),
        Problems,
    ),
)]
async fn configure_git(
    State(app): State<AppState>,
    admin: Admin,
    headers: HeaderMap,
    Json(input): Json<GitHubConfigRequest>,
) -> Result<Json<GitHubSetupResponse>, Problem> {
    let (address, branch) = read(&app, &input)?;
    // A folder of this machine asks for none.
    if let Some(server) = address.server() {
        kept_token(&app, &admin.scope, &server).await?;
    }
    let wanted = Wanted { repo_url: address.url().to_string(), branch: branch.as_str().to_owned() };
    let mut tx = app.platform.db.begin(&admin.scope.clone().widened()).await?;
    let new = NewJob {
        kind: Kind::GitSync,
        payload: serde_json::to_value(&wanted).map_err(Error::internal)?,
        title: format!("Connecting {}", address.url().path().trim_start_matches('/')),
        timeout: OPERATION,
        traceparent: traceparent(&headers),
    };
    let job = background_jobs::submit(&mut tx, new).await?;
    audit::record(&mut tx, audit::Action::GitConnecting, format!("job/{}", job.id), &wanted).await?;
    tx.commit().await?;
    let (job_id, notification_id) = (job.id.to_string(), job.notification.id.to_string());
    job.announce(&app.platform);
    Ok(Json(GitHubSetupResponse { job_id, notification_id, status: "queued".into() }))
}

/// Lets the repository go.
///
/// Its token is forgotten; the files stay as they are.
#[utoipa::path(
    post, path = "/api/github/disconnect", tag = "GitHub", security(("bearer" = [])),
    responses((status = 200, body = Disconnected), Problems),
)]
async fn disconnect_git(State(app): State<AppState>, admin: Admin) -> Result<Json<Disconnected>, Problem> {
    deadline::may_wait(git::PATIENCE);
    Ok(Json(match said(connect::disconnect(&app.platform, &admin.scope).await)? {
        Ok(()) => {
            let message = "The repository is disconnected; the files stay as they are".into();
            Disconnected { success: true, message }
        }
        Err(message) => Disconnected { success: false, message },
    }))
}

async fn repositories(
    app: &AppState,
    scope: &OrgScope,
    found: Vec<Repository>,
) -> Result<Json<GitHubReposResponse>, Problem> {
    let settings = &app.platform.settings;
    let remote = connect::existing_remote(&app.platform, scope).await?;
    let remote = remote.and_then(|url| Address::parse("/repo_url", &url, settings).ok()?.on_github(settings));
    let mut tx = app.platform.db.begin(&scope.clone().widened()).await?;
    let branch = store::find(&mut tx).await?.branch.unwrap_or_else(main);
    Ok(Json(GitHubReposResponse {
        repositories: all(found),
        detected_repo: remote.map(|full_name| DetectedRepoInfo { full_name, branch }),
    }))
}

/// The kept token, if GitHub may have it; GitHub is asked next.
async fn github_token(app: &AppState, scope: &OrgScope) -> Result<SecretString, Problem> {
    let token = kept_token(app, scope, &Server::github(&app.platform.settings)?).await?;
    deadline::may_wait(deadline::OTHERS);
    Ok(token)
}

/// The kept token, if this server may have it.
async fn kept_token(app: &AppState, scope: &OrgScope, server: &Server) -> Result<SecretString, Problem> {
    let mut tx = app.platform.db.begin(&scope.clone().widened()).await?;
    let connection = store::find(&mut tx).await?;
    let kept = said(store::token(&mut tx, &app.platform, &connection, Some(server)).await)?;
    let missing = || "there is no token; validate one first".to_owned();
    let token = kept.and_then(|token| token.ok_or_else(missing));
    token.map_err(|words| Problem::new(StatusCode::BAD_REQUEST).detail(words))
}

fn read(app: &AppState, input: &GitHubConfigRequest) -> Result<(Address, Branch), Problem> {
    check_text("/repo_url", &input.repo_url)?;
    let address = Address::parse("/repo_url", &input.repo_url, &app.platform.settings)?;
    Ok((address, Branch::parse("/branch", &input.branch)?))
}

impl From<Repository> for GitHubRepoInfo {
    fn from(found: Repository) -> Self {
        Self {
            name: found.name,
            full_name: found.full_name,
            description: found.description,
            url: found.html_url,
            private: found.private,
        }
    }
}

fn main() -> String {
    "main".into()
}

fn yes() -> bool {
    true
}
