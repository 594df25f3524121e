//! Workers: who is alive and has free slots, for those who wonder why nothing starts. Leases do not depend on it.

use crate::id::WorkerId;
use crate::{Db, Result, SystemScope};

const SCOPE: SystemScope = SystemScope::because("workers serve every organization");

/// What the living workers have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Workers seen within ten seconds.
    pub workers: i64,
    /// Their slots.
    pub slots: i64,
    /// Executions that run in them.
    pub running: i64,
}

/// Says that a worker is alive.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn beat(db: &Db, id: WorkerId, slots: usize, running: usize) -> Result<()> {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let mut conn = db.system(&SCOPE).await?;
    sqlx::query!(
        "INSERT INTO workers (id, slots, running)
         VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE SET slots = EXCLUDED.slots, running = EXCLUDED.running, seen_at = now()",
        id as _,
        number(slots),
        number(running),
    )
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Takes leave.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn leave(db: &Db, id: WorkerId) -> Result<()> {
    let mut conn = db.system(&SCOPE).await?;
    sqlx::query!("DELETE FROM workers WHERE id = $1", id as _).execute(&mut *conn).await?;
    Ok(())
}

/// What the living workers have together.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn capacity(db: &Db) -> Result<Capacity> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_as!(
        Capacity,
        r#"SELECT count(*) AS "workers!", COALESCE(sum(slots), 0) AS "slots!", COALESCE(sum(running), 0) AS "running!"
           FROM workers
           WHERE seen_at > now() - interval '10 seconds'"#,
    )
    .fetch_one(&mut *conn)
    .await?)
}
