//! Configuration values, for administrators: the scope's and the global ones, secrets masked.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::Error;
use domain::config::{self, MASK, NewValue, Stored, ValueType};
use domain::permissions::Permission;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Json, Path, Signed, check_text};
use crate::problem::{Problem, Problems};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_config, set_config)).routes(routes!(delete_config))
}

/// What a value is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ConfigType {
    String,
    Int,
    Bool,
    Json,
    Secret,
}

/// A value to set.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"key": "retention_days", "value": "30", "type": "int", "description": "Days that reports are kept"}))]
struct SetConfigRequest {
    /// Letters, digits and underscores.
    #[schema(pattern = "^[a-zA-Z0-9_]+$", max_length = 255)]
    key: String,
    /// Text that reads as the type. For a secret, `""` or `[SECRET]` keeps the one that is stored.
    value: String,
    r#type: ConfigType,
    /// What it is for; absent or null leaves what is there.
    description: Option<String>,
}

/// A value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "key": "retention_days", "value": "30", "type": "int", "scope": "GLOBAL", "org_id": null,
    "description": "Days that reports are kept", "updated_at": "2026-11-25T10:00:00Z", "updated_by": "ada@example.com",
}))]
struct ConfigResponse {
    key: String,
    /// The text as it was set; `[SECRET]` for a secret.
    value: String,
    r#type: ConfigType,
    /// `org` or `GLOBAL`.
    #[schema(pattern = "^(org|GLOBAL)$")]
    scope: &'static str,
    org_id: Option<String>,
    description: Option<String>,
    updated_at: DateTime<Utc>,
    /// E-mail address of who set it.
    updated_by: String,
}

impl From<Stored> for ConfigResponse {
    fn from(stored: Stored) -> Self {
        Self {
            key: stored.key,
            value: stored.value.unwrap_or_else(|| MASK.to_owned()),
            r#type: stored.value_type.into(),
            scope: if stored.organization_id.is_some() { "org" } else { "GLOBAL" },
            org_id: stored.organization_id.map(|org| org.to_string()),
            description: stored.description,
            updated_at: stored.updated_at,
            updated_by: stored.updated_by,
        }
    }
}

impl From<ValueType> for ConfigType {
    fn from(value_type: ValueType) -> Self {
        match value_type {
            ValueType::String => Self::String,
            ValueType::Int => Self::Int,
            ValueType::Bool => Self::Bool,
            ValueType::Json => Self::Json,
            ValueType::Secret => Self::Secret,
        }
    }
}

impl From<ConfigType> for ValueType {
    fn from(config_type: ConfigType) -> Self {
        match config_type {
            ConfigType::String => Self::String,
            ConfigType::Int => Self::Int,
            ConfigType::Bool => Self::Bool,
            ConfigType::Json => Self::Json,
            ConfigType::Secret => Self::Secret,
        }
    }
}

/// The values of the scope and the global ones.
///
/// Without `X-Organization-Id` a platform administrator sees the global ones. A global value that the organization
/// overrides is listed too. Secrets are masked. Needs the permission `config.manage`, which shows the organization's own
/// values only.
#[utoipa::path(
    get, path = "/api/config", tag = "Configuration", security(("bearer" = [])),
    responses((status = 200, body = Vec<ConfigResponse>), Problems),
)]
async fn list_config(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<Vec<ConfigResponse>>, Problem> {
    signed.scope.require(Permission::ConfigManage)?;
    let mut tx = app.platform.db.begin(&signed.scope.narrowed()).await?;
    let rows = config::rows(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(rows.into_iter().map(Into::into).collect()))
}

/// Sets a value in the current scope.
///
/// It is the next value that a run reads. Whatever had this key in the scope is replaced.
#[utoipa::path(
    post, path = "/api/config", tag = "Configuration", security(("bearer" = [])), request_body = SetConfigRequest,
    responses((status = 201, body = ConfigResponse), Problems),
)]
async fn set_config(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<SetConfigRequest>,
) -> Result<(StatusCode, Json<ConfigResponse>), Problem> {
    signed.scope.require(Permission::ConfigManage)?;
    check_text("/value", &input.value)?;
    check_text("/description", input.description.as_deref().unwrap_or_default())?;
    let new = NewValue {
        key: &input.key,
        value_type: input.r#type.into(),
        text: &input.value,
        description: input.description.as_deref(),
        may_keep: true,
    };
    let mut tx = app.platform.db.begin(&signed.scope.narrowed()).await?;
    let stored = config::put(&mut tx, &app.platform.vault, new).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(stored.into())))
}

/// Deletes a value of the current scope.
///
/// A global value of the same key stays, and is what runs read from then on.
#[utoipa::path(
    delete, path = "/api/config/{key}", tag = "Configuration", security(("bearer" = [])),
    params(("key" = String, Path, description = "Its key.")),
    responses((status = 204, description = "Deleted."), Problems),
)]
async fn delete_config(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<String>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::ConfigManage)?;
    check_text("path:key", &key)?;
    let mut tx = app.platform.db.begin(&signed.scope.narrowed()).await?;
    if !config::delete(&mut tx, &key).await? {
        return Err(Error::NotFound("configuration value").into());
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
