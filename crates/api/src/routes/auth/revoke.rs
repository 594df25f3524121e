//! Sessions: one's own to see and to end, and everybody's to end for platform administrators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::id::{SessionId, UserId};
use domain::sessions::{self, Session};
use domain::{Actor, Error};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::extract::{Admin, Client, Json, Path, Signed};
use crate::problem::{Problem, Problems};
use crate::{AppState, cookies};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions))
        .routes(routes!(end_session))
        .routes(routes!(revoke_all_sessions))
        .routes(routes!(revoke_user_sessions))
}

/// Whose sessions to end.
#[derive(Debug, Deserialize, ToSchema)]
struct AdminRevokeRequest {
    /// The user.
    user_id: String,
}

/// How many sessions were ended.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "All sessions revoked", "sessions_revoked": 3}))]
struct RevokeAllResponse {
    message: &'static str,
    sessions_revoked: usize,
}

/// A session.
#[derive(Serialize, ToSchema)]
struct SessionResponse {
    id: Uuid,
    created_at: DateTime<Utc>,
    /// When it was last refreshed.
    refreshed_at: DateTime<Utc>,
    /// When it ends if it is not refreshed.
    expires_at: DateTime<Utc>,
    /// What the browser or script calls itself.
    user_agent: Option<String>,
    /// Whether it is the session of this request.
    is_current: bool,
}

/// The caller's live sessions, the newest first.
///
/// One for each browser or script that signed in.
#[utoipa::path(
    get, path = "/auth/sessions", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = Vec<SessionResponse>), Problems),
)]
async fn list_sessions(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<Vec<SessionResponse>>, Problem> {
    let found = sessions::list(&app.platform.db, signed.principal.user_id).await?;
    let shown = |session: Session| SessionResponse {
        id: session.id.0,
        created_at: session.created_at,
        refreshed_at: session.rotated_at,
        expires_at: session.expires_at,
        user_agent: session.user_agent,
        is_current: session.id == signed.principal.session_id,
    };
    Ok(Json(found.into_iter().map(shown).collect()))
}

/// Ends one of the caller's sessions.
///
/// It acts everywhere within five seconds, open WebSockets included.
#[utoipa::path(
    delete, path = "/auth/sessions/{session_id}", tag = "auth", security(("bearer" = [])),
    params(("session_id" = Uuid, Path, description = "The session.")),
    responses((status = 204, description = "Ended."), Problems),
)]
async fn end_session(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<SessionId>,
) -> Result<StatusCode, Problem> {
    let own = sessions::list(&app.platform.db, signed.principal.user_id).await?;
    if !own.iter().any(|session| session.id == id) {
        return Err(Error::NotFound("session").into());
    }
    let (actor, request_id) = (signed.scope.actor(), signed.scope.request_id());
    // Of those who ask at once, one has ended it.
    if !sessions::revoke(&app.platform.db, id, actor, request_id).await? {
        return Err(Error::NotFound("session").into());
    }
    app.forget_session(id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all of the caller's sessions, this one included.
///
/// It acts everywhere within five seconds, open WebSockets included; the cookies are cleared.
#[utoipa::path(
    post, path = "/auth/revoke-all", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = RevokeAllResponse), Problems),
)]
async fn revoke_all_sessions(State(app): State<AppState>, signed: Signed) -> Result<Response, Problem> {
    let (actor, request_id) = (signed.scope.actor(), signed.scope.request_id());
    let sessions_revoked = revoke(&app, actor.id, actor, request_id).await?;
    let answer = RevokeAllResponse { message: "All sessions revoked", sessions_revoked };
    let mut response = Json(answer).into_response();
    cookies::clear(response.headers_mut(), app.platform.settings.is_production());
    Ok(response)
}

/// Ends all sessions of a user.
///
/// For platform administrators. It acts everywhere within five seconds, open WebSockets included.
#[utoipa::path(
    post, path = "/auth/admin/revoke-user", tag = "auth", security(("bearer" = [])), request_body = AdminRevokeRequest,
    responses((status = 200, body = RevokeAllResponse), Problems),
)]
async fn revoke_user_sessions(
    State(app): State<AppState>,
    admin: Admin,
    client: Client,
    Json(given): Json<AdminRevokeRequest>,
) -> Result<Json<RevokeAllResponse>, Problem> {
    let user: UserId = given.user_id.parse().map_err(|_| Problem::invalid("/user_id", "must be a UUID"))?;
    let actor = admin.scope.actor();
    let sessions_revoked = revoke(&app, user, actor, client.request_id.as_deref()).await?;
    Ok(Json(RevokeAllResponse { message: "All sessions of the user revoked", sessions_revoked }))
}

async fn revoke(
    app: &AppState,
    user: UserId,
    actor: &Actor,
    request_id: Option<&str>,
) -> Result<usize, Problem> {
    let ended = sessions::revoke_all(&app.platform.db, user, actor, request_id).await?;
    for session in &ended {
        app.forget_session(*session).await;
    }
    Ok(ended.len())
}
