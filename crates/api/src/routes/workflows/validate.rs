//! Checking a workflow file before it is stored.
//!
//! The check reads the file and resolves what it imports; it never executes it. So it is open to everybody who is signed
//! in, while running code is not. Python does it, in a process of its own that has no credentials.

use std::time::Duration;

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::settings::Settings;
use domain::workflows::Found;
use domain::workspace_files::FilePath;
use domain::{Error, editor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::WorkflowMetadata;
use crate::extract::{Json, Signed, check_text};
use crate::problem::{Problem, Problems};
use crate::python;
use crate::{AppState, deadline};

/// Longest check.
const PATIENCE: Duration = Duration::from_secs(10);
/// Checks at one time in this process; others wait.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(validate_workflow))
}

/// The file to check.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"path": "ops/greet.py", "content": "from bifrost import workflow"}))]
struct WorkflowValidationRequest {
    /// Relative to the workspace; `/workspace/` in front is ignored.
    path: String,
    /// What the file would contain; without it what it does contain.
    content: Option<String>,
}

/// What is right and wrong with a file.
#[derive(Debug, Serialize, ToSchema)]
struct WorkflowValidationResponse {
    /// Whether there is no error; warnings are fine.
    valid: bool,
    issues: Vec<ValidationIssue>,
    /// The first workflow of the file.
    metadata: Option<WorkflowMetadata>,
}

/// Something to correct.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct ValidationIssue {
    line: Option<i64>,
    message: String,
    severity: Severity,
}

/// How bad it is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

/// What the Python side answers.
#[derive(Deserialize)]
struct Checked {
    valid: bool,
    issues: Vec<ValidationIssue>,
    workflow: Option<Found>,
}

/// Checks a workflow file.
///
/// Issues come in the order of the checks: syntax, imports, a workflow exists, its name, description, mode, timeout and
/// parameters. The file is read and never executed. A file that does not exist is an issue.
#[utoipa::path(
    post, path = "/api/workflows/validate", tag = "Workflows", security(("bearer" = [])),
    request_body = WorkflowValidationRequest,
    responses((status = 200, body = WorkflowValidationResponse), Problems),
)]
async fn validate_workflow(
    State(app): State<AppState>,
    _signed: Signed,
    Json(request): Json<WorkflowValidationRequest>,
) -> Result<Json<WorkflowValidationResponse>, Problem> {
    check_text("/path", &request.path)?;
    if request.path.trim().is_empty() {
        return Err(Problem::invalid("/path", "is required"));
    }
    let (path, source) = match source(&app, request).await? {
        Ok(found) => found,
        Err(message) => {
            let issues = vec![ValidationIssue { line: None, message, severity: Severity::Error }];
            return Ok(Json(WorkflowValidationResponse { valid: false, issues, metadata: None }));
        }
    };
    let checked = check(&app.platform.settings, &path, &source).await?;
    let metadata = checked.workflow.map(|found| WorkflowMetadata::declared(found, path.to_string()));
    Ok(Json(WorkflowValidationResponse { valid: checked.valid, issues: checked.issues, metadata }))
}

/// What is to be checked, or why it cannot be. Of the workspace's files only those are read that hold workflows: issues quote them,
/// and whoever is signed in may ask.
async fn source(
    app: &AppState,
    request: WorkflowValidationRequest,
) -> Result<Result<(FilePath, Vec<u8>), String>, Error> {
    let path = match FilePath::parse(&request.path) {
        Ok(path) => path,
        Err(Error::Impossible(why)) => return Ok(Err(why)),
        Err(error) => return Err(error),
    };
    if !path.name().ends_with(".py") {
        return Ok(Err(format!("{path} is no Python file: its name must end in .py")));
    }
    if let Some(content) = request.content {
        return Ok(Ok((path, content.into_bytes())));
    }
    match editor::read(&app.platform, path.clone()).await {
        Ok(stored) => Ok(Ok((path, stored.bytes))),
        Err(Error::NotFound(_)) => Ok(Err(format!("there is no file {path}"))),
        Err(Error::Impossible(why)) => Ok(Err(why)),
        Err(error) => Err(error),
    }
}

async fn check(settings: &Settings, path: &FilePath, source: &[u8]) -> Result<Checked, Error> {
    deadline::may_wait(PATIENCE);
    let _turn = AT_ONCE.acquire().await.map_err(Error::internal)?;
    // The bytes: a file says itself in which encoding it is.
    let question = json!({ "path": path.as_str(), "source": STANDARD.encode(source) }).to_string();
    let answer = python::ask(settings, "bifrost._host.validate", Some(question), PATIENCE).await?;
    serde_json::from_slice(&answer).map_err(Error::internal)
}
