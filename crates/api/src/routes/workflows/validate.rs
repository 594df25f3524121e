//! Checking a workflow file before it is stored.
//!
//! The check reads the file and resolves what it imports; it never executes it. So it is open to everybody who is signed
//! in, while running code is not. Python does it, in a process of its own that has no credentials.

use std::process::Stdio;
use std::time::Duration;

use axum::extract::State;
use domain::Error;
use domain::settings::Settings;
use domain::workflows::Found;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::WorkflowMetadata;
use crate::AppState;
use crate::extract::{Json, Signed, check_text};
use crate::problem::{Problem, Problems};

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
    path: String,
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
    let checked = check(&app.platform.settings, &request).await?;
    let metadata = checked.workflow.map(|found| WorkflowMetadata::declared(found, checked.path));
    Ok(Json(WorkflowValidationResponse { valid: checked.valid, issues: checked.issues, metadata }))
}

async fn check(settings: &Settings, request: &WorkflowValidationRequest) -> Result<Checked, Error> {
    let _turn = AT_ONCE.acquire().await.map_err(Error::internal)?;
    let absolute = |path| std::path::absolute(path).map_err(Error::internal);
    let mut child = Command::new(&settings.python)
        .args(["-s", "-P", "-m", "bifrost._host.validate"])
        .arg(absolute(&settings.workspace_path)?)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("PYTHONPATH", absolute(&settings.platform_path)?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::Unavailable { service: "python", source: error.into() })?;
    let question = json!({ "path": request.path, "content": request.content }).to_string();
    let mut input = child.stdin.take();
    let answered = async move {
        if let Some(mut input) = input.take() {
            input.write_all(question.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, answered)
        .await
        .map_err(|late| Error::Unavailable { service: "python", source: late.into() })?
        .map_err(Error::internal)?;
    if !output.status.success() {
        return Err(Error::internal(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(Error::internal)
}
