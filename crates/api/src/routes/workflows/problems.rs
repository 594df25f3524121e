//! What is wrong with the files of the workspace.

use axum::extract::State;
use domain::workflows::{self, FileProblem};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Admin, Json};
use crate::problem::{Problem, Problems};

/// Problems shown; whoever has more begins with these.
const MOST: i64 = 1_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_workflow_problems))
}

/// Something wrong in a file of the workspace.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "path": "ops/cleanup.py", "line": 4, "severity": "error", "message": "syntax error: invalid syntax",
    "hint": "def cleanup(:",
}))]
struct WorkspaceProblem {
    /// Relative to the workspace.
    path: String,
    /// From 1.
    line: i32,
    /// `error`: the file or the function is not in use as written. `warning`: it is, with a default somewhere.
    severity: String,
    /// What is wrong.
    message: String,
    /// What to do about it.
    hint: Option<String>,
}

impl From<FileProblem> for WorkspaceProblem {
    fn from(found: FileProblem) -> Self {
        let FileProblem { path, severity, line, message, hint } = found;
        Self { path, line, severity, message, hint }
    }
}

/// What the last look at the workspace found wrong, by file and line.
///
/// The first thousand problems. A file that does not parse keeps the workflows it had.
#[utoipa::path(
    get, path = "/api/workflows/problems", tag = "Workflows", security(("bearer" = [])),
    responses((status = 200, body = Vec<WorkspaceProblem>), Problems),
)]
async fn list_workflow_problems(
    State(app): State<AppState>,
    _admin: Admin,
) -> Result<Json<Vec<WorkspaceProblem>>, Problem> {
    let found = workflows::list_problems(&app.platform.db, MOST).await?;
    Ok(Json(found.into_iter().map(Into::into).collect()))
}
