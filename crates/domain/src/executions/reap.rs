//! Reap: executions whose worker is gone, or whose time is up by far, are ended or queued again.

use chrono::{DateTime, Utc};

use super::{Kind, Status};
use crate::id::{ExecutionId, OrgId, UserId};
use crate::{Db, Result, SystemScope};

/// Most rows one tick takes; the next tick takes more.
const BATCH: i64 = 500;

/// What the reaper did to one execution.
#[derive(Debug, Clone)]
pub struct Reaped {
    /// The execution.
    pub id: ExecutionId,
    /// What ran.
    pub kind: Kind,
    /// Its organization.
    pub organization_id: Option<OrgId>,
    /// Its workflow.
    pub workflow_name: String,
    /// Who started it.
    pub executed_by: UserId,
    /// Display name of who started it.
    pub executed_by_name: String,
    /// The attempt that was lost.
    pub attempt: i32,
    /// State now: `Pending` (another attempt follows), `Failed`, `Timeout` or `Cancelled`.
    pub status: Status,
    /// Priority, for the wake-up.
    pub priority: i16,
    /// Seconds until another attempt may start.
    pub pause_seconds: f64,
    /// Why.
    pub error_type: Option<String>,
    /// Why, in words.
    pub error_message: Option<String>,
    /// First claim.
    pub started_at: Option<DateTime<Utc>>,
    /// End.
    pub completed_at: Option<DateTime<Utc>>,
    /// Kept out of lists, histories and metrics.
    pub transient: bool,
}

/// Ends or re-queues what nobody runs any more. Safe on every replica at once: rows are taken with
/// `SKIP LOCKED`, and the fence refuses whatever the lost worker still writes.
///
/// An expired lease consumes the attempt, and the next one waits for its back-off as after any failure. An attempt that runs a minute over its own timeout, or is still
/// cancelling after three minutes, is ended even though its worker answers. What a worker that is gone has not run counts for no timeout, however late somebody looks.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn reap(db: &Db) -> Result<Vec<Reaped>> {
    let mut conn = db.system(&SystemScope::because("the reaper serves every organization")).await?;
    Ok(sqlx::query_as!(
        Reaped,
        r#"WITH lost AS (
               SELECT id,
                   -- As `RetryPolicy::pause_after`; without a policy there is none.
                   COALESCE(LEAST((retry_policy ->> 'backoff_seconds')::float8
                           * power(2, LEAST(attempt - given_back, 31) - 1),
                       (retry_policy ->> 'max_backoff_seconds')::float8) * (0.8 + 0.4 * random()), 0) AS pause,
                   CASE
                       WHEN status = 'Cancelling' THEN 'Cancelled'
                       WHEN attempt_started_at + make_interval(secs => timeout_seconds + 60) < LEAST(now(), lease_expires_at) THEN 'Timeout'
                       WHEN attempt - given_back < max_attempts THEN 'Pending'
                       ELSE 'Failed'
                   END AS next
               FROM executions
               WHERE status IN ('Running', 'Cancelling')
                 AND (lease_expires_at < now()
                      OR (status = 'Running' AND attempt_started_at + make_interval(secs => timeout_seconds + 60) < now())
                      OR (status = 'Cancelling' AND cancel_requested_at < now() - interval '3 minutes'))
               ORDER BY lease_expires_at
               LIMIT $1
               FOR UPDATE SKIP LOCKED
           )
           UPDATE executions e
           SET status = lost.next, lease_owner = NULL, lease_expires_at = NULL,
               due_at = CASE WHEN lost.next = 'Pending' THEN now() + make_interval(secs => lost.pause) ELSE e.due_at END,
               queue_rank = CASE WHEN lost.next = 'Pending'
                   THEN now() + make_interval(secs => lost.pause, mins => -e.priority) ELSE e.queue_rank END,
               completed_at = CASE WHEN lost.next <> 'Pending' THEN now() END,
               duration_ms = (extract(epoch FROM now() - e.attempt_started_at) * 1000)::bigint,
               error_type = CASE lost.next WHEN 'Failed' THEN 'WorkerLost' WHEN 'Timeout' THEN 'TimeoutError' END,
               error_message = CASE lost.next
                   WHEN 'Failed' THEN format('the worker that ran attempt %s of %s is gone', e.attempt - e.given_back, e.max_attempts)
                   WHEN 'Timeout' THEN format('did not end within %s s', e.timeout_seconds)
                   WHEN 'Cancelled' THEN 'cancelled while it ran' END
           FROM lost
           WHERE e.id = lost.id
           RETURNING e.id AS "id: ExecutionId", e.kind AS "kind: Kind", e.organization_id AS "organization_id: OrgId", e.workflow_name,
               e.executed_by AS "executed_by: UserId", e.executed_by_name, e.attempt, e.status AS "status: Status",
               e.priority, lost.pause AS "pause_seconds!", e.error_type, e.error_message, e.started_at, e.completed_at,
               e.transient"#,
        BATCH,
    )
    .fetch_all(&mut *conn)
    .await?)
}
