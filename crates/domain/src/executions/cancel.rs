//! Cancel: a pending execution never starts, a running one is asked to stop and whatever it returns is dropped.

use chrono::{DateTime, Utc};

use super::Status;
use crate::audit::{self, Action};
use crate::id::{ExecutionId, OrgId};
use crate::{Error, OrgTx, Result};

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    /// State now: `Cancelled` or `Cancelling`.
    pub status: Status,
    /// Its current attempt.
    pub attempt: i32,
    /// When it ended, if it had not started.
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether this call changed anything.
    pub changed: bool,
}

/// Cancels an execution of the scope; cancelling twice is fine.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Impossible`] when it ended otherwise.
pub async fn cancel(tx: &mut OrgTx, id: ExecutionId) -> Result<Cancelled> {
    let changed = sqlx::query!(
        r#"UPDATE executions
           SET status = CASE status WHEN 'Pending' THEN 'Cancelled' ELSE 'Cancelling' END,
               completed_at = CASE status WHEN 'Pending' THEN now() END,
               error_message = CASE WHEN status <> 'Pending' THEN NULL
                   WHEN attempt > given_back THEN 'cancelled before its next attempt'
                   ELSE 'cancelled before it started' END,
               -- What an attempt before failed with is not what it ends with.
               error_type = NULL, is_user_error = FALSE,
               cancel_requested_at = now()
           WHERE id = $1 AND kind = 'workflow' AND status IN ('Pending', 'Running')
           RETURNING status AS "status: Status", attempt, completed_at, organization_id AS "organization_id: OrgId""#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?;
    if let Some(row) = changed {
        audit::record_for(tx, row.organization_id, Action::ExecutionCancelled, id, &()).await?;
        return Ok(Cancelled {
            status: row.status,
            attempt: row.attempt,
            completed_at: row.completed_at,
            changed: true,
        });
    }
    let row = sqlx::query!(
        r#"SELECT status AS "status: Status", attempt, completed_at FROM executions WHERE id = $1 AND kind = 'workflow'"#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("execution"))?;
    match row.status {
        Status::Cancelled | Status::Cancelling => Ok(Cancelled {
            status: row.status,
            attempt: row.attempt,
            completed_at: row.completed_at,
            changed: false,
        }),
        ended => Err(Error::Impossible(format!("the execution has ended already: {ended}"))),
    }
}
