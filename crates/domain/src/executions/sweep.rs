//! Sweep: wake-ups for due rows that the queue no longer knows of (a crash between commit and publish, a
//! broker that was away or lost its messages, a retry whose pause is over).

use chrono::{DateTime, Utc};

use crate::id::{ExecutionId, OrgId};
use crate::wakeup::{Wakeup, Wakeups};
use crate::{Db, Result, SystemScope};

/// Most wake-ups one tick publishes.
const BATCH: i64 = 1_000;

/// Publishes a wake-up for each due row beyond those that wait in the queue; returns how many.
///
/// A wake-up does not name what must run, so it is enough that the queue holds as many as rows wait. Rows
/// younger than `grace_seconds` are left to the publisher that is still at it.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL or the broker is away.
pub async fn sweep(db: &Db, wakeups: &Wakeups, grace_seconds: f64) -> Result<usize> {
    let mut tx = db.begin_system(&SystemScope::because("the sweeper serves every organization")).await?;
    // One replica at a time; the others find the lock taken and leave it to that one.
    let first =
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtext('bifrost.sweep')) AS "locked!""#)
            .fetch_one(tx.conn())
            .await?;
    if !first {
        return Ok(0);
    }
    let waiting = sqlx::query!(
        r#"SELECT id AS "id: ExecutionId", organization_id AS "organization_id: OrgId", priority, traceparent,
               created_at AS "created_at: DateTime<Utc>"
           FROM executions
           WHERE status = 'Pending' AND due_at <= now() - make_interval(secs => $1)
           ORDER BY queue_rank, id
           LIMIT $2"#,
        grace_seconds,
        BATCH,
    )
    .fetch_all(tx.conn())
    .await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let known = wakeups.depth().await?;
    let missing: Vec<Wakeup> = waiting
        .into_iter()
        .skip(known)
        .map(|row| Wakeup::new(row.id, row.organization_id, row.priority, row.traceparent))
        .collect();
    let count = missing.len();
    wakeups.publish_confirmed(missing).await?;
    tx.commit().await?;
    Ok(count)
}
