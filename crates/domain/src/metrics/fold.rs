//! Folding: what ended is taken out of `execution_endings` and added to the sums, batch by batch, each in a transaction
//! of its own.
//!
//! Nothing here looks at executions: a tick costs what ended since the last one.

use super::SYSTEM;
use crate::{Db, Result};

/// Endings of one transaction.
const BATCH: i64 = 10_000;
/// Batches of one tick; the next one goes on.
const MOST_BATCHES: usize = 100;
/// Days that are kept; the contract asks for up to 365.
const KEPT_DAYS: i32 = 400;
/// Most old rows that one tick removes.
const MOST_OLD: i64 = 10_000;

/// Adds everything that ended to the sums, and removes days that are too old. Returns how many endings it added.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; finished batches stay.
pub(super) async fn fold(db: &Db) -> Result<i64> {
    let mut folded = 0;
    for _ in 0..MOST_BATCHES {
        let batch = fold_batch(db).await?;
        folded += batch;
        if batch < BATCH {
            break;
        }
    }
    prune(db).await?;
    Ok(folded)
}

async fn fold_batch(db: &Db) -> Result<i64> {
    let mut tx = db.begin_system(&SYSTEM).await?;
    // Two at once would be right too, but could wait for each other's rows crosswise.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.metrics'))").execute(tx.conn()).await?;
    let folded = sqlx::query_scalar!(
        r#"WITH taken AS (
               DELETE FROM execution_endings
               WHERE ctid = ANY (ARRAY(SELECT ctid FROM execution_endings LIMIT $1))
               RETURNING organization_id, workflow_name, executed_by, status, completed_at, duration_ms, peak_memory_bytes,
                   cpu_microseconds, (completed_at AT TIME ZONE 'UTC')::date AS day
           ), summed AS (
               INSERT INTO execution_metrics AS m (grain, organization_id, day, workflow_name, executed_by, executions,
                   successes, failures, timeouts, cancellations, timed, duration_ms, max_duration_ms, measured,
                   memory_bytes, peak_memory_bytes, cpu_microseconds, peak_cpu_microseconds)
               SELECT CASE GROUPING(day, workflow_name, executed_by)
                       WHEN 7 THEN 'total' WHEN 6 THEN 'person' WHEN 3 THEN 'day' WHEN 1 THEN 'workflow_day' END,
                   organization_id, day, workflow_name, executed_by, count(*),
                   count(*) FILTER (WHERE status = 'Success'),
                   count(*) FILTER (WHERE status IN ('Failed', 'CompletedWithErrors')),
                   count(*) FILTER (WHERE status = 'Timeout'),
                   count(*) FILTER (WHERE status = 'Cancelled'),
                   count(duration_ms), COALESCE(sum(duration_ms), 0), COALESCE(max(duration_ms), 0),
                   count(peak_memory_bytes), COALESCE(sum(peak_memory_bytes), 0), COALESCE(max(peak_memory_bytes), 0),
                   COALESCE(sum(cpu_microseconds), 0), COALESCE(max(cpu_microseconds), 0)
               FROM taken
               GROUP BY GROUPING SETS ((organization_id), (organization_id, executed_by), (organization_id, day),
                   (organization_id, day, workflow_name))
               ON CONFLICT (grain, organization_id, day, workflow_name, executed_by) DO UPDATE
               SET executions = m.executions + EXCLUDED.executions,
                   successes = m.successes + EXCLUDED.successes,
                   failures = m.failures + EXCLUDED.failures,
                   timeouts = m.timeouts + EXCLUDED.timeouts,
                   cancellations = m.cancellations + EXCLUDED.cancellations,
                   timed = m.timed + EXCLUDED.timed,
                   duration_ms = m.duration_ms + EXCLUDED.duration_ms,
                   max_duration_ms = GREATEST(m.max_duration_ms, EXCLUDED.max_duration_ms),
                   measured = m.measured + EXCLUDED.measured,
                   memory_bytes = m.memory_bytes + EXCLUDED.memory_bytes,
                   peak_memory_bytes = GREATEST(m.peak_memory_bytes, EXCLUDED.peak_memory_bytes),
                   cpu_microseconds = m.cpu_microseconds + EXCLUDED.cpu_microseconds,
                   peak_cpu_microseconds = GREATEST(m.peak_cpu_microseconds, EXCLUDED.peak_cpu_microseconds)
           ), by_minute AS (
               INSERT INTO execution_minutes AS m (minute, executions, successes, failures, timed, duration_ms,
                   memory_bytes, cpu_microseconds)
               SELECT date_trunc('minute', completed_at), count(*),
                   count(*) FILTER (WHERE status = 'Success'),
                   count(*) FILTER (WHERE status IN ('Failed', 'CompletedWithErrors', 'Timeout')),
                   count(duration_ms), COALESCE(sum(duration_ms), 0), COALESCE(sum(peak_memory_bytes), 0),
                   COALESCE(sum(cpu_microseconds), 0)
               FROM taken
               WHERE completed_at > now() - interval '25 hours'
               GROUP BY 1
               ON CONFLICT (minute) DO UPDATE
               SET executions = m.executions + EXCLUDED.executions,
                   successes = m.successes + EXCLUDED.successes,
                   failures = m.failures + EXCLUDED.failures,
                   timed = m.timed + EXCLUDED.timed,
                   duration_ms = m.duration_ms + EXCLUDED.duration_ms,
                   memory_bytes = m.memory_bytes + EXCLUDED.memory_bytes,
                   cpu_microseconds = m.cpu_microseconds + EXCLUDED.cpu_microseconds
           )
           SELECT count(*) AS "count!" FROM taken"#,
        BATCH,
    )
    .fetch_one(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(folded)
}

async fn prune(db: &Db) -> Result<()> {
    let mut tx = db.begin_system(&SYSTEM).await?;
    sqlx::query!("DELETE FROM execution_minutes WHERE minute < now() - interval '25 hours'")
        .execute(tx.conn())
        .await?;
    sqlx::query!(
        "DELETE FROM execution_metrics
         WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM execution_metrics
             WHERE grain IN ('day', 'workflow_day') AND day < (now() AT TIME ZONE 'UTC')::date - $1::int LIMIT $2))",
        KEPT_DAYS,
        MOST_OLD,
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}
