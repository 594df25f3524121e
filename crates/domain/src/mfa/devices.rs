//! Trusted devices: browsers that proved the second factor and need not do so again for a month.
//!
//! A device is known by a random cookie, of which the hash is stored, together with the name its browser goes by: the
//! cookie alone, taken elsewhere, is not enough to be told apart only by chance.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{Holder, SCOPE, record};
use crate::audit::Action;
use crate::id::UserId;
use crate::{Db, Error, Result, opaque};

/// Days a device is trusted for.
pub const LIFETIME_DAYS: i64 = 30;
/// Devices of one user; the oldest is forgotten for a new one.
const MOST: i64 = 20;
const LONGEST_NAME: usize = 100;

/// A trusted device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Id.
    pub id: Uuid,
    /// What its owner or its browser calls it.
    pub name: Option<String>,
    /// When it was first trusted.
    pub created_at: DateTime<Utc>,
    /// When it last did without a code.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When the trust ends.
    pub expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    pub is_current: bool,
}

/// Trusts a device; gives its cookie, of which only the hash is stored.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn trust(
    db: &Db,
    holder: Holder<'_>,
    user_agent: Option<&str>,
    name: Option<&str>,
) -> Result<SecretString> {
    let token = opaque::generate();
    let name = name.or(user_agent).map(|name| name.chars().take(LONGEST_NAME).collect::<String>());
    let mut tx = db.begin_system(&SCOPE).await?;
    sqlx::query!(
        "WITH forgotten AS (
             DELETE FROM trusted_devices
             WHERE user_id = $2 AND (expires_at <= now() OR id IN (
                 SELECT id FROM trusted_devices WHERE user_id = $2 ORDER BY created_at DESC OFFSET $7))
         )
         INSERT INTO trusted_devices (id, user_id, token_hash, user_agent, name, expires_at)
         VALUES ($1, $2, $3, $4, $5, now() + make_interval(days => $6))",
        Uuid::now_v7(),
        holder.user as _,
        opaque::hash(token.expose_secret()),
        user_agent.unwrap_or_default(),
        name,
        i32::try_from(LIFETIME_DAYS).expect("a month"),
        MOST - 1,
    )
    .execute(tx.conn())
    .await?;
    record(&mut tx, Action::DeviceTrusted, holder).await?;
    tx.commit().await?;
    Ok(token)
}

/// Whether this user trusts the device with this cookie, which goes by that name.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn is_trusted(
    db: &Db,
    user: UserId,
    token: &SecretString,
    user_agent: Option<&str>,
) -> Result<bool> {
    let mut conn = db.system(&SCOPE).await?;
    let used = sqlx::query!(
        "UPDATE trusted_devices
         SET last_used_at = now()
         WHERE token_hash = $1 AND user_id = $2 AND user_agent = $3 AND expires_at > now()",
        opaque::hash(token.expose_secret()),
        user as _,
        user_agent.unwrap_or_default(),
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    Ok(used > 0)
}

/// The devices a user trusts, the newest first; `current` is the cookie of the one that asks.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(db: &Db, user: UserId, current: Option<&SecretString>) -> Result<Vec<Device>> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_as!(
        Device,
        r#"SELECT id, name, created_at, last_used_at, expires_at, COALESCE(token_hash = $2, FALSE) AS "is_current!"
           FROM trusted_devices
           WHERE user_id = $1 AND expires_at > now()
           ORDER BY created_at DESC, id"#,
        user as _,
        current.map(|token| opaque::hash(token.expose_secret())),
    )
    .fetch_all(&mut *conn)
    .await?)
}

/// Forgets one device, or all of a user's; how many there were.
///
/// # Errors
/// [`Error::NotFound`] for a device that is not this user's.
pub async fn forget(db: &Db, holder: Holder<'_>, device: Option<Uuid>) -> Result<u64> {
    let mut tx = db.begin_system(&SCOPE).await?;
    let forgotten = sqlx::query!(
        "DELETE FROM trusted_devices WHERE user_id = $1 AND ($2::uuid IS NULL OR id = $2)",
        holder.user as _,
        device,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if forgotten == 0 && device.is_some() {
        return Err(Error::NotFound("trusted device"));
    }
    record(&mut tx, Action::DeviceForgotten, holder).await?;
    tx.commit().await?;
    Ok(forgotten)
}
