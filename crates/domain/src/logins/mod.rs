//! Logins with providers: who a person is there, and which account that opens (ADR 29).
//!
//! The invariant: issuer and subject identify. An address leads to an account only when the provider vouches for it, and
//! then once: an account that has a login of this provider is never opened by another one of it, unless nobody had proved
//! its address: then its owner gets the account, and whatever led into it before does so no more.
//!
//! What is said to the provider is in `providers.rs`, what is remembered between the two ends of a sign-in in `flow.rs`.

mod claims;
mod flow;
mod providers;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::{self, Action};
use crate::id::UserId;
use crate::sessions::Authenticated;
use crate::{Db, Error, Result, SystemScope, SystemTx, organizations, users};

pub use flow::Flow;
pub use providers::{Begun, Providers};

const SIGN_IN: SystemScope = SystemScope::because("a sign-in finds its user before it has a scope");
const OWN: SystemScope = SystemScope::because("a login belongs to a user, not to an organization");

/// A login provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Google.
    Google,
    /// Microsoft Entra ID and personal accounts.
    Microsoft,
    /// GitHub or GitHub Enterprise Server.
    Github,
    /// Any other that speaks OpenID Connect.
    Oidc,
}

impl Provider {
    /// The name in addresses and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Microsoft => "microsoft",
            Self::Github => "github",
            Self::Oidc => "oidc",
        }
    }

    /// The name on a button.
    pub const fn display_name(self) -> &'static str {
        match self {
            Self::Google => "Google",
            Self::Microsoft => "Microsoft",
            Self::Github => "GitHub",
            Self::Oidc => "Single sign-on",
        }
    }
}

/// Who somebody proved to be at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The provider.
    pub provider: Provider,
    /// Who vouches.
    pub issuer: String,
    /// Who it is there, for ever.
    pub subject: String,
    /// The address the provider shows, for its owner to recognize.
    pub shown_email: Option<String>,
    /// The address the provider vouches for, in lower case.
    pub verified_email: Option<String>,
    /// Display name.
    pub name: Option<String>,
}

/// A login that is linked to an account.
#[derive(Debug, Clone)]
pub struct Linked {
    /// Name of the provider.
    pub provider: String,
    /// The address there.
    pub email: String,
    /// When it was linked.
    pub linked_at: DateTime<Utc>,
    /// When it last opened the account.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Finds the account that a login opens. The first time a verified address leads to it: to the account that has it, to
/// the one of somebody invited, or to a new one in the organization of its domain.
///
/// # Errors
/// [`Error::Forbidden`] when there is none, it is inactive, or the address is not verified.
pub async fn sign_in(db: &Db, proven: &Proven, request_id: Option<&str>) -> Result<Authenticated> {
    let mut tx = db.begin_system(&SIGN_IN).await?;
    let outcome = match find_linked(&mut tx, proven).await? {
        Some(account) => active(account),
        None => link(&mut tx, proven, request_id).await,
    };
    match outcome {
        Ok(user) => {
            tx.commit().await?;
            Ok(user)
        }
        Err(Error::Forbidden(reason)) => {
            drop(tx);
            let mut tx = db.begin_system(&SIGN_IN).await?;
            let actor = proven.verified_email.as_deref().unwrap_or("somebody unverified");
            audit::record_system(&mut tx, Action::LoginRefused, actor, resource(proven.provider), request_id)
                .await?;
            tx.commit().await?;
            Err(Error::Forbidden(reason))
        }
        Err(other) => Err(other),
    }
}

/// The logins of a user.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(db: &Db, user: UserId) -> Result<Vec<Linked>> {
    let mut conn = db.system(&OWN).await?;
    Ok(sqlx::query_as!(
        Linked,
        "SELECT provider, email, linked_at, last_used_at FROM provider_logins WHERE user_id = $1 ORDER BY provider",
        user as _,
    )
    .fetch_all(&mut *conn)
    .await?)
}

/// Forgets a login of a user, whose e-mail address is `actor`, unless it is the last way in: no password, and no other login that is on
/// offer.
///
/// # Errors
/// [`Error::NotFound`] when there is none, [`Error::Impossible`] when it is the last way in.
pub async fn unlink(
    db: &Db,
    user: UserId,
    actor: &str,
    provider: &str,
    offered: &[Provider],
    request_id: Option<&str>,
) -> Result<()> {
    let mut tx = db.begin_system(&OWN).await?;
    // The lock keeps two of these from each leaving the other as the last way in.
    let has_password = sqlx::query_scalar!(
        r#"SELECT password_hash IS NOT NULL AS "has_password!" FROM users WHERE id = $1 FOR UPDATE"#,
        user as _,
    )
    .fetch_one(tx.conn())
    .await?;
    let logins = sqlx::query_scalar!("SELECT provider FROM provider_logins WHERE user_id = $1", user as _)
        .fetch_all(tx.conn())
        .await?;
    if !logins.iter().any(|login| login == provider) {
        return Err(Error::NotFound("linked login"));
    }
    let is_on_offer = |login: &String| offered.iter().any(|offer| offer.as_str() == login);
    let has_other = logins.iter().any(|login| login != provider && is_on_offer(login));
    if !has_password && !has_other {
        return Err(Error::Impossible("this is the last way into the account; set a password first".into()));
    }
    sqlx::query!("DELETE FROM provider_logins WHERE user_id = $1 AND provider = $2", user as _, provider)
        .execute(tx.conn())
        .await?;
    let (actor, login) = ((user, actor), format!("login/{provider}"));
    audit::record_of_user(&mut tx, Action::LoginUnlinked, actor, login, request_id).await?;
    tx.commit().await
}

/// An account as far as a sign-in looks at it.
struct Account {
    id: UserId,
    email: String,
    is_active: bool,
    credentials_version: i64,
}

fn active(account: Account) -> Result<Authenticated> {
    if !account.is_active {
        return Err(Error::Forbidden("this account is inactive".into()));
    }
    Ok(Authenticated {
        user_id: account.id,
        email: account.email,
        credentials_version: account.credentials_version,
    })
}

async fn find_linked(tx: &mut SystemTx, proven: &Proven) -> Result<Option<Account>> {
    Ok(sqlx::query_as!(
        Account,
        r#"WITH used AS (
               UPDATE provider_logins
               SET last_used_at = now(), email = COALESCE($3, email)
               WHERE issuer = $1 AND subject = $2
               RETURNING user_id)
           SELECT u.id AS "id: UserId", u.email, u.credentials_version,
               u.is_active AND COALESCE(o.is_active, TRUE) AS "is_active!"
           FROM used
           JOIN users u ON u.id = used.user_id
           LEFT JOIN organizations o ON o.id = u.organization_id"#,
        proven.issuer,
        proven.subject,
        proven.shown_email,
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Links a login that was never seen to the account of its verified address.
async fn link(tx: &mut SystemTx, proven: &Proven, request_id: Option<&str>) -> Result<Authenticated> {
    let email = proven.verified_email.as_deref().ok_or_else(|| {
        let name = proven.provider.display_name();
        Error::Forbidden(format!("{name} does not vouch for your e-mail address; verify it there first"))
    })?;
    // As for registrations: of racing sign-ins of one new person one makes the account.
    users::lock_registration(tx).await?;
    if let Some(account) = find_linked(tx, proven).await? {
        return active(account);
    }
    let user = active(account_of(tx, proven, email, request_id).await?)?;
    let linked = sqlx::query!(
        "INSERT INTO provider_logins (id, user_id, provider, issuer, subject, email, last_used_at)
         VALUES ($1, $2, $3, $4, $5, $6, now())
         ON CONFLICT (user_id, provider) DO NOTHING",
        Uuid::now_v7(),
        user.user_id as _,
        proven.provider.as_str(),
        proven.issuer,
        proven.subject,
        proven.shown_email.as_deref().unwrap_or(email),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if linked == 0 {
        // The address came to somebody else there: an account is not theirs because its owner once had it.
        let name = proven.provider.display_name();
        return Err(Error::Forbidden(format!("this account is linked to another login of {name}")));
    }
    let (actor, login) = ((user.user_id, email), resource(proven.provider));
    audit::record_of_user(tx, Action::LoginLinked, actor, login, request_id).await?;
    Ok(user)
}

/// The account of a verified address, made or completed if need be.
async fn account_of(
    tx: &mut SystemTx,
    proven: &Proven,
    email: &str,
    request_id: Option<&str>,
) -> Result<Account> {
    let known = sqlx::query!(
        r#"SELECT u.id AS "id: UserId", u.is_registered, u.is_verified, u.credentials_version,
               u.is_active AND COALESCE(o.is_active, TRUE) AS "is_active!"
           FROM users u
           LEFT JOIN organizations o ON o.id = u.organization_id
           WHERE u.email = $1 AND u.user_type <> 'SYSTEM'
           FOR UPDATE OF u"#,
        email,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(known) = known else { return provision(tx, proven, email, request_id).await };
    let mut account = Account {
        id: known.id,
        email: email.to_owned(),
        is_active: known.is_active,
        credentials_version: known.credentials_version,
    };
    if known.is_active && !(known.is_registered && known.is_verified) {
        account.credentials_version = take_over(tx, account.id, proven.name.as_deref()).await?;
        if !known.is_registered {
            audit::record_system(tx, Action::UserRegistered, email, account.id, request_id).await?;
        }
    }
    Ok(account)
}

/// Hands an account to the proven owner of its address; the version of its credentials from then on. Whoever had
/// registered with the address never proved it, so nothing they could come back with stays: no password, no session, no
/// login with a provider, no SDK key, no second factor.
async fn take_over(tx: &mut SystemTx, user: UserId, name: Option<&str>) -> Result<i64> {
    users::forget_unproven(tx, user).await?;
    Ok(sqlx::query_scalar!(
        "WITH ended AS (
             UPDATE sessions
             SET revoked_at = now(), revoked_reason = 'address proven by another'
             WHERE user_id = $1 AND revoked_at IS NULL)
         UPDATE users
         SET name = CASE WHEN is_registered THEN name ELSE COALESCE($2, name) END, is_registered = TRUE,
             is_verified = TRUE, password_hash = NULL, credentials_version = credentials_version + 1,
             updated_at = now()
         WHERE id = $1
         RETURNING credentials_version",
        user as _,
        name,
    )
    .fetch_one(tx.conn())
    .await?)
}

/// A new account in the organization of the address's domain. The first account of an installation is not made here:
/// it administers the platform, and is registered with a password.
async fn provision(
    tx: &mut SystemTx,
    proven: &Proven,
    email: &str,
    request_id: Option<&str>,
) -> Result<Account> {
    let organization = organizations::of_address(tx.conn(), email).await?.ok_or_else(|| {
        Error::Forbidden(format!("no organization has the domain {}", organizations::domain_of(email)))
    })?;
    let id = UserId::generate();
    let name = proven.name.as_deref().unwrap_or_else(|| email.split('@').next().unwrap_or_default());
    let credentials_version = sqlx::query_scalar!(
        "INSERT INTO users (id, organization_id, email, name, user_type, is_verified)
         VALUES ($1, $2, $3, $4, 'ORG', TRUE)
         RETURNING credentials_version",
        id as _,
        organization as _,
        email,
        name,
    )
    .fetch_one(tx.conn())
    .await?;
    audit::record_system(tx, Action::UserRegistered, email, id, request_id).await?;
    Ok(Account { id, email: email.to_owned(), is_active: true, credentials_version })
}

fn resource(provider: Provider) -> String {
    format!("login/{}", provider.as_str())
}
