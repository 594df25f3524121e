//! The snapshot: numbers of the whole platform, taken every two minutes after what ended was added up.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use super::{JOB, SYSTEM};
use crate::{Db, Error, Result, SystemScope};

/// Numbers of the whole platform. Those of the last 24 hours are to the minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Active workflows.
    pub workflows: i64,
    /// Active forms.
    pub forms: i64,
    /// Active data providers.
    pub data_providers: i64,
    /// Active organizations.
    pub organizations: i64,
    /// Active people.
    pub users: i64,
    /// Executions that ended, ever.
    pub executions: i64,
    /// Of these, those that succeeded.
    pub successes: i64,
    /// And those that failed in whatever way.
    pub failures: i64,
    /// Executions that ended in the last 24 hours.
    pub executions_24h: i64,
    /// Of these, those that succeeded.
    pub successes_24h: i64,
    /// And those that failed in whatever way.
    pub failures_24h: i64,
    /// Mean duration of these, in milliseconds.
    pub avg_duration_ms_24h: i64,
    /// Peak memory of each of these, added up, in bytes.
    pub memory_bytes_24h: i64,
    /// CPU time of these, in microseconds.
    pub cpu_microseconds_24h: i64,
    /// Executions that run.
    pub running: i64,
    /// Executions that wait.
    pub pending: i64,
    /// When it was taken.
    pub taken_at: DateTime<Utc>,
}

/// The latest snapshot.
///
/// # Errors
/// [`Error::NotFound`] before the first.
pub async fn latest(db: &Db) -> Result<Snapshot> {
    let scope = SystemScope::because("jobs of the platform belong to no tenant");
    let report = sqlx::query_scalar!(
        r#"SELECT report AS "report!: Json<Snapshot>" FROM job_runs WHERE name = $1 AND report IS NOT NULL"#,
        JOB,
    )
    .fetch_optional(&mut *db.system(&scope).await?)
    .await?;
    Ok(report.ok_or(Error::NotFound("snapshot: the first is taken soon after a worker starts"))?.0)
}

/// Takes one. Of executions it counts those that wait or run, through the indexes that hold nothing else.
pub(super) async fn take(db: &Db) -> Result<()> {
    let mut tx = db.begin_system(&SYSTEM).await?;
    let snapshot = sqlx::query_as!(
        Snapshot,
        r#"SELECT
               (SELECT count(*) FROM workflows WHERE is_active AND kind = 'workflow') AS "workflows!",
               (SELECT count(*) FROM forms WHERE is_active) AS "forms!",
               (SELECT count(*) FROM workflows WHERE is_active AND kind = 'data_provider') AS "data_providers!",
               (SELECT count(*) FROM organizations WHERE is_active) AS "organizations!",
               (SELECT count(*) FROM users WHERE is_active AND user_type <> 'SYSTEM') AS "users!",
               ever.executions AS "executions!", ever.successes AS "successes!", ever.failures AS "failures!",
               recent.executions AS "executions_24h!", recent.successes AS "successes_24h!",
               recent.failures AS "failures_24h!", recent.avg_duration_ms AS "avg_duration_ms_24h!",
               recent.memory_bytes AS "memory_bytes_24h!", recent.cpu_microseconds AS "cpu_microseconds_24h!",
               (SELECT count(*) FROM executions
                WHERE status IN ('Running', 'Cancelling') AND NOT transient AND kind = 'workflow') AS "running!",
               (SELECT count(*) FROM executions
                WHERE status = 'Pending' AND NOT transient AND kind = 'workflow') AS "pending!",
               now() AS "taken_at!"
           FROM (
               SELECT COALESCE(sum(executions), 0)::bigint AS executions, COALESCE(sum(successes), 0)::bigint AS successes,
                   COALESCE(sum(failures + timeouts), 0)::bigint AS failures
               FROM execution_metrics
               WHERE grain = 'total'
           ) AS ever
           CROSS JOIN (
               SELECT COALESCE(sum(executions), 0)::bigint AS executions, COALESCE(sum(successes), 0)::bigint AS successes,
                   COALESCE(sum(failures), 0)::bigint AS failures,
                   COALESCE(round(sum(duration_ms) / NULLIF(sum(timed), 0)), 0)::bigint AS avg_duration_ms,
                   COALESCE(sum(memory_bytes), 0)::bigint AS memory_bytes,
                   COALESCE(sum(cpu_microseconds), 0)::bigint AS cpu_microseconds
               FROM execution_minutes
               WHERE minute > now() - interval '24 hours'
           ) AS recent"#,
    )
    .fetch_one(tx.conn())
    .await?;
    // Of two that were taken at once the later one stays.
    sqlx::query!(
        "INSERT INTO job_runs AS run (name, started_at, ended_at, report)
         VALUES ($1, now(), now(), $2)
         ON CONFLICT (name) DO UPDATE
         SET ended_at = now(), report = EXCLUDED.report
         WHERE run.report IS NULL OR (run.report ->> 'taken_at')::timestamptz <= now()",
        JOB,
        Json(&snapshot) as _,
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}
