//! Sweep: wake-ups for due rows that the queue no longer knows of (a crash between commit and publish, a
//! broker that was away or lost its messages, a retry whose pause is over, a slot that nobody was told of).
//!
//! What is paused or waits for a slot is not woken: it would only be found unable to start.

use super::limits::Room;
use super::queue;
use crate::wakeup::{Wakeup, Wakeups};
use crate::{Db, Result, SystemScope};

/// Most wake-ups one tick publishes.
const MOST: u16 = 1_000;

/// Publishes a wake-up for each row that may start beyond those that wait in the queue; returns how many.
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
    let heads = queue::heads(tx.conn(), MOST.into(), grace_seconds).await?;
    if heads.is_empty() {
        return Ok(0);
    }
    let mut room = Room::load(tx.conn(), &heads).await?;
    let waiting = room.choose(heads, MOST.into());
    let known = match wakeups.depth().await {
        Ok(known) => known,
        Err(error) => {
            // The broker was waited for, not PostgreSQL: its connection is as good as before.
            tx.rollback().await?;
            return Err(error);
        }
    };
    let missing: Vec<Wakeup> = waiting
        .into_iter()
        .skip(known)
        .map(|one| Wakeup::new(one.id, one.organization_id, one.priority, one.traceparent))
        .collect();
    let count = missing.len();
    wakeups.publish_confirmed(missing).await?;
    tx.commit().await?;
    Ok(count)
}
