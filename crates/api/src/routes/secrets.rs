//! Secrets, for administrators: written and never read back; only runs see the values.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::id::OrgId;
use domain::permissions::Permission;
use domain::{Error, OrgScope, secrets};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Json, Path, Signed, check_text};
use crate::problem::{Problem, Problems};
use crate::routes::sdk::check_known;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_secrets, create_secret))
        .routes(routes!(update_secret, delete_secret))
}

/// A new secret.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"secret_key": "directory_token", "value": "s3cr3t"}))]
struct SecretCreate {
    /// 1 to 100 letters, digits, underscores and dashes.
    #[serde(alias = "secretKey")]
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,100}$")]
    secret_key: String,
    /// At most 64 KiB.
    #[schema(value_type = String, format = Password)]
    value: SecretString,
    /// An organization, or `GLOBAL`; takes the place of `X-Organization-Id`.
    #[serde(alias = "orgId")]
    org_id: Option<String>,
}

/// A new value.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"value": "an0ther"}))]
struct SecretUpdate {
    /// At most 64 KiB.
    #[schema(value_type = String, format = Password)]
    value: SecretString,
}

/// The names of secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"secrets": ["directory_token"], "org_id": null, "count": 1}))]
struct SecretsListResponse {
    /// Those of the scope and the global ones.
    secrets: Vec<String>,
    org_id: Option<Uuid>,
    count: usize,
}

/// A secret, without its value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"name": "directory_token", "org_id": null, "created_at": "2026-11-25T10:00:00Z"}))]
struct SecretResponse {
    name: String,
    org_id: Option<Uuid>,
    created_at: DateTime<Utc>,
}

/// The names of the secrets of the scope and of the global ones.
///
/// Without `X-Organization-Id` a platform administrator sees the global ones. Needs the permission `secrets.manage`, which
/// shows the organization's own names only.
#[utoipa::path(
    get, path = "/api/secrets", tag = "Secrets", security(("bearer" = [])),
    responses((status = 200, body = SecretsListResponse), Problems),
)]
async fn list_secrets(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<SecretsListResponse>, Problem> {
    signed.scope.require(Permission::SecretsManage)?;
    let scope = signed.scope.narrowed();
    let mut tx = app.platform.db.begin(&scope).await?;
    let secrets = secrets::list_managed(&mut tx).await?;
    tx.commit().await?;
    let count = secrets.len();
    Ok(Json(SecretsListResponse { secrets, org_id: owner(&scope)?, count }))
}

/// Adds a secret to the current scope.
///
/// The value is sealed with a key of the organization, and only runs can read it.
#[utoipa::path(
    post, path = "/api/secrets", tag = "Secrets", security(("bearer" = [])), request_body = SecretCreate,
    responses((status = 201, body = SecretResponse), (status = 409, description = "There is one of this key."), Problems),
)]
async fn create_secret(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<SecretCreate>,
) -> Result<(StatusCode, Json<SecretResponse>), Problem> {
    signed.scope.require(Permission::SecretsManage)?;
    check_text("/value", input.value.expose_secret())?;
    let scope = named_scope(&app, signed, input.org_id.as_deref()).await?;
    let mut tx = app.platform.db.begin(&scope).await?;
    let created_at = secrets::insert(&mut tx, &app.platform.vault, &input.secret_key, &input.value).await?;
    tx.commit().await?;
    let created = SecretResponse { name: input.secret_key, org_id: owner(&scope)?, created_at };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Replaces the value of a secret of the current scope.
///
/// It is the next value that a run reads.
#[utoipa::path(
    put, path = "/api/secrets/{key}", tag = "Secrets", security(("bearer" = [])), request_body = SecretUpdate,
    params(("key" = String, Path, description = "Its key.")),
    responses((status = 200, body = SecretResponse), Problems),
)]
async fn update_secret(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<String>,
    Json(input): Json<SecretUpdate>,
) -> Result<Json<SecretResponse>, Problem> {
    signed.scope.require(Permission::SecretsManage)?;
    check_text("path:key", &key)?;
    check_text("/value", input.value.expose_secret())?;
    let scope = signed.scope.narrowed();
    let mut tx = app.platform.db.begin(&scope).await?;
    let created_at = secrets::replace(&mut tx, &app.platform.vault, &key, &input.value).await?;
    tx.commit().await?;
    Ok(Json(SecretResponse { name: key, org_id: owner(&scope)?, created_at }))
}

/// Deletes a secret of the current scope.
///
/// A global secret of the same key stays, and is what runs read from then on.
#[utoipa::path(
    delete, path = "/api/secrets/{key}", tag = "Secrets", security(("bearer" = [])),
    params(("key" = String, Path, description = "Its key.")),
    responses((status = 204, description = "Deleted."), Problems),
)]
async fn delete_secret(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<String>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::SecretsManage)?;
    check_text("path:key", &key)?;
    let mut tx = app.platform.db.begin(&signed.scope.narrowed()).await?;
    if !secrets::delete(&mut tx, &key).await? {
        return Err(Error::NotFound("secret").into());
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The scope that a body names, which takes the place of the header's.
async fn named_scope(app: &AppState, signed: Signed, org_id: Option<&str>) -> Result<OrgScope, Problem> {
    let requested = match org_id {
        None | Some("") => return Ok(signed.scope.narrowed()),
        Some("GLOBAL") if signed.principal.is_superuser => None,
        Some("GLOBAL") => return Err(Problem::forbidden("Access denied to organization")),
        Some(id) => {
            let id = id.parse::<OrgId>();
            Some(id.map_err(|_| Problem::invalid("/org_id", "must be a UUID or GLOBAL"))?)
        }
    };
    let request_id = signed.scope.request_id().map(str::to_owned);
    let scope = OrgScope::for_principal(&signed.principal, requested, request_id)?;
    if let (true, Some(id)) = (signed.principal.is_superuser, requested) {
        check_known(app, &signed.principal, id, "/org_id").await?;
    }
    Ok(scope.narrowed())
}

fn owner(scope: &OrgScope) -> Result<Option<Uuid>, Problem> {
    Ok(scope.owner()?.map(|org| org.0))
}
