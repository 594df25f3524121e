//! Pausing and resuming a workflow.

use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::id::WorkflowId;
use domain::workflows::pause::{self, Paused};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Admin, Json, Path};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(pause_workflow)).routes(routes!(resume_workflow))
}

/// A workflow that was paused or resumed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "name": "import_sites", "paused_at": "2026-01-05T09:30:00Z",
    "paused_by": "ada@example.com",
}))]
struct PausedWorkflow {
    id: String,
    name: String,
    /// Since when nothing of it starts; null: it starts.
    paused_at: Option<DateTime<Utc>>,
    /// Who paused it.
    paused_by: Option<String>,
}

/// Pauses a workflow: nothing of it starts, in any organization.
///
/// What is submitted is accepted and waits in its place; what runs goes on. It stays paused over restarts, and when its
/// file changes. Pausing twice is fine.
#[utoipa::path(
    post, path = "/api/workflows/{id}/pause", tag = "Workflows", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The workflow.")),
    responses((status = 200, body = PausedWorkflow), Problems),
)]
async fn pause_workflow(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<WorkflowId>,
) -> Result<Json<PausedWorkflow>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let paused = pause::pause(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(paused.into()))
}

/// Resumes a workflow: what waits starts, within about a second.
///
/// Resuming what is not paused is fine.
#[utoipa::path(
    post, path = "/api/workflows/{id}/resume", tag = "Workflows", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The workflow.")),
    responses((status = 200, body = PausedWorkflow), Problems),
)]
async fn resume_workflow(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<WorkflowId>,
) -> Result<Json<PausedWorkflow>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let resumed = pause::resume(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(resumed.into()))
}

impl From<Paused> for PausedWorkflow {
    fn from(paused: Paused) -> Self {
        Self {
            id: paused.id.to_string(),
            name: paused.name,
            paused_at: paused.paused_at,
            paused_by: paused.paused_by,
        }
    }
}
