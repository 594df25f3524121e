//! Links that are mailed: to confirm an address, or to set a new password.
//!
//! The invariants: a link is stored as a hash, is good once and for a limited time, and whoever presents it reads that
//! mailbox. Using one of a user's links ends all of them, and so does another address or a password that is set otherwise.
//! Whoever changes both a user and their links takes the user first, so that two of them never wait for each other.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;

use crate::audit::{self, Action};
use crate::id::{SessionId, UserId};
use crate::mail::Mail;
use crate::{Db, Error, Result, SystemScope, SystemTx, opaque, passwords};

const SCOPE: SystemScope = SystemScope::because("whoever follows a mailed link is not signed in");
/// Live links of one user and purpose: so much mail can be caused by whoever knows an address, whatever theirs is.
const MOST: i64 = 3;

/// What a link is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Confirming an e-mail address.
    Verify,
    /// Setting a new password.
    Reset,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Reset => "reset",
        }
    }

    fn lifetime(self) -> Duration {
        match self {
            Self::Verify => Duration::from_secs(24 * 60 * 60),
            Self::Reset => Duration::from_secs(30 * 60),
        }
    }

    fn requested(self) -> Action {
        match self {
            Self::Verify => Action::VerificationRequested,
            Self::Reset => Action::PasswordResetRequested,
        }
    }

    /// The mail with this link, which leads to the web client at `public_url`.
    pub fn mail(self, to: String, token: &SecretString, public_url: &str) -> Mail {
        let page = match self {
            Self::Verify => "verify-email",
            Self::Reset => "reset-password",
        };
        let (subject, text) = match self {
            Self::Verify => (
                "Confirm your e-mail address",
                "An account at Bifrost was registered with this e-mail address.\n\nIf that was you, confirm the address \
                 within 24 hours:\n\n{link}\n\nIf it was not you, do nothing: without this link the account cannot be \
                 used, and you can register yourself at any time.\n",
            ),
            Self::Reset => (
                "Set a new password",
                "A new password was asked for at Bifrost, for the account with this e-mail address.\n\nSet it within 30 \
                 minutes:\n\n{link}\n\nIf you did not ask for it, do nothing: your password stays as it is.\n",
            ),
        };
        let link = format!("{}/{page}?token={}", public_url.trim_end_matches('/'), token.expose_secret());
        Mail { to, subject, text, link: link.into() }
    }
}

/// Makes a link for the account with this address, if there is one that can use it.
///
/// None is made for an unknown or inactive account, for one that has enough live links, or to confirm what is confirmed.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn request(
    db: &Db,
    purpose: Purpose,
    email: &str,
    request_id: Option<&str>,
) -> Result<Option<(String, SecretString)>> {
    let email = email.trim().to_lowercase();
    let mut tx = db.begin_system(&SCOPE).await?;
    let user = sqlx::query!(
        r#"SELECT u.id AS "id: UserId"
           FROM users u
           LEFT JOIN organizations o ON o.id = u.organization_id
           WHERE u.email = $1 AND u.user_type <> 'SYSTEM' AND u.is_active AND COALESCE(o.is_active, TRUE)
             AND ($2 = 'reset' OR (u.is_registered AND NOT u.is_verified))
             AND (SELECT count(*) FROM account_links l
                  WHERE l.user_id = u.id AND l.purpose = $2 AND l.expires_at > now()) < $3
           FOR UPDATE OF u"#,
        email,
        purpose.as_str(),
        MOST,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(user) = user else { return Ok(None) };
    let token = insert(&mut tx, purpose, user.id).await?;
    audit::record_system(&mut tx, purpose.requested(), &email, user.id, request_id).await?;
    tx.commit().await?;
    Ok(Some((email, token)))
}

/// Adds a link in the caller's transaction.
pub(super) async fn insert(tx: &mut SystemTx, purpose: Purpose, user: UserId) -> Result<SecretString> {
    let token = opaque::generate();
    sqlx::query!(
        "WITH expired AS (DELETE FROM account_links WHERE expires_at <= now())
         INSERT INTO account_links (token_hash, user_id, purpose, expires_at)
         VALUES ($1, $2, $3, now() + make_interval(secs => $4))",
        opaque::hash(token.expose_secret()),
        user as _,
        purpose.as_str(),
        purpose.lifetime().as_secs_f64(),
    )
    .execute(tx.conn())
    .await?;
    Ok(token)
}

/// Confirms the address that a link was mailed to.
///
/// # Errors
/// [`Error::Impossible`] for an unknown, used or expired link.
pub async fn verify(db: &Db, token: &SecretString, request_id: Option<&str>) -> Result<()> {
    let mut tx = db.begin_system(&SCOPE).await?;
    let user = spend(&mut tx, Purpose::Verify, token).await?;
    let email = sqlx::query_scalar!(
        "UPDATE users SET is_verified = TRUE, updated_at = now() WHERE id = $1 AND is_active RETURNING email",
        user as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(unusable)?;
    audit::record_system(&mut tx, Action::EmailVerified, &email, user, request_id).await?;
    tx.commit().await
}

/// Sets the password of the account that a link was mailed to. That proves the address, completes an invitation, and
/// ends all sessions: which they were. Where nobody had proved the address, whatever else led into the account ends too:
/// it may be anybody's who knew it.
///
/// # Errors
/// [`Error::Invalid`] for a weak password, which leaves the link good; [`Error::Impossible`] for an unknown, used or
/// expired link.
pub async fn reset(
    db: &Db,
    token: &SecretString,
    password: SecretString,
    production: bool,
    request_id: Option<&str>,
) -> Result<Vec<SessionId>> {
    passwords::check_strength(&password, production)?;
    let hash = passwords::hash(password).await?;
    let mut tx = db.begin_system(&SCOPE).await?;
    let user = spend(&mut tx, Purpose::Reset, token).await?;
    let was_proven = sqlx::query_scalar!("SELECT is_verified FROM users WHERE id = $1", user as _)
        .fetch_one(tx.conn())
        .await?;
    if !was_proven {
        super::forget_unproven(&mut tx, user).await?;
    }
    let email = sqlx::query_scalar!(
        "UPDATE users
         SET password_hash = $2, credentials_version = credentials_version + 1, is_verified = TRUE,
             is_registered = TRUE, updated_at = now()
         WHERE id = $1 AND is_active
         RETURNING email",
        user as _,
        hash,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(unusable)?;
    let ended = sqlx::query_scalar!(
        r#"UPDATE sessions
           SET revoked_at = now(), revoked_reason = 'password reset'
           WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
           RETURNING id AS "id: SessionId""#,
        user as _,
    )
    .fetch_all(tx.conn())
    .await?;
    audit::record_system(&mut tx, Action::PasswordReset, &email, user, request_id).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Uses a link up, and with it all other links of the same user.
async fn spend(tx: &mut SystemTx, purpose: Purpose, token: &SecretString) -> Result<UserId> {
    let spent = sqlx::query_scalar!(
        r#"WITH owner AS (
               SELECT u.id
               FROM account_links l
               JOIN users u ON u.id = l.user_id
               WHERE l.token_hash = $1
               FOR UPDATE OF u
           )
           DELETE FROM account_links l
           USING owner
           WHERE l.token_hash = $1 AND l.purpose = $2 AND l.expires_at > now() AND l.user_id = owner.id
           RETURNING l.user_id AS "user_id: UserId""#,
        opaque::hash(token.expose_secret()),
        purpose.as_str(),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(unusable)?;
    forget(tx.conn(), spent).await?;
    Ok(spent)
}

/// Ends all links of a user.
pub(super) async fn forget(conn: &mut PgConnection, user: UserId) -> Result<()> {
    sqlx::query!("DELETE FROM account_links WHERE user_id = $1", user as _).execute(conn).await?;
    Ok(())
}

fn unusable() -> Error {
    Error::Impossible("this link is unknown, was used, or has expired; ask for a new one".into())
}
