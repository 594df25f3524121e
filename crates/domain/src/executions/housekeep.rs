//! Housekeeping: what is kept for a while is removed when its time is over.

use super::history;
use crate::{Db, Result, SystemScope};

/// Most rows of each kind that one transaction removes.
const BATCH: i64 = 10_000;

/// Removes transient executions a day after their end, what is left of data providers whose askers went away, old
/// answers of data providers, announced files that never came, old idempotency keys, old starts, workers that could not take leave,
/// notifications past their time, dead sessions, and after 90 days system events and the history of schedules.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn housekeep(db: &Db) -> Result<()> {
    while remove_some(db).await? {}
    Ok(())
}

/// Removes a batch of each kind; whether there may be more of any.
async fn remove_some(db: &Db) -> Result<bool> {
    let mut tx = db.begin_system(&SystemScope::because("housekeeping serves every organization")).await?;
    let gone = sqlx::query_scalar!(
        "DELETE FROM executions
         WHERE id = ANY (ARRAY(SELECT id FROM executions
                               WHERE transient AND completed_at < now() - interval '1 day' LIMIT $1)
                      || ARRAY(SELECT id FROM executions
                               WHERE kind = 'data_provider' AND created_at < now() - interval '10 minutes' LIMIT $1))
         RETURNING id",
        BATCH,
    )
    .fetch_all(tx.conn())
    .await?;
    history::remove_lines(tx.conn(), &gone).await?;
    sqlx::query!("DELETE FROM workers WHERE seen_at < now() - interval '1 hour'").execute(tx.conn()).await?;
    let removed = [
        gone.len() as u64,
        sqlx::query!(
            "DELETE FROM provider_answers
             WHERE ctid IN (SELECT ctid FROM provider_answers
                            WHERE expires_at < now() OR (expires_at IS NULL AND created_at < now() - interval '10 minutes') LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM uploads
             WHERE id IN (SELECT id FROM uploads WHERE received_at IS NULL AND expires_at < now() - interval '1 hour' LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM idempotency_keys
             WHERE ctid IN (SELECT ctid FROM idempotency_keys WHERE created_at < now() - interval '1 day' LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM sessions
             WHERE id IN (SELECT id FROM sessions WHERE expires_at < now() - interval '7 days' LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM schedule_fires
             WHERE ctid IN (SELECT ctid FROM schedule_fires WHERE decided_at < now() - interval '90 days' LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM notifications
             WHERE id IN (SELECT id FROM notifications WHERE expires_at < now() LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM system_events
             WHERE id IN (SELECT id FROM system_events WHERE created_at < now() - interval '90 days' LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        sqlx::query!(
            "DELETE FROM workflow_starts
             WHERE ctid IN (SELECT ctid FROM workflow_starts WHERE started_at < now() - interval '1 day' LIMIT $1)",
            BATCH,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
    ];
    tx.commit().await?;
    Ok(removed.into_iter().any(|count| count >= BATCH as u64))
}
