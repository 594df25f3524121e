//! Users: people of organizations, platform administrators, and the SYSTEM user.
//!
//! E-mails are stored in lower case and are unique over the whole installation.

use chrono::{DateTime, Utc};
use secrecy::SecretString;

use crate::error::OnConstraint;
use crate::id::{OrgId, UserId};
use crate::mail::Mailer;
use crate::{Db, Error, Result, SystemScope, SystemTx, audit, organizations, passwords};

pub mod developer;
pub mod directory;
pub mod links;
pub mod manage;

const REGISTRATION: SystemScope = SystemScope::because("nobody is signed in while an account is made");

/// A user as stored, without the password hash.
#[derive(Debug, Clone)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Organization; `None` for platform administrators.
    pub organization_id: Option<OrgId>,
    /// E-mail address, lower case.
    pub email: String,
    /// Display name.
    pub name: String,
    /// `PLATFORM`, `ORG` or `SYSTEM`.
    pub user_type: String,
    /// Whether the user may sign in.
    pub is_active: bool,
    /// Platform administrator.
    pub is_superuser: bool,
    /// Whether the e-mail address is proven.
    pub is_verified: bool,
    /// Whether the user completed the registration.
    pub is_registered: bool,
    /// Whether a second factor is asked for.
    pub mfa_enabled: bool,
    /// Last sign-in.
    pub last_login: Option<DateTime<Utc>>,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// A registration.
#[derive(Debug)]
pub struct Registration {
    /// E-mail address as typed.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Password as typed.
    pub password: SecretString,
    /// Whether production rules hold.
    pub production: bool,
}

/// An account just registered.
#[derive(Debug)]
pub struct Registered {
    /// The user.
    pub user: User,
    /// Proves the address when it comes back by mail; `None` when there is nothing to prove.
    pub proof: Option<SecretString>,
}

/// Registers an account. The first ever becomes a verified platform administrator; racing first
/// registrations give exactly one. Later a stub is completed, or the e-mail's domain names the organization.
///
/// In production an account whose address nobody has proven may be registered again: whoever came first, without
/// reading that mailbox, has no hold on it. Without mail nobody could ever prove an address, so nothing is registered then that
/// needs it.
///
/// # Errors
/// [`Error::Invalid`] for a bad e-mail or weak password, [`Error::Impossible`] when the e-mail is taken or
/// belongs to no organization, [`Error::Forbidden`] for an invitation that is inactive, or whose organization is, and in
/// production for anybody who was not invited; [`Error::Unavailable`] where the address could not be proven for want of mail.
pub async fn register(
    db: &Db,
    mailer: &Mailer,
    new: Registration,
    request_id: Option<&str>,
) -> Result<Registered> {
    let email = valid_email(&new.email)?;
    passwords::check_strength(&new.password, new.production)?;
    let name = new.name.as_deref().map(manage::valid_name).transpose()?;
    let hash = passwords::hash(new.password).await?;

    let mut tx = db.begin_system(&REGISTRATION).await?;
    // Two racing first users would both find nobody.
    lock_registration(&mut tx).await?;
    let user = if !any(&mut tx).await? {
        insert(&mut tx, None, &email, name.as_deref(), &hash, true).await?
    } else {
        join(&mut tx, &email, name.as_deref(), &hash, new.production).await?
    };
    let proof = match user.is_verified {
        true => None,
        false => {
            mailer.check()?;
            Some(links::insert(&mut tx, links::Purpose::Verify, user.id).await?)
        }
    };
    audit::record_system(&mut tx, audit::Action::UserRegistered, &email, user.id, request_id).await?;
    tx.commit().await?;
    Ok(Registered { user, proof })
}

/// Whether nobody has registered yet.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn needs_setup(db: &Db) -> Result<bool> {
    let mut tx = db.begin_system(&REGISTRATION).await?;
    Ok(!any(&mut tx).await?)
}

/// One user by id.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(db: &Db, id: UserId) -> Result<User> {
    let mut conn = db.system(&SystemScope::because("a session names its user")).await?;
    sqlx::query_as!(
        User,
        r#"SELECT id AS "id: UserId", organization_id AS "organization_id: OrgId", email, name, user_type, is_active,
               is_superuser, is_verified, is_registered, mfa_enabled, last_login, created_at, updated_at
           FROM users
           WHERE id = $1"#,
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Error::NotFound("user"))
}

/// Waits until nobody else makes an account; the end of the transaction lets the next one.
pub(crate) async fn lock_registration(tx: &mut SystemTx) -> Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.register'))").execute(tx.conn()).await?;
    Ok(())
}

/// Takes from an account whose address nobody proved what might lead into it again, and is to be its owner's: logins with
/// providers, SDK keys, the second factor. Password and sessions are the caller's to end.
pub(crate) async fn forget_unproven(tx: &mut SystemTx, user: UserId) -> Result<()> {
    sqlx::query!(
        "WITH logins AS (DELETE FROM provider_logins WHERE user_id = $1),
         keys AS (UPDATE sdk_keys SET is_active = FALSE WHERE user_id = $1 AND is_active)
         -- A trigger takes the second factor.
         UPDATE users SET mfa_enabled = FALSE WHERE id = $1",
        user as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn any(tx: &mut SystemTx) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM users WHERE user_type <> 'SYSTEM') AS "any!""#)
        .fetch_one(tx.conn())
        .await?)
}

async fn insert(
    tx: &mut SystemTx,
    organization: Option<OrgId>,
    email: &str,
    name: Option<&str>,
    hash: &str,
    admin: bool,
) -> Result<User> {
    let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or_default());
    sqlx::query_as!(
        User,
        r#"INSERT INTO users (id, organization_id, email, name, password_hash, user_type, is_superuser, is_verified)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
           RETURNING id AS "id: UserId", organization_id AS "organization_id: OrgId", email, name, user_type, is_active,
               is_superuser, is_verified, is_registered, mfa_enabled, last_login, created_at, updated_at"#,
        UserId::generate() as _,
        organization as _,
        email,
        name,
        hash,
        if admin { "PLATFORM" } else { "ORG" },
        admin,
    )
    .fetch_one(tx.conn())
    .await
    .on_constraint("users_email_key", email_taken)
}

async fn join(
    tx: &mut SystemTx,
    email: &str,
    name: Option<&str>,
    hash: &str,
    production: bool,
) -> Result<User> {
    let known = sqlx::query!(
        // Who has signed in is somebody, also where an address that was changed since is not proven yet.
        r#"SELECT u.id AS "id: UserId", u.is_active AND COALESCE(o.is_active, TRUE) AS "is_active!",
               u.is_registered AND (u.is_verified OR u.last_login IS NOT NULL OR NOT $2) AS "is_taken!"
           FROM users u
           LEFT JOIN organizations o ON o.id = u.organization_id
           WHERE u.email = $1
           FOR UPDATE OF u"#,
        email,
        production,
    )
    .fetch_optional(tx.conn())
    .await?;
    match known {
        Some(user) if user.is_taken => Err(email_taken()),
        // Nobody lets a stranger in by making it active again.
        Some(user) if !user.is_active => Err(Error::Forbidden("this account is inactive".into())),
        Some(user) => {
            links::forget(tx.conn(), user.id).await?;
            forget_unproven(tx, user.id).await?;
            complete_stub(tx, email, name, hash).await
        }
        None if production => {
            Err(Error::Forbidden("registration is by invitation; ask a platform administrator".into()))
        }
        None => {
            let organization = organizations::of_address(tx.conn(), email).await?.ok_or_else(|| {
                let domain = organizations::domain_of(email);
                Error::Impossible(format!("no organization has the domain {domain}"))
            })?;
            insert(tx, Some(organization), email, name, hash, false).await
        }
    }
}

/// Completes the account of somebody invited. The name they were invited by stays unless they give another; their
/// address is not proven yet, since whoever knows it may get here.
async fn complete_stub(tx: &mut SystemTx, email: &str, name: Option<&str>, hash: &str) -> Result<User> {
    Ok(sqlx::query_as!(
        User,
        r#"UPDATE users
           SET is_registered = TRUE, is_verified = FALSE, name = COALESCE($2, name), password_hash = $3,
               credentials_version = credentials_version + 1, updated_at = now()
           WHERE email = $1
           RETURNING id AS "id: UserId", organization_id AS "organization_id: OrgId", email, name, user_type, is_active,
               is_superuser, is_verified, is_registered, mfa_enabled, last_login, created_at, updated_at"#,
        email,
        name,
        hash,
    )
    .fetch_one(tx.conn())
    .await?)
}

fn valid_email(email: &str) -> Result<String> {
    let email = email.trim().to_lowercase();
    let is_one = email.len() <= 320
        && email.matches('@').count() == 1
        && !email.contains(char::is_whitespace)
        // What cannot be written to proves nothing; beyond that the domain must be one that can have an organization.
        && email.parse::<lettre::Address>().is_ok_and(|address| {
            address.domain().len() > 2 && organizations::is_host_name(address.domain())
        });
    if is_one { Ok(email) } else { Err(Error::invalid("/email", "must be an e-mail address")) }
}

fn email_taken() -> Error {
    Error::Impossible("Email already registered".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_can_be_written_to() {
        for email in [
            "ada@acme.example",
            " Ada.L+x@ACME.example",
            "admin@localhost",
            "o'hara@a-b.ch",
            "jürg@zürich.ch",
        ] {
            assert_eq!(valid_email(email).expect(email), email.trim().to_lowercase());
        }
        let long = format!("ada@{}.example", "a".repeat(320));
        for none in [
            "",
            "ada",
            "@acme.example",
            "ada@",
            "a@b",
            "a b@c.de",
            "a@b@c.de",
            "a@b..c",
            "a@.b.c",
            "a@b.c.",
            "a@-b.cd",
            "a@b/c.de",
            "a@b_c.de",
            "<x>@b.cd",
            "a,b@c.de",
            ".a@b.c",
            "a.@b.cd",
            "a..b@c.de",
            "\"a b\"@c.de",
            long.as_str(),
        ] {
            assert!(valid_email(none).is_err(), "{none}");
        }
    }
}
