//! Configuration for files on a developer's machine. Secrets can be set, and are read inside executions only.

use axum::extract::State;
use axum::http::StatusCode;
use domain::config::{self, MASK, NewValue, ValueType};
use domain::executions::RawJson;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::scope_of_call;
use crate::AppState;
use crate::extract::{Json, Sdk, check_json, check_text};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_sdk_config))
        .routes(routes!(set_sdk_config))
        .routes(routes!(list_sdk_config))
        .routes(routes!(delete_sdk_config))
}

/// Which value.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"key": "retention_days"}))]
struct SDKConfigGetRequest {
    key: String,
    /// An organization, or `GLOBAL`; the context's if not given.
    org_id: Option<String>,
}

/// A value in its type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"key": "retention_days", "value": 30, "config_type": "int"}))]
struct SDKConfigValue {
    key: String,
    value: Value,
    /// `string`, `int`, `bool` or `json`.
    config_type: String,
}

/// A value to set.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"key": "retention_days", "value": 30}))]
struct SDKConfigSetRequest {
    /// Letters, digits and underscores.
    key: String,
    /// Its JSON type is the type that is stored.
    #[schema(value_type = Value)]
    value: RawJson,
    /// An organization, or `GLOBAL`; the context's if not given.
    org_id: Option<String>,
    /// Whether to encrypt it; then only executions can read it.
    #[serde(default)]
    is_secret: bool,
}

/// Whose values.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({}))]
struct SDKConfigListRequest {
    /// An organization, or `GLOBAL`; the context's if not given.
    org_id: Option<String>,
}

/// Which value.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"key": "retention_days"}))]
struct SDKConfigDeleteRequest {
    key: String,
    /// An organization, or `GLOBAL`; the context's if not given.
    org_id: Option<String>,
}

/// Reads a value.
///
/// The organization's, else the global one; null when there is none. A secret is 403.
#[utoipa::path(
    post, path = "/api/sdk/config/get", tag = "SDK", security(("bearer" = [])), request_body = SDKConfigGetRequest,
    responses((status = 200, body = Option<SDKConfigValue>), Problems),
)]
async fn get_sdk_config(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKConfigGetRequest>,
) -> Result<Json<Option<SDKConfigValue>>, Problem> {
    check_text("/key", &input.key)?;
    let scope =
        scope_of_call(&app, &sdk.principal, sdk.request_id.as_deref(), input.org_id.as_deref()).await?;
    let mut tx = app.platform.db.begin(&scope).await?;
    let rows = config::effective(&mut tx, Some(&input.key)).await?;
    tx.commit().await?;
    let Some(stored) = rows.into_iter().next() else { return Ok(Json(None)) };
    let Some(value) = stored.typed() else {
        return Err(Problem::forbidden("a secret is read inside an execution only"));
    };
    let config_type = stored.value_type.as_str().to_owned();
    Ok(Json(Some(SDKConfigValue { key: stored.key, value, config_type })))
}

/// Sets a value in the organization's own rows.
///
/// Stored in the type that JSON gives it; with `is_secret` encrypted.
#[utoipa::path(
    post, path = "/api/sdk/config/set", tag = "SDK", security(("bearer" = [])), request_body = SDKConfigSetRequest,
    responses((status = 204, description = "Set."), Problems),
)]
async fn set_sdk_config(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKConfigSetRequest>,
) -> Result<StatusCode, Problem> {
    check_text("/key", &input.key)?;
    let whole = Map::from_iter([("value".to_owned(), config::read(&input.value)?)]);
    check_json("/value", &whole)?;
    let (of_json, text) = config::text_of(&whole["value"]);
    let value_type = if input.is_secret { ValueType::Secret } else { of_json };
    let scope =
        scope_of_call(&app, &sdk.principal, sdk.request_id.as_deref(), input.org_id.as_deref()).await?;
    let new = NewValue { key: &input.key, value_type, text: &text, description: None, may_keep: false };
    let mut tx = app.platform.db.begin(&scope).await?;
    config::put(&mut tx, &app.platform.vault, new).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All values by key.
///
/// The organization's over the global ones, secrets masked.
#[utoipa::path(
    post, path = "/api/sdk/config/list", tag = "SDK", security(("bearer" = [])), request_body = SDKConfigListRequest,
    responses((status = 200, body = Object), Problems),
)]
async fn list_sdk_config(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKConfigListRequest>,
) -> Result<Json<Map<String, Value>>, Problem> {
    let scope =
        scope_of_call(&app, &sdk.principal, sdk.request_id.as_deref(), input.org_id.as_deref()).await?;
    let mut tx = app.platform.db.begin(&scope).await?;
    let rows = config::effective(&mut tx, None).await?;
    tx.commit().await?;
    let shown = rows.into_iter().map(|stored| {
        let value = stored.typed().unwrap_or_else(|| MASK.into());
        (stored.key, value)
    });
    Ok(Json(shown.collect()))
}

/// Removes a value from the organization's own rows.
///
/// Whether there was one. A global value of the same key stays.
#[utoipa::path(
    post, path = "/api/sdk/config/delete", tag = "SDK", security(("bearer" = [])), request_body = SDKConfigDeleteRequest,
    responses((status = 200, body = bool, content_type = "application/json"), Problems),
)]
async fn delete_sdk_config(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKConfigDeleteRequest>,
) -> Result<Json<bool>, Problem> {
    check_text("/key", &input.key)?;
    let scope =
        scope_of_call(&app, &sdk.principal, sdk.request_id.as_deref(), input.org_id.as_deref()).await?;
    let mut tx = app.platform.db.begin(&scope).await?;
    let was_there = config::delete(&mut tx, &input.key).await?;
    tx.commit().await?;
    Ok(Json(was_there))
}
