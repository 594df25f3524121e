//! Data providers: what fills the options of forms.

use axum::extract::State;
use domain::workflows::providers::DEFAULT_TTL;
use domain::workflows::{self, Workflow};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::WorkflowParameter;
use crate::AppState;
use crate::extract::{Json, Signed};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_data_providers))
}

/// A data provider, as its file declares it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "sites", "description": "The customer's sites", "category": "Inventory", "cache_ttl_seconds": 300,
    "parameters": [], "source_file_path": "providers/sites.py", "relative_file_path": "/workspace/providers/sites.py",
}))]
struct DataProviderMetadata {
    name: String,
    description: Option<String>,
    category: String,
    /// How long an answer is kept; 0: not at all.
    cache_ttl_seconds: i64,
    parameters: Vec<WorkflowParameter>,
    /// Relative to the workspace.
    source_file_path: Option<String>,
    /// The same with `/workspace/` in front.
    relative_file_path: Option<String>,
}

impl From<Workflow> for DataProviderMetadata {
    fn from(provider: Workflow) -> Self {
        let ttl = provider.definition.get("cache_ttl_seconds").and_then(Value::as_i64);
        Self {
            name: provider.name,
            description: provider.description,
            category: provider.category,
            cache_ttl_seconds: ttl.unwrap_or(DEFAULT_TTL),
            parameters: provider.parameters.0.into_iter().map(Into::into).collect(),
            relative_file_path: Some(format!("/workspace/{}", provider.path)),
            source_file_path: Some(provider.path),
        }
    }
}

/// The active data providers in reach, by name.
///
/// Those of the organization and the global ones, as their files declare them.
#[utoipa::path(
    get, path = "/api/data-providers", tag = "Workflows", security(("bearer" = [])),
    responses((status = 200, body = Vec<DataProviderMetadata>), Problems),
)]
async fn list_data_providers(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<Vec<DataProviderMetadata>>, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let providers = workflows::list_data_providers(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(providers.into_iter().map(Into::into).collect()))
}
