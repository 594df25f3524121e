//! OAuth connections, for platform administrators: the accounts at other services that workflows act with.
//!
//! Here they are made, listed and changed; connecting one is in `connect.rs`. The invariant: of what is secret only tokens
//! ever leave, through `GET /api/oauth/credentials/…`, which is audited.

mod checks;
mod connect;
mod model;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use domain::connections::{self, Connection};
use domain::{Error, OrgScope};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use checks::{checked, checked_changes};
use model::{
    CreateOAuthConnectionRequest, OAuthConnectionDetail, OAuthConnectionListResponse, OAuthFlowType,
    UpdateOAuthConnectionRequest,
};

use crate::extract::{Admin, Json, Path};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

const LONGEST_ADDRESS: usize = 2_048;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_connections, create_connection))
        .routes(routes!(get_connection, update_connection, delete_connection))
        .merge(connect::router())
        .layer(from_fn(deadline::asks_others))
}

/// The connections of exactly the current scope, by name.
///
/// Without `X-Organization-Id` these are the global ones. Platform administrators only; at most a thousand.
#[utoipa::path(
    get, path = "/api/oauth/connections", tag = "OAuth Connections", security(("bearer" = [])),
    responses((status = 200, body = OAuthConnectionListResponse), Problems),
)]
async fn list_connections(
    State(app): State<AppState>,
    Admin { scope }: Admin,
) -> Result<Json<OAuthConnectionListResponse>, Problem> {
    let mut tx = app.platform.db.begin(&scope.narrowed()).await?;
    let found = connections::list(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(OAuthConnectionListResponse { connections: found.into_iter().map(Into::into).collect() }))
}

/// Adds a connection to the current scope.
///
/// One with `client_credentials` fetches its first token at once; if that fails, the connection is there with the status
/// `failed` and the reason. Token endpoints are https and public. Platform administrators only.
#[utoipa::path(
    post, path = "/api/oauth/connections", tag = "OAuth Connections", security(("bearer" = [])),
    request_body = CreateOAuthConnectionRequest,
    responses(
        (status = 201, body = OAuthConnectionDetail),
        (status = 409, description = "The scope has one of this name."),
        Problems,
    ),
)]
async fn create_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Json(given): Json<CreateOAuthConnectionRequest>,
) -> Result<(StatusCode, Json<OAuthConnectionDetail>), Problem> {
    let new = checked(&app.platform.outbound, given)?;
    let (scope, name) = (scope.narrowed(), new.name.clone());
    let is_unattended = new.flow == OAuthFlowType::ClientCredentials.as_str();
    let mut tx = app.platform.db.begin(&scope).await?;
    let mut connection = connections::insert(&mut tx, &app.platform.vault, new).await?;
    tx.commit().await?;
    if is_unattended {
        app.platform.refresher.refresh(&scope, &connection).await?;
        connection = find(&app, &scope, &name).await?;
    }
    Ok((StatusCode::CREATED, Json(connection.into())))
}

/// A connection of exactly the current scope.
///
/// Never with anything secret. Platform administrators only.
#[utoipa::path(
    get, path = "/api/oauth/connections/{connection_name}", tag = "OAuth Connections", security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    responses((status = 200, body = OAuthConnectionDetail), Problems),
)]
async fn get_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
) -> Result<Json<OAuthConnectionDetail>, Problem> {
    Ok(Json(find(&app, &scope.narrowed(), &name).await?.into()))
}

/// Changes a connection of the current scope.
///
/// Absent and null members stay as they are. Tokens stay too; refresh the connection to see whether the change works. Only
/// when `token_url` moves to another server (scheme, host or port), tokens are removed and a `client_secret` that is set must
/// be given again: neither may be sent elsewhere. One with `client_credentials` fetches its token there at once. Platform
/// administrators only.
#[utoipa::path(
    put, path = "/api/oauth/connections/{connection_name}", tag = "OAuth Connections", security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    request_body = UpdateOAuthConnectionRequest,
    responses((status = 200, body = OAuthConnectionDetail), Problems),
)]
async fn update_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
    Json(given): Json<UpdateOAuthConnectionRequest>,
) -> Result<Json<OAuthConnectionDetail>, Problem> {
    let scope = scope.narrowed();
    let mut tx = app.platform.db.begin(&scope).await?;
    let before = connections::get(&mut tx, &name).await?;
    let changes = checked_changes(&app.platform.outbound, &before, given)?;
    let mut connection = connections::update(&mut tx, &app.platform.vault, &name, changes).await?;
    tx.commit().await?;
    let has_lost_token = before.has_token() && !connection.has_token();
    if has_lost_token && connection.flow == OAuthFlowType::ClientCredentials.as_str() {
        app.platform.refresher.refresh(&scope, &connection).await?;
        connection = find(&app, &scope, &name).await?;
    }
    Ok(Json(connection.into()))
}

/// Removes a connection of the current scope, and its tokens.
///
/// Platform administrators only.
#[utoipa::path(
    delete, path = "/api/oauth/connections/{connection_name}", tag = "OAuth Connections", security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    responses((status = 204, description = "Removed."), Problems),
)]
async fn delete_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&scope.narrowed()).await?;
    connections::delete(&mut tx, &name).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(app: &AppState, scope: &OrgScope, name: &str) -> Result<Connection, Error> {
    let mut tx = app.platform.db.begin(scope).await?;
    let connection = connections::get(&mut tx, name).await?;
    tx.commit().await?;
    Ok(connection)
}
