//! Claim: the most urgent pending rows become running, fenced by a higher attempt and a lease.
//!
//! The message that woke the worker only says that something waits; which rows run is decided here, in SQL,
//! on the database's clock: smallest `queue_rank` first.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Kind, RawJson};
use crate::id::{ExecutionId, OrgId, UserId, WorkerId, WorkflowId};
use crate::workflows::RetryPolicy;
use crate::{Actor, Db, OrgScope, Result, SystemScope};

/// How long a lease lasts without a heartbeat.
pub const LEASE: Duration = Duration::from_secs(10);

const SCOPE: SystemScope = SystemScope::because("a worker claims for every organization");

/// A claimed execution, with all a run needs.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the row; see the schema")]
pub struct Claimed {
    pub id: ExecutionId,
    pub attempt: i32,
    pub max_attempts: i32,
    pub kind: Kind,
    pub organization_id: Option<OrgId>,
    pub organization_name: Option<String>,
    pub organization_is_active: Option<bool>,
    pub workflow_id: Option<WorkflowId>,
    pub workflow_name: String,
    pub path: Option<String>,
    pub function_name: Option<String>,
    pub isolation: Option<String>,
    pub code: Option<String>,
    pub script_name: Option<String>,
    /// The form that was submitted.
    pub form_id: Option<Uuid>,
    pub parameters: Json<RawJson>,
    pub startup: Option<Json<RawJson>>,
    pub executed_by: UserId,
    pub executed_by_name: String,
    pub executed_by_email: String,
    pub is_platform_admin: bool,
    pub is_function_key: bool,
    pub retry_policy: Option<Json<RetryPolicy>>,
    pub timeout_seconds: i32,
    pub priority: i16,
    pub started_at: Option<DateTime<Utc>>,
    /// Last sequence that earlier attempts logged.
    pub last_sequence: i64,
    /// The same, counting only lines a user may see.
    pub last_user_sequence: i64,
}

impl Claimed {
    /// The scope the run's own calls act in: what the row says.
    pub fn scope(&self) -> OrgScope {
        OrgScope::for_run(
            self.organization_id,
            Actor {
                id: self.executed_by,
                name: self.executed_by_name.clone(),
                email: self.executed_by_email.clone(),
                is_platform_admin: self.is_platform_admin,
            },
        )
    }
}

/// Claims up to `limit` due rows for `worker`: one statement, one commit.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn claim(db: &Db, worker: WorkerId, limit: usize) -> Result<Vec<Claimed>> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_as!(
        Claimed,
        r#"WITH picked AS (
               SELECT id
               FROM executions
               WHERE status = 'Pending' AND due_at <= now()
               ORDER BY queue_rank, id
               LIMIT $1
               FOR UPDATE SKIP LOCKED
           ), claimed AS (
               UPDATE executions e
               SET status = 'Running', attempt = e.attempt + 1, lease_owner = $2,
                   lease_expires_at = now() + make_interval(secs => $3),
                   started_at = COALESCE(e.started_at, now()), attempt_started_at = now()
               FROM picked
               WHERE e.id = picked.id
               RETURNING e.*
           )
           SELECT e.id AS "id!: ExecutionId", e.attempt AS "attempt!", e.max_attempts AS "max_attempts!",
               e.kind AS "kind!: Kind",
               e.organization_id AS "organization_id?: OrgId",
               o.name AS "organization_name?", o.is_active AS "organization_is_active?",
               e.workflow_id AS "workflow_id?: WorkflowId", e.workflow_name AS "workflow_name!",
               w.path AS "path?", w.function_name AS "function_name?", w.isolation AS "isolation?",
               e.code, e.script_name, e.form_id, e.parameters AS "parameters!: Json<RawJson>", e.startup AS "startup?: Json<RawJson>",
               e.executed_by AS "executed_by!: UserId", e.executed_by_name AS "executed_by_name!",
               e.executed_by_email AS "executed_by_email!", e.is_platform_admin AS "is_platform_admin!",
               e.is_function_key AS "is_function_key!",
               e.retry_policy AS "retry_policy?: Json<RetryPolicy>", e.timeout_seconds AS "timeout_seconds!",
               e.priority AS "priority!", e.started_at,
               CASE WHEN e.attempt = 1 THEN 0 ELSE COALESCE(
                   (SELECT max(l.sequence) FROM execution_logs l WHERE l.execution_id = e.id), 0) END AS "last_sequence!",
               CASE WHEN e.attempt = 1 THEN 0 ELSE COALESCE(
                   (SELECT max(l.user_sequence) FROM execution_logs l WHERE l.execution_id = e.id), 0) END AS "last_user_sequence!"
           FROM claimed e
           LEFT JOIN workflows w ON w.id = e.workflow_id AND w.is_active
           LEFT JOIN organizations o ON o.id = e.organization_id"#,
        i64::try_from(limit).unwrap_or(i64::MAX),
        worker as _,
        LEASE.as_secs_f64(),
    )
    .fetch_all(&mut *conn)
    .await?)
}

/// What a heartbeat found of one execution.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The execution.
    pub id: ExecutionId,
    /// The attempt that is still this worker's.
    pub attempt: i32,
    /// Whether somebody asked to cancel it.
    pub cancelling: bool,
}

/// Extends the leases of a worker's running attempts. What is missing from the answer is lost: another
/// process took it over or ended it, and its process must be killed.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn heartbeat(db: &Db, worker: WorkerId, running: &[ExecutionId]) -> Result<Vec<Held>> {
    let ids: Vec<Uuid> = running.iter().map(|id| id.0).collect();
    let mut conn = db.system(&SCOPE).await?;
    let rows = sqlx::query!(
        r#"UPDATE executions
           SET lease_expires_at = now() + make_interval(secs => $3)
           WHERE id = ANY ($1) AND lease_owner = $2 AND status IN ('Running', 'Cancelling')
           RETURNING id AS "id: ExecutionId", attempt, status = 'Cancelling' AS "cancelling!""#,
        &ids,
        worker as _,
        LEASE.as_secs_f64(),
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Held { id: row.id, attempt: row.attempt, cancelling: row.cancelling })
        .collect())
}
