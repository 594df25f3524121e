//! What follows a proven identity: a session with its tokens and cookies, or the question for a second factor.

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use domain::mfa::devices;
use domain::sessions::{self, Authenticated, FirstFactor, Started};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use crate::envelope::NO_STORE;
use crate::extract::{Client, Json};
use crate::problem::Problem;
use crate::tokens::MfaStage;
use crate::{AppState, cookies};

pub(super) const SECONDS_PER_DAY: i64 = 24 * 60 * 60;
/// The ways a second factor can be given.
const METHODS: [&str; 2] = ["totp", "recovery_code"];

/// A sign-in: tokens, or what is missing for them.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "access_token": "eyJhbGciOi…", "refresh_token": "q0vXkC…", "token_type": "bearer", "mfa_required": false,
    "mfa_setup_required": false, "mfa_token": null, "available_methods": null, "expires_in": 900,
}))]
pub(super) struct LoginResponse {
    access_token: Option<String>,
    refresh_token: Option<String>,
    #[schema(example = "bearer")]
    token_type: &'static str,
    /// A second factor is asked for: send it with `mfa_token` to `/auth/mfa/login`.
    mfa_required: bool,
    /// A second factor must be enrolled first: `mfa_token` is the bearer for `/auth/mfa/setup` and `/auth/mfa/verify`.
    mfa_setup_required: bool,
    /// Good for five minutes.
    mfa_token: Option<String>,
    available_methods: Option<Vec<&'static str>>,
    /// Seconds the access token is good for.
    #[schema(example = 900)]
    expires_in: Option<i64>,
}

impl LoginResponse {
    /// What is asked for, as the fragment of an address.
    pub(super) fn as_fragment(&self) -> String {
        let token = self.mfa_token.as_deref().unwrap_or_default();
        let (required, setup) = (self.mfa_required, self.mfa_setup_required);
        format!("mfa_token={token}&mfa_required={required}&mfa_setup_required={setup}")
    }
}

/// A new pair of tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    #[schema(example = "bearer")]
    pub(super) token_type: &'static str,
    /// Seconds the access token is good for.
    #[schema(example = 900)]
    pub(super) expires_in: i64,
}

/// Lets somebody in who proved one factor: at once where that is enough, else the answer asks for the second.
///
/// # Errors
/// [`Problem`] 401 when the account was deactivated, or its password changed, meanwhile.
pub(super) async fn admit(
    app: &AppState,
    client: &Client,
    headers: &HeaderMap,
    proven: &FirstFactor,
) -> Result<Response, Problem> {
    match missing_factor(app, client, headers, proven).await? {
        Some(stage) => Ok((NO_STORE, Json(ask(app, &proven.user, stage))).into_response()),
        None => admit_fully(app, client, &proven.user).await,
    }
}

/// What is asked of somebody beyond the one factor that they proved.
///
/// # Errors
/// [`domain::Error::Unavailable`] when PostgreSQL is away.
pub(super) async fn missing_factor(
    app: &AppState,
    client: &Client,
    headers: &HeaderMap,
    proven: &FirstFactor,
) -> Result<Option<MfaStage>, domain::Error> {
    Ok(match proven.has_second {
        true if !is_trusted(app, client, headers, &proven.user).await? => Some(MfaStage::Login),
        false if app.platform.settings.mfa_is_required() => Some(MfaStage::Setup),
        _ => None,
    })
}

/// The answer that asks for it.
pub(super) fn ask(app: &AppState, user: &Authenticated, stage: MfaStage) -> LoginResponse {
    LoginResponse {
        access_token: None,
        refresh_token: None,
        token_type: "bearer",
        mfa_required: stage == MfaStage::Login,
        mfa_setup_required: stage == MfaStage::Setup,
        mfa_token: Some(app.tokens.issue_mfa(user, stage)),
        available_methods: (stage == MfaStage::Login).then(|| METHODS.to_vec()),
        expires_in: None,
    }
}

/// Starts the session of somebody who proved all that is asked for.
///
/// # Errors
/// As [`admit`].
pub(super) async fn admit_fully(
    app: &AppState,
    client: &Client,
    user: &Authenticated,
) -> Result<Response, Problem> {
    let token = tokens_of(app, &start(app, client, user).await?);
    let (access, refresh) = (token.access_token.clone(), token.refresh_token.clone());
    let answer = LoginResponse {
        access_token: Some(token.access_token),
        refresh_token: Some(token.refresh_token),
        token_type: token.token_type,
        mfa_required: false,
        mfa_setup_required: false,
        mfa_token: None,
        available_methods: None,
        expires_in: Some(token.expires_in),
    };
    Ok(with_cookies(app, &access, &refresh, Json(answer)))
}

/// Starts a session.
///
/// # Errors
/// As [`admit`].
pub(super) async fn start(
    app: &AppState,
    client: &Client,
    user: &Authenticated,
) -> Result<Started, domain::Error> {
    let days = app.platform.settings.refresh_token_days;
    let (user_agent, request_id) = (client.user_agent.as_deref(), client.request_id.as_deref());
    sessions::start(&app.platform.db, user, days, user_agent, request_id).await
}

pub(super) fn tokens_of(app: &AppState, started: &Started) -> Token {
    Token {
        access_token: app.tokens.issue(&started.principal),
        refresh_token: started.refresh_token.expose_secret().to_owned(),
        token_type: "bearer",
        expires_in: app.tokens.lifetime_seconds(),
    }
}

/// An answer with tokens: also as cookies, and stored by nobody on the way.
pub(super) fn with_cookies(
    app: &AppState,
    access: &str,
    refresh: &str,
    answer: impl IntoResponse,
) -> Response {
    let settings = &app.platform.settings;
    let mut response = (NO_STORE, answer).into_response();
    let (access, refresh) =
        ((access, app.tokens.lifetime_seconds()), (refresh, settings.refresh_token_days * SECONDS_PER_DAY));
    cookies::set(response.headers_mut(), settings.is_production(), access, refresh);
    response
}

/// The cookie of a trusted device, if the request has one.
pub(super) fn device_cookie(app: &AppState, headers: &HeaderMap) -> Option<SecretString> {
    cookies::find(headers, cookies::device_name(app.platform.settings.is_production())).map(Into::into)
}

async fn is_trusted(
    app: &AppState,
    client: &Client,
    headers: &HeaderMap,
    user: &Authenticated,
) -> Result<bool, domain::Error> {
    let Some(token) = device_cookie(app, headers) else { return Ok(false) };
    devices::is_trusted(&app.platform.db, user.user_id, &token, client.user_agent.as_deref()).await
}
