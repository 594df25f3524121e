//! The second factor: enrolling it, giving it at the sign-in, recovery codes, removing it.

use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use domain::mfa::{self, Holder, devices};
use domain::sessions::{self, Authenticated};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::{self, LoginResponse, SECONDS_PER_DAY};
use crate::envelope::NO_STORE;
use crate::extract::{Client, Json, OptionalJson, Signed, bearer_of, check_text};
use crate::limits::Rate;
use crate::problem::{Problem, Problems, PublicProblems};
use crate::tokens::MfaStage;
use crate::{AppState, cookies, deadline, limits};

/// Guesses a minute from one address.
const PER_ADDRESS: Rate = Rate { most: 5, window: Duration::from_secs(60) };

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(begin_mfa_setup))
        .routes(routes!(verify_mfa_setup))
        .routes(routes!(sign_in_with_mfa))
        .routes(routes!(get_mfa_status))
        .routes(routes!(begin_totp_setup))
        .routes(routes!(verify_totp_setup))
        .routes(routes!(remove_mfa))
        .routes(routes!(regenerate_recovery_codes))
        .routes(routes!(count_recovery_codes))
}

/// Who enrolls: a signed-in user, or one whose sign-in asks for it first.
struct Enrolling {
    user: Authenticated,
}

impl FromRequestParts<AppState> for Enrolling {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let token = parts.headers.get(AUTHORIZATION).and_then(|header| bearer_of(header));
        if let Some(user) = token.and_then(|token| app.tokens.verify_mfa(token, MfaStage::Setup)) {
            return Ok(Self { user });
        }
        let signed = Signed::from_request_parts(parts, app).await?;
        Ok(Self { user: owner_of(app, &signed).await? })
    }
}

/// A secret for an authenticator app; shown once.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "qr_code_uri": "otpauth://totp/Bifrost:ada%40example.com?secret=…",
    "provisioning_uri": "otpauth://totp/Bifrost:ada%40example.com?secret=…", "issuer": "Bifrost",
    "account_name": "ada@example.com",
}))]
struct MFASetupResponse {
    /// Base32, to be typed.
    secret: String,
    /// To be shown as a QR code; the same as `provisioning_uri`.
    qr_code_uri: String,
    provisioning_uri: String,
    issuer: &'static str,
    account_name: String,
}

/// A one-time code.
#[derive(Debug, Deserialize, ToSchema)]
struct MFACode {
    /// Six digits of the authenticator app.
    #[schema(pattern = "^\\d{6}$", example = "492039")]
    code: String,
}

/// An enrolment that ended well.
#[derive(Serialize, ToSchema)]
struct MFAEnrollVerifyResponse {
    success: bool,
    /// Each replaces a code once. They are shown here and never again.
    recovery_codes: Vec<String>,
    access_token: String,
    refresh_token: String,
    #[schema(example = "bearer")]
    token_type: &'static str,
}

/// An enrolment that ended well.
#[derive(Serialize, ToSchema)]
struct MFAVerifyResponse {
    success: bool,
    /// Each replaces a code once. They are shown here and never again.
    recovery_codes: Option<Vec<String>>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    #[schema(example = "bearer")]
    token_type: &'static str,
}

/// A second factor for a sign-in.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"mfa_token": "eyJhbGciOi…", "code": "492039", "trust_device": true, "device_name": "Ada's laptop"}))]
struct MFALogin {
    /// From the answer to the password.
    #[schema(value_type = String)]
    mfa_token: SecretString,
    /// Six digits, or a recovery code (`ABCD-2345`).
    code: String,
    /// Do without a code on this device for 30 days.
    #[serde(default)]
    trust_device: bool,
    /// What to call it in the list of trusted devices.
    device_name: Option<String>,
}

/// What is enrolled.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "mfa_enabled": true, "mfa_required": false, "enforcement_deadline": null, "enrolled_methods": ["totp"],
    "recovery_codes_remaining": 9,
}))]
struct MFAStatusResponse {
    mfa_enabled: bool,
    /// Whether this installation asks everybody for one.
    mfa_required: bool,
    enforcement_deadline: Option<String>,
    enrolled_methods: Vec<&'static str>,
    recovery_codes_remaining: i64,
}

/// One of the two proves that it is really the owner who removes it.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct MFARemoveRequest {
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// A one-time code or a recovery code.
    mfa_code: Option<String>,
}

/// What was done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    #[schema(example = "MFA removed")]
    pub(super) message: &'static str,
}

/// A one-time code for new recovery codes.
#[derive(Debug, Deserialize, ToSchema)]
struct RegenerateRecoveryCodesRequest {
    /// Six digits of the authenticator app.
    #[schema(pattern = "^\\d{6}$", example = "492039")]
    mfa_code: String,
}

/// New recovery codes; shown once.
#[derive(Serialize, ToSchema)]
struct RecoveryCodesResponse {
    recovery_codes: Vec<String>,
    count: usize,
}

/// How many recovery codes there are.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"total": 10, "remaining": 9}))]
struct RecoveryCodesCountResponse {
    total: i64,
    remaining: i64,
}

/// Begins the enrolment of an authenticator app.
///
/// With the `mfa_token` of a sign-in that asks for it as bearer, or signed in. Replaces an enrolment that was begun and
/// not ended.
#[utoipa::path(
    post, path = "/auth/mfa/setup", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = MFASetupResponse), (status = 400, description = "One is enrolled already."), Problems),
)]
async fn begin_mfa_setup(
    State(app): State<AppState>,
    client: Client,
    enrolling: Enrolling,
) -> Result<Response, Problem> {
    begin(&app, &client, enrolling.user).await
}

/// Ends the enrolment by its first code, and signs in.
///
/// The recovery codes are shown once. At most five guesses a minute per address, ten per account.
#[utoipa::path(
    post, path = "/auth/mfa/verify", tag = "auth", security(("bearer" = [])), request_body = MFACode,
    responses((status = 200, body = MFAEnrollVerifyResponse), (status = 400, description = "A wrong code, or nothing was begun."), Problems),
)]
async fn verify_mfa_setup(
    State(app): State<AppState>,
    client: Client,
    enrolling: Enrolling,
    Json(given): Json<MFACode>,
) -> Result<Response, Problem> {
    let user = &enrolling.user;
    count_guess(&app, &client, &user.email).await?;
    let (db, vault, days) = (&app.platform.db, &app.platform.vault, app.platform.settings.refresh_token_days);
    let (user_agent, request_id) = (client.user_agent.as_deref(), client.request_id.as_deref());
    let (recovery_codes, started) =
        mfa::activate_and_start(db, vault, user, &given.code, days, user_agent, request_id).await?;
    let token = admit::tokens_of(&app, &started);
    let (access, refresh) = (token.access_token.clone(), token.refresh_token.clone());
    let answer = MFAEnrollVerifyResponse {
        success: true,
        recovery_codes: shown(&recovery_codes),
        access_token: token.access_token,
        refresh_token: token.refresh_token,
        token_type: token.token_type,
    };
    Ok(admit::with_cookies(&app, &access, &refresh, Json(answer)))
}

/// Signs in with the second factor.
///
/// A code is good once, and so is a recovery code. At most five guesses a minute per address, ten per account.
#[utoipa::path(
    post, path = "/auth/mfa/login", tag = "auth", request_body = MFALogin,
    responses((status = 200, body = LoginResponse), (status = 401, description = "A wrong code, or a token that expired."), PublicProblems),
)]
async fn sign_in_with_mfa(
    State(app): State<AppState>,
    client: Client,
    Json(given): Json<MFALogin>,
) -> Result<Response, Problem> {
    limits::by_address_at(&app, "mfa", client.address, PER_ADDRESS).await?;
    check_text("/device_name", given.device_name.as_deref().unwrap_or_default())?;
    let user = app.tokens.verify_mfa(given.mfa_token.expose_secret(), MfaStage::Login);
    let user = user.ok_or_else(|| {
        Problem::new(StatusCode::UNAUTHORIZED).detail("The sign-in expired, begin again with the password")
    })?;
    limits::by_account(&app, "mfa", &user.email).await?;
    let (db, vault) = (&app.platform.db, &app.platform.vault);
    let holder = holder(&user, &client);
    if !mfa::prove(db, vault, holder, &given.code).await? {
        return Err(wrong_code());
    }
    let mut response = admit::admit_fully(&app, &client, &user).await?;
    if given.trust_device {
        let name = given.device_name.as_deref();
        let token = devices::trust(db, holder, client.user_agent.as_deref(), name).await?;
        let production = app.platform.settings.is_production();
        let seconds = devices::LIFETIME_DAYS * SECONDS_PER_DAY;
        cookies::set_device(response.headers_mut(), production, token.expose_secret(), seconds);
    }
    Ok(response)
}

/// What the caller has enrolled.
///
/// `mfa_required` says whether this installation asks everybody for a second factor.
#[utoipa::path(
    get, path = "/auth/mfa/status", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = MFAStatusResponse), Problems),
)]
async fn get_mfa_status(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<MFAStatusResponse>, Problem> {
    let status = mfa::status(&app.platform.db, signed.principal.user_id).await?;
    Ok(Json(MFAStatusResponse {
        mfa_enabled: status.enabled,
        mfa_required: app.platform.settings.mfa_is_required(),
        enforcement_deadline: None,
        enrolled_methods: if status.enabled { vec!["totp"] } else { Vec::new() },
        recovery_codes_remaining: status.recovery_codes_left,
    }))
}

/// Begins the enrolment of an authenticator app, signed in.
///
/// Replaces an enrolment that was begun and not ended.
#[utoipa::path(
    post, path = "/auth/mfa/totp/setup", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = MFASetupResponse), (status = 400, description = "One is enrolled already."), Problems),
)]
async fn begin_totp_setup(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
) -> Result<Response, Problem> {
    begin(&app, &client, owner_of(&app, &signed).await?).await
}

/// Ends the enrolment by its first code, signed in.
///
/// The recovery codes are shown once; the session goes on. At most five guesses a minute per address, ten per account.
#[utoipa::path(
    post, path = "/auth/mfa/totp/verify", tag = "auth", security(("bearer" = [])), request_body = MFACode,
    responses((status = 200, body = MFAVerifyResponse), (status = 400, description = "A wrong code, or nothing was begun."), Problems),
)]
async fn verify_totp_setup(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
    Json(given): Json<MFACode>,
) -> Result<Response, Problem> {
    check_code("/code", &given.code)?;
    let user = owner_of(&app, &signed).await?;
    count_guess(&app, &client, &user.email).await?;
    let (db, vault) = (&app.platform.db, &app.platform.vault);
    let recovery_codes =
        mfa::activate(db, vault, holder(&user, &client), user.credentials_version, &given.code).await?;
    let answer = MFAVerifyResponse {
        success: true,
        recovery_codes: Some(shown(&recovery_codes)),
        access_token: None,
        refresh_token: None,
        token_type: "bearer",
    };
    Ok((NO_STORE, Json(answer)).into_response())
}

/// Removes the second factor.
///
/// Recovery codes and trusted devices go with it. The password or a code proves that it is the owner. At most five guesses a
/// minute per address, ten per account.
#[utoipa::path(
    delete, path = "/auth/mfa", tag = "auth", security(("bearer" = [])), request_body = Option<MFARemoveRequest>,
    responses((status = 200, body = Done), (status = 400, description = "Neither password nor code."), Problems),
)]
async fn remove_mfa(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
    OptionalJson(given): OptionalJson<MFARemoveRequest>,
) -> Result<Response, Problem> {
    let given = given.unwrap_or_default();
    let holder = holder_of(&signed, &client);
    let db = &app.platform.db;
    count_guess(&app, &client, holder.email).await?;
    let refused = match &given.password {
        Some(_) => Problem::new(StatusCode::UNAUTHORIZED).detail("Invalid password"),
        None => wrong_code(),
    };
    let proven = match (given.password, given.mfa_code) {
        (Some(password), _) => {
            match sessions::authenticate(db, holder.email, password, false, holder.request_id).await {
                Ok(_) => true,
                Err(domain::Error::Unauthenticated) => false,
                Err(other) => return Err(other.into()),
            }
        }
        (None, Some(code)) => mfa::prove(db, &app.platform.vault, holder, &code).await?,
        (None, None) => {
            let text = "the password or a code is needed to remove the second factor";
            return Err(Problem::new(StatusCode::BAD_REQUEST).detail(text));
        }
    };
    if !proven {
        return Err(refused);
    }
    mfa::remove(db, holder).await?;
    let mut response = Json(Done { message: "MFA removed" }).into_response();
    cookies::set_device(response.headers_mut(), app.platform.settings.is_production(), "", 0);
    Ok(response)
}

/// Replaces the recovery codes.
///
/// Needs a current one-time code. The old ones are dead from then on; the new ones are shown once. At most five guesses a minute
/// per address, ten per account.
#[utoipa::path(
    post, path = "/auth/mfa/recovery-codes/regenerate", tag = "auth", security(("bearer" = [])),
    request_body = RegenerateRecoveryCodesRequest,
    responses((status = 200, body = RecoveryCodesResponse), Problems),
)]
async fn regenerate_recovery_codes(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
    Json(given): Json<RegenerateRecoveryCodesRequest>,
) -> Result<Response, Problem> {
    check_code("/mfa_code", &given.mfa_code)?;
    let holder = holder_of(&signed, &client);
    count_guess(&app, &client, holder.email).await?;
    if !mfa::prove_code(&app.platform.db, &app.platform.vault, holder, &given.mfa_code).await? {
        return Err(wrong_code());
    }
    let recovery_codes = shown(&mfa::regenerate(&app.platform.db, holder).await?);
    let answer = RecoveryCodesResponse { count: recovery_codes.len(), recovery_codes };
    Ok((NO_STORE, Json(answer)).into_response())
}

/// How many recovery codes there are, and how many are left.
///
/// The codes themselves are shown only when they are made.
#[utoipa::path(
    get, path = "/auth/mfa/recovery-codes/count", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = RecoveryCodesCountResponse), Problems),
)]
async fn count_recovery_codes(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<RecoveryCodesCountResponse>, Problem> {
    let status = mfa::status(&app.platform.db, signed.principal.user_id).await?;
    Ok(Json(RecoveryCodesCountResponse {
        total: status.recovery_codes,
        remaining: status.recovery_codes_left,
    }))
}

async fn begin(app: &AppState, client: &Client, user: Authenticated) -> Result<Response, Problem> {
    let (db, vault) = (&app.platform.db, &app.platform.vault);
    let enrolment = mfa::begin(db, vault, holder(&user, client), user.credentials_version).await?;
    let uri = enrolment.uri.expose_secret().to_owned();
    let answer = MFASetupResponse {
        secret: enrolment.secret.expose_secret().to_owned(),
        qr_code_uri: uri.clone(),
        provisioning_uri: uri,
        issuer: mfa::ISSUER,
        account_name: user.email,
    };
    Ok((NO_STORE, Json(answer)).into_response())
}

/// Counts a guess from this address and for this account.
async fn count_guess(app: &AppState, client: &Client, email: &str) -> Result<(), domain::Error> {
    limits::by_address_at(app, "mfa", client.address, PER_ADDRESS).await?;
    limits::by_account(app, "mfa", email).await
}

/// Refuses what is no one-time code, and so no guess either.
fn check_code(pointer: &str, code: &str) -> Result<(), Problem> {
    let is_code = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
    if is_code { Ok(()) } else { Err(Problem::invalid(pointer, "must be six digits")) }
}

fn shown(codes: &[SecretString]) -> Vec<String> {
    codes.iter().map(|code| code.expose_secret().to_owned()).collect()
}

fn wrong_code() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED).detail("Invalid code")
}

/// Whoever is signed in, as one who may enroll and get a session of it.
///
/// # Errors
/// [`domain::Error::Unauthenticated`] when the session ended a moment ago.
async fn owner_of(app: &AppState, signed: &Signed) -> Result<Authenticated, domain::Error> {
    deadline::in_time(sessions::owner(&app.platform.db, signed.principal.session_id)).await
}

fn holder<'a>(user: &'a Authenticated, client: &'a Client) -> Holder<'a> {
    Holder { user: user.user_id, email: &user.email, request_id: client.request_id.as_deref() }
}

/// The same for whoever is signed in.
pub(super) fn holder_of<'a>(signed: &'a Signed, client: &'a Client) -> Holder<'a> {
    let principal = &signed.principal;
    Holder { user: principal.user_id, email: &principal.email, request_id: client.request_id.as_deref() }
}
