//! SDK keys: everybody's own.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::id::SdkKeyId;
use domain::sdk_keys::{self, SdkKey};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::own_scope;
use crate::AppState;
use crate::envelope::{NO_STORE, NoStore};
use crate::extract::{Json, Path, Signed, check_text};
use crate::problem::{Problem, Problems};

const LONGEST_LIFE_DAYS: i64 = 365;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_sdk_keys, create_sdk_key))
        .routes(routes!(delete_sdk_key))
        .routes(routes!(revoke_sdk_key))
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "My laptop", "expires_in_days": 90}))]
struct ApiKeyCreate {
    /// 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// 1 to 365; without it the key does not expire.
    #[schema(minimum = 1, maximum = 365)]
    expires_in_days: Option<i64>,
}

/// A key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "name": "My laptop", "key_prefix": "bfsk_q3bTx0Z", "is_active": true,
    "expires_at": null, "last_used_at": "2026-11-25T10:00:00Z", "use_count": 12, "created_at": "2026-11-01T10:00:00Z",
}))]
struct ApiKeyResponse {
    id: Uuid,
    name: String,
    /// The first 12 characters.
    key_prefix: String,
    /// False once it is revoked.
    is_active: bool,
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    #[schema(required)]
    last_used_at: Option<DateTime<Utc>>,
    use_count: i64,
    created_at: DateTime<Utc>,
}

/// A key just made, with its text.
#[derive(Debug, Serialize, ToSchema)]
struct ApiKeyCreated {
    #[serde(flatten)]
    shown: ApiKeyResponse,
    /// What goes into `BIFROST_TOKEN`. It is shown here and never again.
    key: String,
}

/// Keys.
#[derive(Debug, Serialize, ToSchema)]
struct ApiKeyList {
    keys: Vec<ApiKeyResponse>,
}

impl From<SdkKey> for ApiKeyResponse {
    fn from(key: SdkKey) -> Self {
        Self {
            id: key.id.0,
            name: key.name,
            key_prefix: key.key_prefix,
            is_active: key.is_active,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            use_count: key.use_count,
            created_at: key.created_at,
        }
    }
}

/// The caller's keys, newest first.
///
/// Revoked and expired ones too.
#[utoipa::path(
    get, path = "/api/sdk/keys", tag = "SDK", security(("bearer" = [])),
    responses((status = 200, body = ApiKeyList), Problems),
)]
async fn list_sdk_keys(State(app): State<AppState>, signed: Signed) -> Result<Json<ApiKeyList>, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let keys = sdk_keys::list(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(ApiKeyList { keys: keys.into_iter().map(Into::into).collect() }))
}

/// Makes a key for the caller.
///
/// It acts as its user, with the rights that user has at the time, on `/api/sdk` alone.
#[utoipa::path(
    post, path = "/api/sdk/keys", tag = "SDK", security(("bearer" = [])), request_body = ApiKeyCreate,
    responses((status = 201, body = ApiKeyCreated), (status = 400, description = "You have 100 keys."), Problems),
)]
async fn create_sdk_key(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<ApiKeyCreate>,
) -> Result<(StatusCode, NoStore, Json<ApiKeyCreated>), Problem> {
    signed.scope.owner()?;
    check_text("/name", &input.name)?;
    let name = input.name.trim();
    if name.is_empty() || name.chars().count() > 100 {
        return Err(Problem::invalid("/name", "must have 1 to 100 characters"));
    }
    let days = match input.expires_in_days {
        None => None,
        Some(days) if (1..=LONGEST_LIFE_DAYS).contains(&days) => i32::try_from(days).ok(),
        Some(_) => return Err(Problem::invalid("/expires_in_days", "must be a whole number from 1 to 365")),
    };
    let scope = own_scope(&signed.principal, signed.scope.request_id())?;
    let mut tx = app.platform.db.begin(&scope).await?;
    let (key, secret) = sdk_keys::insert(&mut tx, name, days).await?;
    tx.commit().await?;
    let created = ApiKeyCreated { shown: key.into(), key: secret.expose_secret().to_owned() };
    Ok((StatusCode::CREATED, NO_STORE, Json(created)))
}

/// Revokes a key of the caller.
///
/// It works no more, and stays in the list.
#[utoipa::path(
    patch, path = "/api/sdk/keys/{key_id}/revoke", tag = "SDK", security(("bearer" = [])),
    params(("key_id" = Uuid, Path, description = "The key.")),
    responses((status = 200, body = ApiKeyResponse), Problems),
)]
async fn revoke_sdk_key(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<SdkKeyId>,
) -> Result<Json<ApiKeyResponse>, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let key = sdk_keys::revoke(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(key.into()))
}

/// Deletes a key of the caller.
///
/// It works no more.
#[utoipa::path(
    delete, path = "/api/sdk/keys/{key_id}", tag = "SDK", security(("bearer" = [])),
    params(("key_id" = Uuid, Path, description = "The key.")),
    responses((status = 204, description = "Deleted."), Problems),
)]
async fn delete_sdk_key(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<SdkKeyId>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    sdk_keys::delete(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
