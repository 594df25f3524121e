//! The lock of bulk uploads: one administrator at a time fills the workspace with many files.
//!
//! It is advisory, between clients: single saves of the editor are guarded by their etags and do not ask for it. The
//! invariant: a lock is a lease, so that a browser that was closed blocks nobody for longer than five minutes.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::audit::{self, Action};
use crate::id::UserId;
use crate::{Error, OrgTx, Result};

/// The lock, held.
#[derive(Debug, Clone)]
pub struct Held {
    /// Who holds it.
    pub owner_user_id: UserId,
    /// E-mail address of the holder.
    pub owner_email: String,
    /// What it is held for.
    pub operation: String,
    /// Since when.
    pub locked_at: DateTime<Utc>,
    /// Until when, unless the holder takes it again.
    pub expires_at: DateTime<Utc>,
}

/// Who holds it. Needs a scope of the whole platform, as everything here.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn find(tx: &mut OrgTx) -> Result<Option<Held>> {
    Ok(sqlx::query_as!(
        Held,
        r#"SELECT owner_user_id AS "owner_user_id: UserId", owner_email, operation, locked_at, expires_at
           FROM upload_locks
           WHERE expires_at > now()"#,
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Takes it for the actor for five minutes, or holds it for five minutes more.
///
/// # Errors
/// [`Error::Conflict`] when somebody else holds it.
pub async fn take(tx: &mut OrgTx, operation: &str) -> Result<Held> {
    let actor = tx.scope().actor().clone();
    let taken = sqlx::query_as!(
        Held,
        r#"INSERT INTO upload_locks AS held (name, owner_user_id, owner_email, operation, expires_at)
           VALUES ('upload', $1, $2, $3, now() + interval '5 minutes')
           ON CONFLICT (name) DO UPDATE
           SET owner_user_id = EXCLUDED.owner_user_id, owner_email = EXCLUDED.owner_email, operation = EXCLUDED.operation,
               locked_at = CASE WHEN held.owner_user_id = EXCLUDED.owner_user_id AND held.expires_at > now()
                   THEN held.locked_at ELSE now() END,
               expires_at = EXCLUDED.expires_at
           WHERE held.owner_user_id = EXCLUDED.owner_user_id OR held.expires_at <= now()
           RETURNING owner_user_id AS "owner_user_id: UserId", owner_email, operation, locked_at, expires_at"#,
        actor.id as _,
        actor.email,
        operation,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(taken) = taken else {
        return Err(Error::Conflict(
            "somebody else uploads many files at the moment; see who holds the lock".into(),
        ));
    };
    let details = json!({"operation": taken.operation, "expires_at": taken.expires_at});
    audit::record(tx, Action::UploadLockTaken, "lock/upload", &details).await?;
    Ok(taken)
}

/// Releases it, whoever holds it.
///
/// # Errors
/// [`Error::NotFound`] when it is free.
pub async fn release(tx: &mut OrgTx) -> Result<()> {
    let released = sqlx::query!("DELETE FROM upload_locks WHERE expires_at > now() RETURNING owner_email")
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("upload lock"))?;
    let details = json!({"owner_email": released.owner_email});
    audit::record(tx, Action::UploadLockReleased, "lock/upload", &details).await
}
