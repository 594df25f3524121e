//! The development user: an administrator with a known password, and the session that requests without a credential act in.
//!
//! Both are for development alone; whether they are allowed is decided by whoever starts the process.

use super::{User, insert, valid_email};
use crate::audit::{self, Action};
use crate::sessions::{self, Authenticated, Started};
use crate::settings::Settings;
use crate::{Db, Result, SystemScope, passwords};

const SCOPE: SystemScope = SystemScope::because("the development user is made before anybody signs in");

/// Makes the development user unless somebody has that e-mail address.
///
/// # Errors
/// [`crate::Error::Invalid`] for an address that is none, [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn ensure(db: &Db, settings: &Settings) -> Result<Option<User>> {
    let email = valid_email(&settings.dev_user_email)?;
    let hash = passwords::hash(settings.dev_user_password.clone()).await?;
    let mut tx = db.begin_system(&SCOPE).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.register'))").execute(tx.conn()).await?;
    let known =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM users WHERE email = $1) AS "known!""#, email)
            .fetch_one(tx.conn())
            .await?;
    if known {
        return Ok(None);
    }
    let user = insert(&mut tx, None, &email, None, &hash, true).await?;
    audit::record_system(&mut tx, Action::UserRegistered, &email, user.id, None).await?;
    tx.commit().await?;
    Ok(Some(user))
}

/// Starts a session of the development user, who proves nothing.
///
/// # Errors
/// [`crate::Error::Unauthenticated`] when there is no such user, or not an active one.
pub async fn sign_in(db: &Db, settings: &Settings) -> Result<Started> {
    let email = valid_email(&settings.dev_user_email)?;
    let user = {
        let mut conn = db.system(&SCOPE).await?;
        sqlx::query_as!(
            Authenticated,
            r#"SELECT id AS "user_id: crate::id::UserId", email, credentials_version
               FROM users
               WHERE email = $1 AND is_active AND is_registered"#,
            email,
        )
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(crate::Error::Unauthenticated)?
    };
    sessions::start(db, &user, settings.refresh_token_days, Some("development bypass"), None).await
}
