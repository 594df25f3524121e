//! Signing in and out, and who one is. What follows a proven identity is in `admit.rs`.

mod admit;
mod devices;
mod mfa;
#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
mod oauth;
mod proof;
mod revoke;

use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::sessions;
use domain::users::links::Purpose;
use domain::users::{self, Registered, Registration, User};
use domain::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use admit::{LoginResponse, Token, admit, tokens_of, with_cookies};
use oauth::OAuthProviderInfo;

use crate::extract::{Client, Form, Json, OptionalJson, Signed, check_text};
use crate::problem::{Problem, Problems, PublicProblems};
use crate::{AppState, cookies, limits, tokens};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(sign_in))
        .routes(routes!(refresh_session))
        .routes(routes!(get_me))
        .routes(routes!(register_user))
        .routes(routes!(get_status))
        .routes(routes!(sign_out))
        .merge(revoke::router())
        .merge(mfa::router())
        .merge(proof::router())
        .merge(devices::router())
        .merge(oauth::router())
}

/// What a sign-in needs.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"username": "ada@example.com", "password": "correct horse battery"}))]
struct Credentials {
    /// E-mail address.
    username: String,
    #[schema(value_type = String, format = Password)]
    password: SecretString,
    /// `password`, if given.
    #[schema(pattern = "^password$")]
    grant_type: Option<String>,
    #[expect(dead_code, reason = "clients of the OAuth password grant send it; it changes nothing")]
    scope: Option<String>,
    #[expect(dead_code, reason = "clients of the OAuth password grant send it; it changes nothing")]
    client_id: Option<String>,
    #[schema(value_type = Option<String>, format = Password)]
    #[expect(dead_code, reason = "clients of the OAuth password grant send it; it changes nothing")]
    client_secret: Option<SecretString>,
}

/// A refresh token to replace.
#[derive(Debug, Deserialize, ToSchema)]
struct TokenRefresh {
    #[schema(value_type = String)]
    refresh_token: SecretString,
}

/// A registration.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"email": "ada@example.com", "password": "correct horse battery", "name": "Ada"}))]
struct UserCreate {
    #[schema(format = "email")]
    email: String,
    #[schema(value_type = String, format = Password)]
    password: SecretString,
    name: Option<String>,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
struct UserResponse {
    id: Uuid,
    email: String,
    name: String,
    is_active: bool,
    is_superuser: bool,
    is_verified: bool,
    /// `PLATFORM` or `ORG`.
    user_type: String,
    organization_id: Option<Uuid>,
    roles: Vec<String>,
}

/// How one may sign in here.
#[derive(Debug, Serialize, ToSchema)]
struct AuthStatusResponse {
    /// Nobody has registered yet: the first who does becomes the platform administrator.
    needs_setup: bool,
    password_login_enabled: bool,
    mfa_required_for_password: bool,
    /// Providers to sign in with.
    oauth_providers: Vec<OAuthProviderInfo>,
}

/// The session to end.
#[derive(Debug, Deserialize, ToSchema)]
struct LogoutRequest {
    /// Default: the session of the request itself.
    #[schema(value_type = Option<String>)]
    refresh_token: Option<SecretString>,
}

/// A sign-out.
#[derive(Debug, Serialize, ToSchema)]
struct LogoutResponse {
    #[schema(example = "Logged out successfully")]
    message: &'static str,
}

/// Signs in by password.
///
/// Sets the cookies too. Where a second factor is asked for, the answer holds an `mfa_token` instead of tokens. At most
/// ten a minute per address and per account.
#[utoipa::path(
    post, path = "/auth/login", tag = "auth",
    request_body(content(
        (Credentials = "application/x-www-form-urlencoded"),
        (Credentials = "multipart/form-data"),
    )),
    responses((status = 200, body = LoginResponse), Problems),
)]
async fn sign_in(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Result<Response, Problem> {
    if given.grant_type.as_deref().is_some_and(|kind| !matches!(kind, "" | "password")) {
        return Err(Problem::invalid("/grant_type", "must be password"));
    }
    limits::by_address(&app, "login", client.address).await?;
    limits::by_account(&app, "login", &given.username).await?;
    let request_id = client.request_id.as_deref();
    let proven = app.platform.settings.is_production();
    let first = sessions::authenticate(&app.platform.db, &given.username, given.password, proven, request_id)
        .await
        .map_err(|error| match error {
            Error::Unauthenticated => {
                Problem::new(StatusCode::UNAUTHORIZED).detail("Incorrect email or password")
            }
            other => other.into(),
        })?;
    admit(&app, &client, &headers, &first).await
}

/// Replaces a refresh token by a new pair.
///
/// The token comes from the body, else from the cookie. It is good once: presenting it again ends the session.
#[utoipa::path(
    post, path = "/auth/refresh", tag = "auth", request_body = Option<TokenRefresh>,
    responses((status = 200, body = Token), Problems),
)]
async fn refresh_session(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    OptionalJson(given): OptionalJson<TokenRefresh>,
) -> Result<Response, Problem> {
    let began = Instant::now();
    limits::by_address(&app, "refresh", client.address).await?;
    let cookie = || {
        cookies::find(&headers, cookies::refresh_name(app.platform.settings.is_production())).map(Into::into)
    };
    let presented = given.map(|given| given.refresh_token).or_else(cookie).ok_or(Error::Unauthenticated)?;
    let days = app.platform.settings.refresh_token_days;
    let request_id = client.request_id.as_deref();
    let started = sessions::refresh(&app.platform.db, &presented, days, began, request_id).await?;
    let token = tokens_of(&app, &started);
    let (access, refresh) = (token.access_token.clone(), token.refresh_token.clone());
    Ok(with_cookies(&app, &access, &refresh, Json(token)))
}

/// Who is signed in.
///
/// Read from the live session, not from the token.
#[utoipa::path(
    get, path = "/auth/me", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = UserResponse), Problems),
)]
async fn get_me(State(app): State<AppState>, signed: Signed) -> Result<Json<UserResponse>, Problem> {
    let user = users::get(&app.platform.db, signed.principal.user_id).await?;
    let roles = tokens::roles(&signed.principal).into_iter().map(str::to_owned).collect();
    Ok(Json(UserResponse { roles, ..user.into() }))
}

/// Registers an account.
///
/// The first ever becomes the platform administrator. Later an invited account is completed, or the domain of
/// the e-mail names the organization; such an address is confirmed by the link that is mailed to it, without which
/// nobody signs in in production.
#[utoipa::path(
    post, path = "/auth/register", tag = "auth", request_body = UserCreate,
    responses((status = 201, body = UserResponse), Problems),
)]
async fn register_user(
    State(app): State<AppState>,
    client: Client,
    Json(given): Json<UserCreate>,
) -> Result<(StatusCode, Json<UserResponse>), Problem> {
    limits::by_address(&app, "register", client.address).await?;
    check_text("/email", &given.email)?;
    check_text("/name", given.name.as_deref().unwrap_or_default())?;
    // The form of the sign-in refuses it too.
    check_text("/password", given.password.expose_secret())?;
    let registration = Registration {
        email: given.email,
        name: given.name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()),
        password: given.password,
        production: app.platform.settings.is_production(),
    };
    let (db, mailer) = (&app.platform.db, &app.platform.mailer);
    let Registered { user, proof } =
        users::register(db, mailer, registration, client.request_id.as_deref()).await?;
    if let Some(proof) = proof {
        let mail = Purpose::Verify.mail(user.email.clone(), &proof, &app.platform.settings.public_url);
        mailer.deliver_later(async { Ok(Some(mail)) });
    }
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// How one may sign in here.
///
/// For the sign-in page, before anybody is known.
#[utoipa::path(get, path = "/auth/status", tag = "auth", responses((status = 200, body = AuthStatusResponse), PublicProblems))]
async fn get_status(State(app): State<AppState>) -> Result<Json<AuthStatusResponse>, Problem> {
    Ok(Json(AuthStatusResponse {
        needs_setup: users::needs_setup(&app.platform.db).await?,
        password_login_enabled: true,
        mfa_required_for_password: app.platform.settings.mfa_is_required(),
        oauth_providers: oauth::offered(&app),
    }))
}

/// Signs out.
///
/// Ends the session of the given refresh token, or that of the request; clears the cookies.
#[utoipa::path(
    post, path = "/auth/logout", tag = "auth", security(("bearer" = [])), request_body = Option<LogoutRequest>,
    responses((status = 200, body = LogoutResponse), Problems),
)]
async fn sign_out(
    State(app): State<AppState>,
    signed: Signed,
    OptionalJson(given): OptionalJson<LogoutRequest>,
) -> Result<Response, Problem> {
    let principal = &signed.principal;
    let named = match given.and_then(|given| given.refresh_token) {
        Some(token) => sessions::find_by_refresh_token(&app.platform.db, principal.user_id, &token).await?,
        None => None,
    };
    let session = named.unwrap_or(principal.session_id);
    sessions::revoke(&app.platform.db, session, signed.scope.actor(), signed.scope.request_id()).await?;
    app.forget_session(session).await;
    let mut response = Json(LogoutResponse { message: "Logged out successfully" }).into_response();
    cookies::clear(response.headers_mut(), app.platform.settings.is_production());
    Ok(response)
}

impl From<User> for UserResponse {
    fn from(user: User) -> Self {
        Self {
            id: user.id.0,
            email: user.email,
            name: user.name,
            is_active: user.is_active,
            is_superuser: user.is_superuser,
            is_verified: user.is_verified,
            user_type: user.user_type,
            organization_id: user.organization_id.map(|org| org.0),
            roles: tokens::standing(user.is_superuser).map(str::to_owned).to_vec(),
        }
    }
}
