//! Checking a workflow file before it is stored.
//!
//! The check reads the file and resolves what it imports; it never executes it. So it is open to everybody who is signed
//! in, while running code is not. Python does it, in a process of its own that has no credentials.

use std::time::Duration;

use axum::extract::State;
use domain::Error;
use domain::settings::Settings;
use domain::workflows::Found;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::WorkflowMetadata;
use crate::AppState;
use crate::extract::{Json, Signed, check_text};
use crate::problem::{Problem, Problems};
use crate::python;

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
    let question = json!({ "path": request.path, "content": request.content }).to_string();
    let answer = python::ask(settings, "bifrost._host.validate", Some(question), PATIENCE).await?;
    serde_json::from_slice(&answer).map_err(Error::internal)
}
