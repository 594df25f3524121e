//! Proving an e-mail address by a mailed link: to confirm it, or to set a new password.
//!
//! The invariant: an answer tells neither by text nor by time whether there is such an account. Looking it up, making
//! the link and mailing it all happen behind the answer.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use domain::users::links::{self, Purpose};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Client, Json, check_text};
use crate::limits::Rate;
use crate::problem::{Problem, PublicProblems};
use crate::{AppState, limits};

/// Of each of these operations, from one address.
const RATE: Rate = Rate { most: 3, window: Duration::from_secs(300) };

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(forgot_password))
        .routes(routes!(reset_password))
        .routes(routes!(request_verify_token))
        .routes(routes!(verify_email))
}

/// Whom to write to.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"email": "ada@example.com"}))]
struct Address {
    #[schema(format = "email")]
    email: String,
}

/// A mailed link, and the new password.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"token": "3q2-7wAAzV0…", "password": "correct horse battery"}))]
struct PasswordReset {
    /// What follows `token=` in the link.
    #[schema(value_type = String)]
    token: SecretString,
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// A mailed link.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"token": "3q2-7wAAzV0…"}))]
struct Verification {
    /// What follows `token=` in the link.
    #[schema(value_type = String)]
    token: SecretString,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
struct Done {
    #[schema(example = "If there is such an account, a link was mailed to it.")]
    message: &'static str,
}

/// Mails a link to set a new password.
///
/// The answer is the same whether there is such an account or not. The link is good once, for 30 minutes. At most three
/// in five minutes per address.
#[utoipa::path(
    post, path = "/auth/forgot-password", tag = "auth", request_body = Address,
    responses((status = 202, body = Done), PublicProblems),
)]
async fn forgot_password(
    State(app): State<AppState>,
    client: Client,
    Json(given): Json<Address>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    mail_link(&app, client, Purpose::Reset, given).await
}

/// Mails a link to confirm an e-mail address.
///
/// The answer is the same whether there is such an account or not, and whether it is confirmed already. The link is good
/// once, for 24 hours. At most three in five minutes per address.
#[utoipa::path(
    post, path = "/auth/request-verify-token", tag = "auth", request_body = Address,
    responses((status = 202, body = Done), PublicProblems),
)]
async fn request_verify_token(
    State(app): State<AppState>,
    client: Client,
    Json(given): Json<Address>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    mail_link(&app, client, Purpose::Verify, given).await
}

/// Sets a new password by a mailed link.
///
/// That confirms the e-mail address too, and ends all sessions of the account.
#[utoipa::path(
    post, path = "/auth/reset-password", tag = "auth", request_body = PasswordReset,
    responses((status = 200, body = Done), PublicProblems),
)]
async fn reset_password(
    State(app): State<AppState>,
    client: Client,
    Json(given): Json<PasswordReset>,
) -> Result<Json<Done>, Problem> {
    limits::by_address_at(&app, "reset-password", client.address, RATE).await?;
    let production = app.platform.settings.is_production();
    let request_id = client.request_id.as_deref();
    let ended = links::reset(&app.platform.db, &given.token, given.password, production, request_id).await?;
    for session in ended {
        app.forget_session(session).await;
    }
    Ok(Json(Done { message: "The password was set; sign in with it." }))
}

/// Confirms an e-mail address by a mailed link.
///
/// After that its owner can sign in.
#[utoipa::path(
    post, path = "/auth/verify", tag = "auth", request_body = Verification,
    responses((status = 200, body = Done), PublicProblems),
)]
async fn verify_email(
    State(app): State<AppState>,
    client: Client,
    Json(given): Json<Verification>,
) -> Result<Json<Done>, Problem> {
    limits::by_address_at(&app, "verify", client.address, RATE).await?;
    links::verify(&app.platform.db, &given.token, client.request_id.as_deref()).await?;
    Ok(Json(Done { message: "The e-mail address is confirmed." }))
}

async fn mail_link(
    app: &AppState,
    client: Client,
    purpose: Purpose,
    given: Address,
) -> Result<(StatusCode, Json<Done>), Problem> {
    let operation = match purpose {
        Purpose::Reset => "forgot-password",
        Purpose::Verify => "request-verify-token",
    };
    limits::by_address_at(app, operation, client.address, RATE).await?;
    check_text("/email", &given.email)?;
    app.platform.mailer.check()?;
    let (db, settings) = (app.platform.db.clone(), app.platform.settings.clone());
    app.platform.mailer.deliver_later(async move {
        let made = links::request(&db, purpose, &given.email, client.request_id.as_deref()).await?;
        Ok(made.map(|(email, token)| purpose.mail(email, &token, &settings.public_url)))
    });
    let done = Done { message: "If there is such an account, a link was mailed to it." };
    Ok((StatusCode::ACCEPTED, Json(done)))
}
