//! Stuck executions: what has waited or run for longer than somebody is willing to wait, listed, and ended by hand.
//!
//! The server itself ends nothing for waiting. Ending raises the attempt, so whatever a worker still writes of such a
//! run is refused by the fence.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{Execution, RawJson, Status};
use crate::audit::{self, Action};
use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};
use crate::{OrgTx, Result};

/// Executions that one call lists or ends; another call takes the next.
pub const MOST: i64 = 1_000;

/// What ending did.
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
    Ok(sqlx::query_as!(
        Execution,
        r#"SELECT id AS "id: ExecutionId", organization_id AS "organization_id: OrgId", workflow_id AS "workflow_id: WorkflowId",
               workflow_name, form_id, executed_by AS "executed_by: UserId", executed_by_name, status AS "status: Status",
               priority, attempt, max_attempts, parameters AS "parameters: Json<RawJson>", NULL::json AS "result: Json<RawJson>",
               result_type, error_message, error_type, is_user_error, transient, NULL::json AS "variables: Json<RawJson>",
               peak_memory_bytes, cpu_total_seconds, duration_ms, created_at, started_at, completed_at
           FROM executions
           WHERE kind = 'workflow' AND status IN ('Pending', 'Running', 'Cancelling') AND created_at < $1
           ORDER BY id
           LIMIT $2"#,
        before,
        MOST,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Ends them as failed.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then nothing was changed.
pub async fn end(tx: &mut OrgTx, before: DateTime<Utc>) -> Result<Vec<Ended>> {
    let rows = sqlx::query!(
        r#"WITH stuck AS (
               SELECT id, status AS was
               FROM executions
               WHERE kind = 'workflow' AND status IN ('Pending', 'Running', 'Cancelling') AND created_at < $1
               ORDER BY id
               LIMIT $2
               FOR UPDATE SKIP LOCKED
           )
           UPDATE executions e
           SET status = 'Failed', attempt = e.attempt + 1, lease_owner = NULL, lease_expires_at = NULL,
               completed_at = now(), error_type = 'StuckExecution',
               error_message = format('ended by an administrator: it was %s since %s',
                   stuck.was, to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'))
           FROM stuck
           WHERE e.id = stuck.id
           RETURNING e.id AS "id: ExecutionId", e.organization_id AS "organization_id: OrgId",
               e.workflow_id AS "workflow_id: WorkflowId", e.workflow_name, e.form_id, e.executed_by AS "executed_by: UserId",
               e.executed_by_name, e.status AS "status: Status", e.priority, e.attempt, e.max_attempts,
               e.parameters AS "parameters: Json<RawJson>", e.error_message, e.error_type, e.transient, e.duration_ms,
               e.created_at, e.started_at, e.completed_at, stuck.was AS "was: Status""#,
        before,
        MOST,
    )
    .fetch_all(tx.conn())
    .await?;
    let ended: Vec<Ended> = rows
        .into_iter()
        .map(|row| Ended {
            was: row.was,
            execution: Execution {
                id: row.id,
                organization_id: row.organization_id,
                workflow_id: row.workflow_id,
                workflow_name: row.workflow_name,
                form_id: row.form_id,
                executed_by: row.executed_by,
                executed_by_name: row.executed_by_name,
                status: row.status,
                priority: row.priority,
                attempt: row.attempt,
                max_attempts: row.max_attempts,
                parameters: row.parameters,
                result: None,
                result_type: None,
                error_message: row.error_message,
                error_type: row.error_type,
                is_user_error: false,
                transient: row.transient,
                variables: None,
                peak_memory_bytes: None,
                cpu_total_seconds: None,
                duration_ms: row.duration_ms,
                created_at: row.created_at,
                started_at: row.started_at,
                completed_at: row.completed_at,
            },
        })
        .collect();
    let resources = ended.iter().map(|ended| ended.execution.id.to_string()).collect();
    audit::record_all(tx, Action::ExecutionEnded, resources).await?;
    Ok(ended)
}
