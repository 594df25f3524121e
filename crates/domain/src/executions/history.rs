//! History: executions that ended are kept for as many days as the platform and their organization say (ADR 50).
//!
//! Rows go in bounded batches through an index, oldest first; log lines go with them where an organization keeps less than
//! the platform, else with the whole partition of their week. What waits or runs is never touched, audit records and
//! metrics stay, and no batch names more than one organization or the age that holds for all.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::id::OrgId;
use crate::{Db, Error, Result, SystemScope, SystemTx};

const SCOPE: SystemScope = SystemScope::because("retention serves every organization");

/// Partitions of log lines that are made ahead, in weeks.
const WEEKS_AHEAD: i32 = 4;
/// Executions of one batch: a transaction of some 50 ms, which holds nobody up.
const BATCH: i64 = 1_000;
/// A batch begins no further execution beyond so many lines.
const BATCH_LINES: i64 = 20_000;
/// Batches of one tick; the next one goes on.
const MOST_BATCHES: usize = 1_000;

/// What one tick removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Executions.
    pub executions: u64,
    /// Their log lines, those of dropped partitions aside.
    pub lines: u64,
    /// Partitions of log lines.
    pub partitions: i32,
}

/// Which executions are over.
#[derive(Debug, Clone, Copy)]
enum Whose {
    /// Those of an organization that keeps less than the platform.
    Organization(OrgId),
    /// All, at the platform's age. Their lines go with the partitions.
    All,
}

/// Makes the partitions of log lines that are missing, this week's and the next ones, and puts into them what came for want
/// of them. Whoever finds nothing to do has only looked.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn prepare(db: &Db) -> Result<i32> {
    let mut conn = db.system(&SCOPE).await?;
    let made = sqlx::query_scalar!(r#"SELECT prepare_log_partitions($1) AS "made!""#, WEEKS_AHEAD)
        .fetch_one(&mut *conn)
        .await;
    unless_busy(made)
}

/// Removes what ended longer ago than its organization keeps it, and the platform, which does for `days`.
///
/// Any number of replicas may do so at once: batches take turns.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away; what finished batches removed is gone.
pub async fn tick(db: &Db, days: i32) -> Result<Removed> {
    prepare(db).await?;
    let mut removed = Removed::default();
    let mut batches = MOST_BATCHES;
    for (organization, before) in shorter(db, days).await? {
        remove_all(db, Whose::Organization(organization), before, &mut batches, &mut removed).await?;
    }
    let mut conn = db.system(&SCOPE).await?;
    let before = sqlx::query_scalar!(r#"SELECT now() - make_interval(days => $1) AS "t!""#, days)
        .fetch_one(&mut *conn)
        .await?;
    drop(conn);
    remove_all(db, Whose::All, before, &mut batches, &mut removed).await?;
    let mut conn = db.system(&SCOPE).await?;
    let dropped = sqlx::query_scalar!(r#"SELECT drop_log_partitions($1) AS "dropped!""#, days)
        .fetch_one(&mut *conn)
        .await;
    removed.partitions = unless_busy(dropped)?;
    Ok(removed)
}

/// Organizations that keep less than the platform, each with the time before which what ended is over.
async fn shorter(db: &Db, days: i32) -> Result<Vec<(OrgId, DateTime<Utc>)>> {
    let mut conn = db.system(&SCOPE).await?;
    let rows = sqlx::query!(
        r#"SELECT id AS "id: OrgId", now() - make_interval(days => history_days) AS "before!"
           FROM organizations
           WHERE history_days < $1"#,
        days,
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.before)).collect())
}

/// Removes batch after batch, each in a transaction of its own, until nothing is over or this tick has done enough.
async fn remove_all(
    db: &Db,
    whose: Whose,
    before: DateTime<Utc>,
    batches: &mut usize,
    removed: &mut Removed,
) -> Result<()> {
    let mut after = Uuid::nil();
    while *batches > 0 {
        *batches -= 1;
        let mut tx = db.begin_system(&SCOPE).await?;
        // One batch at a time: two would choose the same rows, and one of them wait for nothing.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.history'))").execute(tx.conn()).await?;
        let (ids, is_last) = choose(&mut tx, whose, before, after).await?;
        let Some(last) = ids.last() else {
            break;
        };
        after = *last;
        let lines = match whose {
            Whose::Organization(_) => remove_lines(tx.conn(), &ids).await?,
            Whose::All => remove_unpartitioned_lines(tx.conn(), &ids).await?,
        };
        let executions = sqlx::query!("DELETE FROM executions WHERE id = ANY ($1)", &ids)
            .execute(tx.conn())
            .await?
            .rows_affected();
        tx.commit().await?;
        removed.lines += lines;
        removed.executions += executions;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// The oldest executions that are over, from `after` on, and whether there are no more. Ids carry the time of submission,
/// so the index finds them; what was submitted then and has not ended, or only lately, is passed by.
async fn choose(
    tx: &mut SystemTx,
    whose: Whose,
    before: DateTime<Utc>,
    after: Uuid,
) -> Result<(Vec<Uuid>, bool)> {
    let found = match whose {
        Whose::All => {
            sqlx::query_scalar!(
                "SELECT id FROM executions
                 WHERE id > $1 AND id < first_id_at($2) AND completed_at < $2
                 ORDER BY id
                 LIMIT $3",
                after,
                before,
                BATCH,
            )
            .fetch_all(tx.conn())
            .await?
        }
        Whose::Organization(organization) => {
            sqlx::query_scalar!(
                r#"WITH over AS MATERIALIZED (
                       SELECT id FROM executions
                       WHERE (CASE WHEN organization_id IS NULL
                           THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $4 AND NOT transient
                         AND id > $1 AND id < first_id_at($2) AND completed_at < $2
                       ORDER BY id
                       LIMIT $3
                   ), counted AS (
                       -- Sequences have no gaps: the last one is their number.
                       SELECT id, sum(last_sequence(id, FALSE)) OVER (ORDER BY id) - last_sequence(id, FALSE) AS lines_before
                       FROM over
                   )
                   SELECT id FROM counted WHERE lines_before < $5::bigint ORDER BY id"#,
                after,
                before,
                BATCH,
                organization as _,
                BATCH_LINES,
            )
            .fetch_all(tx.conn())
            .await?
        }
    };
    // Fewer may be because of their lines, then there are more.
    let is_last = matches!(whose, Whose::All) && (found.len() as i64) < BATCH;
    Ok((found, is_last))
}

/// Removes the lines of these executions, in the order of their ids; returns how many there were.
pub(crate) async fn remove_lines(conn: &mut PgConnection, ids: &[Uuid]) -> Result<u64> {
    let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else {
        return Ok(0);
    };
    // The bounds leave out the partitions of other weeks, which the array does not.
    let removed = sqlx::query!(
        "DELETE FROM execution_logs WHERE execution_id = ANY ($1) AND execution_id BETWEEN $2 AND $3",
        ids,
        first,
        last,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}

/// The same for those lines that no partition takes along when it is dropped.
async fn remove_unpartitioned_lines(conn: &mut PgConnection, ids: &[Uuid]) -> Result<u64> {
    let removed = sqlx::query!("DELETE FROM execution_logs_default WHERE execution_id = ANY ($1)", ids)
        .execute(conn)
        .await?;
    Ok(removed.rows_affected())
}

/// Partitions are made and dropped under locks that are not waited for: if somebody holds one, the next tick does it.
fn unless_busy(done: Result<i32, sqlx::Error>) -> Result<i32> {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    match done {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
            tracing::info!("partitions of log lines are in use, the next tick tries again");
            Ok(0)
        }
        done => Ok(done.map_err(Error::from)?),
    }
}
