//! SDK keys: what a developer's machine acts with, as its user and with that user's rights of now.
//!
//! The invariant: a key belongs to one user, whom nobody else's request reaches; it is dead as soon as key, user or
//! organization is.

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::api_keys::{self, NewKey};
use crate::audit::{self, Action};
use crate::id::{SdkKeyId, UserId};
use crate::sessions::{self, Principal};
use crate::{Db, Error, OrgTx, Result};

/// What every key begins with, so that scanners of leaked secrets know it.
pub const PREFIX: &str = "bfsk_";
/// Characters of a key that are shown.
const SHOWN: usize = 12;
/// Keys one user may have.
const MOST_KEYS: i64 = 100;

/// A key as it is listed.
#[derive(Debug, Clone)]
pub struct SdkKey {
    /// Id.
    pub id: SdkKeyId,
    /// What its user calls it.
    pub name: String,
    /// Its first characters.
    pub key_prefix: String,
    /// Whether it was not revoked.
    pub is_active: bool,
    /// When it stops to work.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used.
    pub last_used_at: Option<DateTime<Utc>>,
    /// How often.
    pub use_count: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The keys of the actor, newest first.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx) -> Result<Vec<SdkKey>> {
    let user = tx.scope().actor().id;
    Ok(sqlx::query_as!(
        SdkKey,
        r#"SELECT id AS "id: SdkKeyId", name, key_prefix, is_active, expires_at, last_used_at, use_count, created_at
           FROM sdk_keys
           WHERE user_id = $1
           ORDER BY id DESC"#,
        user as _,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Makes a key for the actor. The text of the key is nowhere else than in the answer.
///
/// # Errors
/// [`Error::Impossible`] when the actor has as many as one may have.
pub async fn insert(
    tx: &mut OrgTx,
    name: &str,
    expires_in_days: Option<i32>,
) -> Result<(SdkKey, SecretString)> {
    let user = tx.scope().actor().id;
    let key = NewKey::generate(PREFIX);
    let made = sqlx::query_as!(
        SdkKey,
        r#"INSERT INTO sdk_keys (id, user_id, name, key_hash, key_prefix, expires_at)
           SELECT $1, $2, $3, $4, $5, now() + make_interval(days => $6)
           WHERE (SELECT count(*) FROM sdk_keys WHERE user_id = $2) < $7
           RETURNING id AS "id: SdkKeyId", name, key_prefix, is_active, expires_at, last_used_at, use_count, created_at"#,
        SdkKeyId::generate() as _,
        user as _,
        name,
        key.hash.clone(),
        key.beginning(SHOWN),
        expires_in_days,
        MOST_KEYS,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(|| Error::Impossible(format!("you have {MOST_KEYS} keys; delete one first")))?;
    let details = json!({"name": made.name, "expires_at": made.expires_at});
    audit::record(tx, Action::SdkKeyCreated, format!("sdk_key/{}", made.id), &details).await?;
    Ok((made, key.secret))
}

/// Ends a key of the actor; it stays in the list. Ending one twice changes nothing.
///
/// # Errors
/// [`Error::NotFound`] when the actor has none of this id.
pub async fn revoke(tx: &mut OrgTx, id: SdkKeyId) -> Result<SdkKey> {
    let user = tx.scope().actor().id;
    let key = sqlx::query_as!(
        SdkKey,
        r#"UPDATE sdk_keys
           SET is_active = FALSE
           WHERE id = $1 AND user_id = $2
           RETURNING id AS "id: SdkKeyId", name, key_prefix, is_active, expires_at, last_used_at, use_count, created_at"#,
        id as _,
        user as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("SDK key"))?;
    audit::record(tx, Action::SdkKeyRevoked, format!("sdk_key/{id}"), &()).await?;
    Ok(key)
}

/// Ends all keys of a user of the scope, who is removed or leaves their organization: should they come back, the keys do
/// not.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn revoke_all(tx: &mut OrgTx, user: UserId) -> Result<()> {
    sqlx::query!("UPDATE sdk_keys SET is_active = FALSE WHERE user_id = $1 AND is_active", user as _)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes a key of the actor.
///
/// # Errors
/// [`Error::NotFound`] when the actor has none of this id.
pub async fn delete(tx: &mut OrgTx, id: SdkKeyId) -> Result<()> {
    let user = tx.scope().actor().id;
    let deleted = sqlx::query!("DELETE FROM sdk_keys WHERE id = $1 AND user_id = $2", id as _, user as _)
        .execute(tx.conn())
        .await?
        .rows_affected();
    if deleted == 0 {
        return Err(Error::NotFound("SDK key"));
    }
    audit::record(tx, Action::SdkKeyDeleted, format!("sdk_key/{id}"), &()).await
}

/// Whom a presented key stands for, with the rights of now; its use is counted. `None` for a key that is unknown, revoked
/// or expired, or whose user or organization is inactive.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn authenticate(db: &Db, presented: &str) -> Result<Option<Principal>> {
    let known = presented.starts_with(PREFIX).then(|| api_keys::hash_presented(presented)).flatten();
    let Some(hash) = known else { return Ok(None) };
    let used = {
        let mut conn = db.system(&sessions::BEFORE_SCOPE).await?;
        sqlx::query!(
            r#"UPDATE sdk_keys
               SET last_used_at = now(), use_count = use_count + 1
               WHERE key_hash = $1 AND is_active AND (expires_at IS NULL OR expires_at > now())
               RETURNING id AS "id: Uuid", user_id AS "user_id: UserId""#,
            hash,
        )
        .fetch_optional(&mut *conn)
        .await?
    };
    match used {
        None => Ok(None),
        Some(used) => sessions::find_user(db, used.user_id, used.id.into()).await,
    }
}
