//! Connecting an account, keeping its token fresh, and handing it out.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::Error;
use domain::connections::{self, Refreshed};
use secrecy::ExposeSecret;
use url::Url;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{
    AuthorizeQuery, AuthorizeResponse, CompleteConnection, OAuthCallbackResponse, OAuthConnectionDetail,
    OAuthCredentialsModel, OAuthCredentialsResponse, OAuthStatus, RefreshAllResponse,
    RefreshJobStatusResponse, RefreshTokenResponse,
};
use super::{LONGEST_ADDRESS, find};
use crate::envelope::NO_STORE;
use crate::extract::{Admin, Json, Path, Query, Signed, time};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

/// How long the refreshes of a scope are waited for: less than what the request may take.
const ALL_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(authorize_connection))
        .routes(routes!(cancel_connection))
        .routes(routes!(refresh_connection))
        .routes(routes!(complete_connection))
        .routes(routes!(get_credentials))
        .routes(routes!(get_refresh_status))
        .routes(routes!(refresh_connections))
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
    if !may_redirect_to(&given.redirect_uri) {
        return Err(Problem::invalid("?redirect_uri", "must be an address without a fragment"));
    }
    let mut tx = app.platform.db.begin(&scope.narrowed()).await?;
    let begun = connections::begin(&app.platform, &mut tx, &name, &given.redirect_uri).await?;
    tx.commit().await?;
    Ok(Json(AuthorizeResponse {
        authorization_url: begun.url.into(),
        state: begun.state,
        message: "Redirect user to authorization_url",
    }))
}

/// Whether a provider may send browsers back to this address.
fn may_redirect_to(address: &str) -> bool {
    // The parser drops these, and what is sent is the text.
    let is_plain = address.trim() == address && !address.contains(char::is_control);
    is_plain
        && address.len() <= LONGEST_ADDRESS
        && Url::parse(address)
            .is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.fragment().is_none())
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
    let expires_at = find(&app, &scope, &name).await?.expires_at.map(time::text);
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
    let (state, connection) = (state.to_owned(), name.clone());
    // The code is good once: a client that leaves while the provider is asked would lose what it is good for.
    let completed = deadline::to_the_end(deadline::OTHERS, async move {
        let redirect_uri = given.redirect_uri.as_deref().filter(|uri| !uri.is_empty());
        let proof = (&given.code, state.as_str());
        connections::complete(&app.platform, &signed.scope, &connection, proof, redirect_uri).await
    })
    .await?;
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
    let expires_at = connection.expires_at.map(time::text);
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
    Ok((NO_STORE, Json(answer)).into_response())
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
/// For all that can be refreshed without a person. After half a minute it answers with what came of it so far: what is under
/// way goes on, and no more are begun. Platform administrators only.
#[utoipa::path(
    post, path = "/api/oauth/refresh_all", tag = "OAuth Connections", security(("bearer" = [])),
    responses((status = 200, body = RefreshAllResponse), Problems),
)]
async fn refresh_connections(
    State(app): State<AppState>,
    Admin { scope }: Admin,
) -> Result<Json<RefreshAllResponse>, Problem> {
    let platform = &app.platform;
    let scope = scope.narrowed();
    let report = connections::refresh_scope(&platform.db, &platform.refresher, &scope, ALL_PATIENCE).await?;
    let left = report.needed - report.refreshed - report.failed;
    let rest = if left > 0 { format!("; no answer in time for {left}") } else { String::new() };
    Ok(Json(RefreshAllResponse {
        triggered: report.needed > 0,
        message: format!("{} of {} connections refreshed{rest}", report.refreshed, report.needed),
        connections_queued: report.needed,
        refreshed_successfully: report.refreshed,
        refresh_failed: report.failed,
    }))
}
