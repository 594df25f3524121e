//! Stuck executions: what has waited or run for longer than somebody is willing to wait, listed, and ended by hand.
//!
//! The server itself ends nothing for waiting. Ending raises the attempt, so whatever a worker still writes of such a
//! run is refused by the fence.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Execution, RawJson, Status};
use crate::audit::{self, Action};
use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};
use crate::{OrgTx, Result};

/// Executions that one call lists or ends; another call takes the next.
pub const MOST: i64 = 1_000;

/// What ending did.
#[derive(Debug, Clone)]
pub struct Done {
    /// Those that were ended, the oldest first.
    pub ended: Vec<Ended>,
    /// How many are as stuck as before: beyond the limit, or held by somebody else at that moment.
    pub left: i64,
}

/// One that was ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// As it is now.
    pub execution: Execution,
    /// What it was.
    pub was: Status,
}

/// Executions of the scope that are not ended and were submitted before `before`, the oldest first.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, before: DateTime<Utc>) -> Result<Vec<Execution>> {
    Ok(executions!(
        "SELECT",
        "NULL::json",
        "NULL::json",
        ["FROM executions e
         WHERE e.kind = 'workflow' AND e.status IN ('Pending', 'Running', 'Cancelling') AND e.created_at < $1
         ORDER BY e.id
         LIMIT $2"],
        before,
        MOST,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Ends them as failed. It passes by what somebody else holds.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then nothing was changed.
pub async fn end(tx: &mut OrgTx, before: DateTime<Utc>) -> Result<Done> {
    let stuck = sqlx::query!(
        r#"SELECT id, status AS "status: Status"
           FROM executions
           WHERE kind = 'workflow' AND status IN ('Pending', 'Running', 'Cancelling') AND created_at < $1
           ORDER BY id
           LIMIT $2
           FOR UPDATE SKIP LOCKED"#,
        before,
        MOST,
    )
    .fetch_all(tx.conn())
    .await?;
    let was: HashMap<Uuid, Status> = stuck.into_iter().map(|row| (row.id, row.status)).collect();
    let ids: Vec<Uuid> = was.keys().copied().collect();
    let ended = executions!(
        r#"UPDATE executions e
           SET status = 'Failed', attempt = e.attempt + 1, lease_owner = NULL, lease_expires_at = NULL,
               completed_at = now(), error_type = 'StuckExecution',
               error_message = format('ended by an administrator: it was %s since %s',
                   e.status, to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'))
           WHERE e.id = ANY ($1)
           RETURNING"#,
        "NULL::json",
        "NULL::json",
        [""],
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut ended: Vec<Ended> = ended
        .into_iter()
        .map(|execution| Ended {
            was: was.get(&execution.id.0).copied().unwrap_or(Status::Pending),
            execution,
        })
        .collect();
    ended.sort_by_key(|ended| ended.execution.id);
    let left = sqlx::query_scalar!(
        r#"SELECT count(*) AS "left!"
           FROM executions
           WHERE kind = 'workflow' AND status IN ('Pending', 'Running', 'Cancelling') AND created_at < $1"#,
        before,
    )
    .fetch_one(tx.conn())
    .await?;
    let resources =
        ended.iter().map(|ended| (ended.execution.organization_id, ended.execution.id.to_string()));
    audit::record_all(tx, Action::ExecutionEnded, resources).await?;
    Ok(Done { ended, left })
}
