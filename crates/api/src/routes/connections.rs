//! OAuth connections, for platform administrators: the accounts at other services that workflows act with.
//!
//! The invariant: of what is secret only tokens ever leave, through `GET /api/oauth/credentials/…`, which is audited.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use domain::connections::{self, Changes, Connection, NewConnection, Refreshed, RunOfRefresh};
use domain::outbound::Outbound;
use domain::{Error, FieldError, OrgScope};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Admin, Json, Path, Query, Signed, check_text};
use crate::problem::{Problem, Problems};

const LONGEST_ADDRESS: usize = 2_048;
const LONGEST_CLIENT: usize = 1_024;
const LONGEST_SCOPES: usize = 4_096;
const LONGEST_SECRET: usize = 64 * 1024;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_connections, create_connection))
        .routes(routes!(get_connection, update_connection, delete_connection))
        .routes(routes!(authorize_connection))
        .routes(routes!(cancel_connection))
        .routes(routes!(refresh_connection))
        .routes(routes!(complete_connection))
        .routes(routes!(get_credentials))
        .routes(routes!(get_refresh_status))
        .routes(routes!(refresh_connections))
}

/// How a connection gets its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OAuthFlowType {
    AuthorizationCode,
    ClientCredentials,
    RefreshToken,
}

/// State of a connection.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OAuthStatus {
    NotConnected,
    WaitingCallback,
    Testing,
    Connected,
    Completed,
    Failed,
}

/// A connection to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "name": "Microsoft Graph", "description": "Users and groups of the tenant",
    "oauth_flow_type": "authorization_code", "client_id": "6731de76-14a6-49ae-97bc-6eba6914391e",
    "client_secret": "k3RrN0yZ4vQx7pLw9sTd", "scopes": "User.Read.All offline_access",
    "authorization_url": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
    "token_url": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
}))]
struct CreateOAuthConnectionRequest {
    /// Letters, digits, underscores and dashes; workflows ask for it by this.
    #[schema(pattern = "^[a-zA-Z0-9_-]+$", min_length = 1, max_length = 100)]
    connection_name: String,
    #[schema(max_length = 255)]
    name: Option<String>,
    #[schema(max_length = 500)]
    description: Option<String>,
    oauth_flow_type: OAuthFlowType,
    #[schema(min_length = 1)]
    client_id: String,
    /// Required for `client_credentials`; never shown again.
    #[schema(value_type = Option<String>)]
    client_secret: Option<SecretString>,
    /// Required for `authorization_code`.
    #[schema(pattern = "^https://")]
    authorization_url: Option<String>,
    #[schema(pattern = "^https://")]
    token_url: String,
    /// Separated by spaces or commas.
    #[serde(default)]
    #[schema(default = "")]
    scopes: String,
    redirect_uri: Option<String>,
}

/// Scopes, either way.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Scopes {
    List(Vec<String>),
    Text(String),
}

/// What changes; absent and null leave what is there.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Microsoft Graph", "client_secret": "a new one", "scopes": ["User.Read.All", "offline_access"]}))]
struct UpdateOAuthConnectionRequest {
    /// `""` clears it.
    #[schema(max_length = 255)]
    name: Option<String>,
    #[schema(min_length = 1)]
    client_id: Option<String>,
    #[schema(value_type = Option<String>, min_length = 1)]
    client_secret: Option<SecretString>,
    #[schema(pattern = "^https://")]
    authorization_url: Option<String>,
    #[schema(pattern = "^https://")]
    token_url: Option<String>,
    /// A list, or a text separated by spaces or commas; an empty one clears it.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Scopes>,
}

/// A connection in a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "name": "Microsoft Graph", "provider": "microsoft-graph", "description": null,
    "oauth_flow_type": "authorization_code", "status": "completed", "status_message": null,
    "expires_at": "2026-11-26T11:00:00Z", "last_refresh_at": "2026-11-26T10:00:00Z",
    "created_at": "2026-11-01T08:00:00Z", "updated_at": "2026-11-26T10:00:00Z",
}))]
struct OAuthConnectionSummary {
    connection_name: String,
    name: Option<String>,
    provider: Option<String>,
    description: Option<String>,
    oauth_flow_type: OAuthFlowType,
    status: OAuthStatus,
    /// Why it failed.
    status_message: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    last_refresh_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: Option<DateTime<Utc>>,
}

/// The connections of the scope.
#[derive(Debug, Serialize, ToSchema)]
struct OAuthConnectionListResponse {
    connections: Vec<OAuthConnectionSummary>,
}

/// A connection, without anything secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "name": "Microsoft Graph", "provider": "microsoft-graph", "description": null,
    "oauth_flow_type": "authorization_code", "client_id": "6731de76-14a6-49ae-97bc-6eba6914391e",
    "authorization_url": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
    "token_url": "https://login.microsoftonline.com/common/oauth2/v2.0/token", "scopes": "User.Read.All offline_access",
    "status": "completed", "status_message": null, "expires_at": "2026-11-26T11:00:00Z",
    "last_refresh_at": "2026-11-26T10:00:00Z", "last_test_at": null, "created_at": "2026-11-01T08:00:00Z",
    "created_by": "ada@example.com", "updated_at": "2026-11-26T10:00:00Z",
}))]
struct OAuthConnectionDetail {
    connection_name: String,
    name: Option<String>,
    provider: Option<String>,
    description: Option<String>,
    oauth_flow_type: OAuthFlowType,
    client_id: String,
    authorization_url: Option<String>,
    token_url: String,
    /// Separated by spaces.
    scopes: String,
    status: OAuthStatus,
    /// Why it failed.
    status_message: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    last_refresh_at: Option<DateTime<Utc>>,
    last_test_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    created_by: String,
    updated_at: DateTime<Utc>,
}

/// Where an authorization ends.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AuthorizeQuery {
    /// Page that the provider sends the browser back to; the provider knows it.
    #[param(example = "https://bifrost.example.com/oauth/callback/microsoft-graph")]
    redirect_uri: String,
}

/// Where to send the browser.
#[derive(Debug, Serialize, ToSchema)]
struct AuthorizeResponse {
    authorization_url: String,
    /// Comes back from the provider; good once, for ten minutes, for the user who began.
    state: String,
    #[schema(value_type = String, default = "Redirect user to authorization_url")]
    message: &'static str,
}

/// What the provider sent back.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"code": "c0de…", "state": "q0vXkC…"}))]
struct CompleteConnection {
    #[schema(value_type = String)]
    code: SecretString,
    /// Required, and verified.
    state: Option<String>,
    /// May be left out; if sent, the one it began with.
    redirect_uri: Option<String>,
}

/// How an authorization ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "success": true, "message": "Connected", "status": "completed", "connection_name": "microsoft-graph",
    "warning_message": null, "error_message": null,
}))]
struct OAuthCallbackResponse {
    success: bool,
    message: String,
    status: String,
    connection_name: String,
    /// What to know although it ended well.
    warning_message: Option<String>,
    /// Why the provider refused.
    error_message: Option<String>,
}

/// How a refresh ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "message": "Token refreshed", "expires_at": "2026-11-26T11:00:00Z"}))]
struct RefreshTokenResponse {
    success: bool,
    message: String,
    expires_at: Option<String>,
}

/// The tokens of a connection.
#[derive(Serialize, ToSchema)]
struct OAuthCredentialsModel {
    #[schema(pattern = "^[a-zA-Z0-9_-]+$")]
    connection_name: String,
    #[schema(min_length = 1)]
    access_token: String,
    #[schema(default = "Bearer")]
    token_type: String,
    expires_at: String,
    refresh_token: Option<String>,
    #[schema(default = "")]
    scopes: String,
}

/// The tokens of a connection, if it has good ones.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "status": "completed", "expires_at": "2026-11-26T11:00:00Z",
    "credentials": {
        "connection_name": "microsoft-graph", "access_token": "EwB4A8l6BAAU…", "token_type": "Bearer",
        "expires_at": "2026-11-26T11:00:00Z", "refresh_token": "M.C507_BAY.0.U.…", "scopes": "User.Read.All",
    },
}))]
struct OAuthCredentialsResponse {
    connection_name: String,
    credentials: Option<OAuthCredentialsModel>,
    status: OAuthStatus,
    expires_at: Option<String>,
}

/// A run of the periodic refresh.
#[derive(Debug, Serialize, ToSchema)]
struct RefreshJobRun {
    /// `running` or `completed`.
    #[schema(value_type = String, default = "completed")]
    status: &'static str,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    #[schema(default = 0)]
    connections_checked: i64,
    #[schema(default = 0)]
    refreshed_successfully: i64,
    #[schema(default = 0)]
    refresh_failed: i64,
    #[schema(default = 0)]
    needs_refresh: i64,
    #[schema(default = 0)]
    total_connections: i64,
    error: Option<String>,
    errors: Vec<String>,
}

/// When tokens are refreshed.
#[derive(Debug, Serialize, ToSchema)]
struct RefreshJobStatusResponse {
    #[schema(default = true)]
    enabled: bool,
    last_run: Option<RefreshJobRun>,
    next_run: Option<DateTime<Utc>>,
}

/// What a refresh of all did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "triggered": true, "message": "2 of 2 connections refreshed", "connections_queued": 2, "refreshed_successfully": 2,
    "refresh_failed": 0,
}))]
struct RefreshAllResponse {
    triggered: bool,
    message: String,
    #[schema(default = 0)]
    connections_queued: i64,
    #[schema(default = 0)]
    refreshed_successfully: i64,
    #[schema(default = 0)]
    refresh_failed: i64,
}

impl OAuthFlowType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
        }
    }

    /// As the row has it, which holds nothing else.
    fn of(text: &str) -> Self {
        match text {
            "client_credentials" => Self::ClientCredentials,
            "refresh_token" => Self::RefreshToken,
            _ => Self::AuthorizationCode,
        }
    }
}

impl OAuthStatus {
    /// As the row has it, which holds nothing else.
    fn of(text: &str) -> Self {
        match text {
            "waiting_callback" => Self::WaitingCallback,
            "testing" => Self::Testing,
            "connected" => Self::Connected,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            _ => Self::NotConnected,
        }
    }
}

impl From<Connection> for OAuthConnectionSummary {
    fn from(connection: Connection) -> Self {
        Self {
            oauth_flow_type: OAuthFlowType::of(&connection.flow),
            status: OAuthStatus::of(&connection.status),
            provider: Some(connection.name.clone()),
            connection_name: connection.name,
            name: connection.display_name,
            description: connection.description,
            status_message: connection.status_message,
            expires_at: connection.expires_at,
            last_refresh_at: connection.last_refresh_at,
            created_at: connection.created_at,
            updated_at: Some(connection.updated_at),
        }
    }
}

impl From<Connection> for OAuthConnectionDetail {
    fn from(connection: Connection) -> Self {
        Self {
            oauth_flow_type: OAuthFlowType::of(&connection.flow),
            status: OAuthStatus::of(&connection.status),
            provider: Some(connection.name.clone()),
            connection_name: connection.name,
            name: connection.display_name,
            description: connection.description,
            client_id: connection.client_id,
            authorization_url: connection.authorization_url,
            token_url: connection.token_url,
            scopes: connection.scopes,
            status_message: connection.status_message,
            expires_at: connection.expires_at,
            last_refresh_at: connection.last_refresh_at,
            last_test_at: connection.last_test_at,
            created_at: connection.created_at,
            created_by: connection.created_by,
            updated_at: connection.updated_at,
        }
    }
}

impl From<RunOfRefresh> for RefreshJobRun {
    fn from(run: RunOfRefresh) -> Self {
        let report = run.report.unwrap_or_default();
        Self {
            status: if run.ended_at.is_some() { "completed" } else { "running" },
            start_time: Some(run.started_at),
            end_time: run.ended_at,
            connections_checked: report.needed,
            refreshed_successfully: report.refreshed,
            refresh_failed: report.failed,
            needs_refresh: report.needed,
            total_connections: report.total,
            error: None,
            errors: report.errors,
        }
    }
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
/// Absent and null members stay as they are. Tokens stay too; refresh the connection to see whether the change works.
/// Platform administrators only.
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
    let mut tx = app.platform.db.begin(&scope.narrowed()).await?;
    let before = connections::get(&mut tx, &name).await?;
    let changes = checked_changes(&app.platform.outbound, &before, given)?;
    let connection = connections::update(&mut tx, &app.platform.vault, &name, changes).await?;
    tx.commit().await?;
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

/// Begins to connect an account with somebody's consent.
///
/// Send the browser to `authorization_url`; the provider sends it back to `redirect_uri` with `code` and `state`, which go
/// to `POST /api/oauth/callback/{connection_name}` within ten minutes, from the same user. 400 for client credentials,
/// which need no consent. Platform administrators only.
#[utoipa::path(
    post, path = "/api/oauth/connections/{connection_name}/authorize", tag = "OAuth Connections",
    security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph"), AuthorizeQuery),
    responses((status = 200, body = AuthorizeResponse), Problems),
)]
async fn authorize_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
    Query(given): Query<AuthorizeQuery>,
) -> Result<Json<AuthorizeResponse>, Problem> {
    let redirect_uri = Url::parse(&given.redirect_uri).ok().filter(|url| {
        let is_web = matches!(url.scheme(), "https" | "http") && url.fragment().is_none();
        is_web && url.as_str().len() <= LONGEST_ADDRESS
    });
    let redirect_uri = redirect_uri
        .ok_or_else(|| Problem::invalid("?redirect_uri", "must be an address without a fragment"))?;
    let mut tx = app.platform.db.begin(&scope.narrowed()).await?;
    let begun = connections::begin(&app.platform, &mut tx, &name, &redirect_uri).await?;
    tx.commit().await?;
    Ok(Json(AuthorizeResponse {
        authorization_url: begun.url.into(),
        state: begun.state,
        message: "Redirect user to authorization_url",
    }))
}

/// Gives up waiting for somebody's consent.
///
/// The authorization that was begun can not be completed any more; a token that was there before stays. Platform
/// administrators only.
#[utoipa::path(
    post, path = "/api/oauth/connections/{connection_name}/cancel", tag = "OAuth Connections",
    security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    responses((status = 200, body = OAuthConnectionDetail), Problems),
)]
async fn cancel_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
) -> Result<Json<OAuthConnectionDetail>, Problem> {
    let mut tx = app.platform.db.begin(&scope.narrowed()).await?;
    let connection = connections::cancel(&mut tx, &name).await?;
    tx.commit().await?;
    Ok(Json(connection.into()))
}

/// Fetches a new token now.
///
/// By refresh token or client credentials; 400 without either. `success` is false when the provider refuses, and the
/// connection is `failed` then. One refresh at a time: whoever asks meanwhile gets its outcome. Platform administrators
/// only.
#[utoipa::path(
    post, path = "/api/oauth/connections/{connection_name}/refresh", tag = "OAuth Connections",
    security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    responses((status = 200, body = RefreshTokenResponse), Problems),
)]
async fn refresh_connection(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
) -> Result<Json<RefreshTokenResponse>, Problem> {
    let scope = scope.narrowed();
    let before = find(&app, &scope, &name).await?;
    let (success, message) = match app.platform.refresher.refresh(&scope, &before).await? {
        Refreshed::Fresh => (true, "Token refreshed".to_owned()),
        Refreshed::Refused(reason) => (false, reason),
        Refreshed::TooLate => (false, "a refresh is under way, and takes long".to_owned()),
    };
    let expires_at = find(&app, &scope, &name).await?.expires_at.map(text);
    Ok(Json(RefreshTokenResponse { success, message, expires_at }))
}

/// Completes the authorization of a connection.
///
/// For the user who began it; connection and organization come from the state. 400 when the state is missing, unknown,
/// used, expired or somebody else's. `success` is false when the provider refuses.
#[utoipa::path(
    post, path = "/api/oauth/callback/{connection_name}", tag = "OAuth Connections", security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    request_body = CompleteConnection,
    responses((status = 200, body = OAuthCallbackResponse), Problems),
)]
async fn complete_connection(
    State(app): State<AppState>,
    signed: Signed,
    Path(name): Path<String>,
    Json(given): Json<CompleteConnection>,
) -> Result<Json<OAuthCallbackResponse>, Problem> {
    let state = given.state.as_deref().filter(|state| !state.is_empty());
    let state = state.ok_or_else(|| Error::Impossible("state is required".into()))?;
    let redirect_uri = given.redirect_uri.as_deref().filter(|uri| !uri.is_empty());
    let proof = (&given.code, state);
    let completed = connections::complete(&app.platform, &signed.scope, &name, proof, redirect_uri).await?;
    let success = completed.refused.is_none();
    let warning = (success && !completed.can_refresh).then(|| {
        "the provider gave no refresh token: when the token ends, somebody must authorize again".to_owned()
    });
    Ok(Json(OAuthCallbackResponse {
        success,
        message: if success { "Connected" } else { "The provider refused" }.into(),
        status: completed.connection.status,
        connection_name: name,
        warning_message: warning,
        error_message: completed.refused,
    }))
}

/// The tokens of a connection of exactly the current scope.
///
/// Refreshed first if they end within a minute; `credentials` is null when there are none that are good. Every call is in
/// the audit log. Platform administrators only.
#[utoipa::path(
    get, path = "/api/oauth/credentials/{connection_name}", tag = "OAuth Connections", security(("bearer" = [])),
    params(("connection_name" = String, Path, description = "Its name.", example = "microsoft-graph")),
    responses((status = 200, body = OAuthCredentialsResponse), Problems),
)]
async fn get_credentials(
    State(app): State<AppState>,
    Admin { scope }: Admin,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let (connection, found) = app.platform.refresher.credentials(&scope.narrowed(), &name).await?;
    let expires_at = connection.expires_at.map(text);
    let credentials = found.and_then(|found| {
        Some(OAuthCredentialsModel {
            connection_name: connection.name.clone(),
            access_token: found.access_token?.expose_secret().to_owned(),
            token_type: connection.token_type.clone(),
            expires_at: expires_at.clone().unwrap_or_default(),
            refresh_token: found.refresh_token.map(|token| token.expose_secret().to_owned()),
            scopes: connection.granted_scopes.clone().unwrap_or_else(|| connection.scopes.clone()),
        })
    });
    let status = OAuthStatus::of(&connection.status);
    let answer =
        OAuthCredentialsResponse { connection_name: connection.name, credentials, status, expires_at };
    Ok(super::auth::unstored(Json(answer).into_response()))
}

/// The last and the next run of the periodic refresh.
///
/// Every fifteen minutes one replica refreshes the tokens of all organizations that end within half an hour. Platform
/// administrators only.
#[utoipa::path(
    get, path = "/api/oauth/refresh_job_status", tag = "OAuth Connections", security(("bearer" = [])),
    responses((status = 200, body = RefreshJobStatusResponse), Problems),
)]
async fn get_refresh_status(
    State(app): State<AppState>,
    _: Admin,
) -> Result<Json<RefreshJobStatusResponse>, Problem> {
    let (last, next) = connections::last_run(&app.platform.db).await?;
    Ok(Json(RefreshJobStatusResponse { enabled: true, last_run: last.map(Into::into), next_run: Some(next) }))
}

/// Fetches new tokens for the connections of exactly the current scope, now.
///
/// For all that can be refreshed without a person. Platform administrators only.
#[utoipa::path(
    post, path = "/api/oauth/refresh_all", tag = "OAuth Connections", security(("bearer" = [])),
    responses((status = 200, body = RefreshAllResponse), Problems),
)]
async fn refresh_connections(
    State(app): State<AppState>,
    Admin { scope }: Admin,
) -> Result<Json<RefreshAllResponse>, Problem> {
    let platform = &app.platform;
    let report = connections::refresh_scope(&platform.db, &platform.refresher, &scope.narrowed()).await?;
    Ok(Json(RefreshAllResponse {
        triggered: report.needed > 0,
        message: format!("{} of {} connections refreshed", report.refreshed, report.needed),
        connections_queued: report.needed,
        refreshed_successfully: report.refreshed,
        refresh_failed: report.failed,
    }))
}

async fn find(app: &AppState, scope: &OrgScope, name: &str) -> Result<Connection, Error> {
    let mut tx = app.platform.db.begin(scope).await?;
    let connection = connections::get(&mut tx, name).await?;
    tx.commit().await?;
    Ok(connection)
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Collects what is wrong, member by member.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: &str, detail: &str) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    fn text(&mut self, pointer: &str, text: &str, range: std::ops::RangeInclusive<usize>) {
        if !range.contains(&text.chars().count()) {
            self.add(pointer, &format!("must have {} to {} characters", range.start(), range.end()));
        } else if check_text(pointer, text).is_err() {
            self.add(pointer, "must not contain NUL");
        }
    }

    /// An address that the server calls.
    fn called(&mut self, outbound: &Outbound, pointer: &str, address: &str) {
        let fault = match Url::parse(address) {
            Ok(url) => outbound.check(&url).err().map(|refused| refused.to_string()),
            Err(_) => Some("must be an address that begins with https://".into()),
        };
        if let Some(fault) = fault {
            self.add(pointer, &fault);
        } else {
            self.text(pointer, address, 1..=LONGEST_ADDRESS);
        }
    }

    /// An address that a browser opens: it may well be in a network that the server does not reach.
    fn opened(&mut self, outbound: &Outbound, pointer: &str, address: &str) {
        let url = Url::parse(address).ok();
        let fits = url.is_some_and(|url| url.scheme() == "https" || outbound.check(&url).is_ok());
        if fits {
            self.text(pointer, address, 1..=LONGEST_ADDRESS);
        } else {
            self.add(pointer, "must be an address that begins with https://");
        }
    }

    fn none(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

/// Empty texts count as absent, as clients send them for what they leave open.
fn given_text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

fn checked(outbound: &Outbound, given: CreateOAuthConnectionRequest) -> Result<NewConnection, Error> {
    let mut faults = Faults::default();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = given.connection_name;
    if !(1..=100).contains(&name.len()) || !name.chars().all(fits) {
        faults.add("/connection_name", "may hold 1 to 100 letters, digits, underscores and dashes");
    }
    let authorization_url = given_text(given.authorization_url);
    let client_secret = given.client_secret.filter(|secret| !secret.expose_secret().is_empty());
    faults.text("/name", given.name.as_deref().unwrap_or_default(), 0..=255);
    faults.text("/description", given.description.as_deref().unwrap_or_default(), 0..=500);
    faults.text("/client_id", &given.client_id, 1..=LONGEST_CLIENT);
    faults.text("/scopes", &given.scopes, 0..=LONGEST_SCOPES);
    faults.called(outbound, "/token_url", &given.token_url);
    match (&authorization_url, given.oauth_flow_type) {
        (Some(address), _) => faults.opened(outbound, "/authorization_url", address),
        (None, OAuthFlowType::AuthorizationCode) => {
            faults.add("/authorization_url", "is required for authorization_code");
        }
        (None, _) => {}
    }
    match (&client_secret, given.oauth_flow_type) {
        (Some(secret), _) => faults.text("/client_secret", secret.expose_secret(), 1..=LONGEST_SECRET),
        (None, OAuthFlowType::ClientCredentials) => {
            faults.add("/client_secret", "is required for client_credentials");
        }
        (None, _) => {}
    }
    let redirect_uri = given_text(given.redirect_uri);
    faults.text("/redirect_uri", redirect_uri.as_deref().unwrap_or_default(), 0..=LONGEST_ADDRESS);
    faults.none()?;
    Ok(NewConnection {
        name,
        display_name: given_text(given.name),
        description: given_text(given.description),
        flow: given.oauth_flow_type.as_str(),
        client_id: given.client_id,
        client_secret,
        authorization_url,
        token_url: given.token_url,
        scopes: given.scopes,
        redirect_uri,
    })
}

fn checked_changes(
    outbound: &Outbound,
    before: &Connection,
    given: UpdateOAuthConnectionRequest,
) -> Result<Changes, Error> {
    let mut faults = Faults::default();
    let scopes = given.scopes.map(|scopes| match scopes {
        Scopes::List(list) => list.join(" "),
        Scopes::Text(text) => text,
    });
    faults.text("/name", given.name.as_deref().unwrap_or_default(), 0..=255);
    faults.text("/scopes", scopes.as_deref().unwrap_or_default(), 0..=LONGEST_SCOPES);
    if let Some(id) = &given.client_id {
        faults.text("/client_id", id, 1..=LONGEST_CLIENT);
    }
    if let Some(secret) = &given.client_secret {
        faults.text("/client_secret", secret.expose_secret(), 1..=LONGEST_SECRET);
    }
    if let Some(address) = &given.token_url {
        faults.called(outbound, "/token_url", address);
    }
    match given.authorization_url.as_deref() {
        None => {}
        Some("") if OAuthFlowType::of(&before.flow) == OAuthFlowType::AuthorizationCode => {
            faults.add("/authorization_url", "is required for authorization_code");
        }
        Some("") => {}
        Some(address) => faults.opened(outbound, "/authorization_url", address),
    }
    faults.none()?;
    Ok(Changes {
        display_name: given.name,
        client_id: given.client_id,
        client_secret: given.client_secret,
        authorization_url: given.authorization_url,
        token_url: given.token_url,
        scopes,
    })
}
