//! Many at once: cancelling, and repeating what failed, by a filter. Bounded: a call takes so many, the next takes more.
//!
//! The invariant: an execution is repeated once. What was repeated, alone or with others, is passed over here, so that a
//! call that is made again does nothing twice.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Execution, RawJson, Status};
use crate::audit::{self, Action};
use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};
use crate::{OrgTx, Result};

/// Executions that one call takes at most.
pub const MOST: i64 = 1_000;

/// Which executions; a member that is `None` lets all pass.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of this workflow.
    pub workflow_id: Option<WorkflowId>,
    /// Of the workflow with this name.
    pub workflow_name: Option<String>,
    /// In one of these states.
    pub statuses: Vec<Status>,
    /// Submitted at or after.
    pub since: Option<DateTime<Utc>>,
    /// Submitted at or before.
    pub until: Option<DateTime<Utc>>,
    /// Started by this user.
    pub executed_by: Option<UserId>,
    /// That failed with this class of error.
    pub error_type: Option<String>,
}

/// What cancelling did.
#[derive(Debug, Clone)]
pub struct Cancelled {
    /// As they are now.
    pub executions: Vec<Execution>,
    /// Whether some of the selection still wait or run: beyond the limit, or held by somebody else at that moment.
    pub has_more: bool,
}

/// A repetition.
#[derive(Debug, Clone)]
pub struct Retried {
    /// The new execution.
    pub id: ExecutionId,
    /// What it repeats.
    pub rerun_of: ExecutionId,
    /// Its organization.
    pub organization_id: Option<OrgId>,
    /// What runs.
    pub workflow_name: String,
    /// Its priority, for the wake-up.
    pub priority: i16,
}

/// Cancels what of the selection waits or runs, the oldest first, at most `limit`. It passes by what somebody else holds.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then nothing was changed.
pub async fn cancel(tx: &mut OrgTx, selection: &Selection, limit: i64) -> Result<Cancelled> {
    let statuses = names(selection, &[Status::Pending, Status::Running]);
    // One more than are taken tells whether there are more.
    let found = sqlx::query_scalar!(
        "SELECT id
         FROM executions
         WHERE kind = 'workflow' AND status IN ('Pending', 'Running') AND status = ANY ($1)
           AND ($2::uuid IS NULL OR workflow_id = $2) AND ($3::text IS NULL OR workflow_name = $3)
           AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at <= $5)
           AND ($6::uuid IS NULL OR executed_by = $6)
         ORDER BY id
         LIMIT $7::bigint + 1",
        &statuses,
        selection.workflow_id as _,
        selection.workflow_name,
        selection.since,
        selection.until,
        selection.executed_by as _,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let executions = executions!(
        "WITH picked AS (
             SELECT id
             FROM executions
             -- COALESCE, to go by the key (ADR 57); for the list too, which a plan for one call knows.
             WHERE id = ANY ($1) AND COALESCE(status, '') IN ('Pending', 'Running') AND COALESCE(status, '') = ANY ($2)
             ORDER BY id
             LIMIT $3
             FOR UPDATE SKIP LOCKED
         )
         UPDATE executions e
         SET status = CASE e.status WHEN 'Pending' THEN 'Cancelled' ELSE 'Cancelling' END,
             completed_at = CASE e.status WHEN 'Pending' THEN now() END,
             error_message = CASE WHEN e.status <> 'Pending' THEN NULL
                 WHEN e.attempt > e.given_back THEN 'cancelled before its next attempt'
                 ELSE 'cancelled before it started' END,
             -- What an attempt before failed with is not what it ends with.
             error_type = NULL, is_user_error = FALSE,
             cancel_requested_at = now()
         FROM picked
         WHERE e.id = picked.id
         RETURNING",
        "NULL::json",
        "NULL::json",
        [""],
        &found,
        &statuses,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let has_more = found.len() > executions.len();
    let resources = executions.iter().map(|execution| (execution.organization_id, execution.id.to_string()));
    audit::record_all(tx, Action::ExecutionCancelled, resources).await?;
    Ok(Cancelled { executions, has_more })
}

/// Repeats what of the selection has ended, as the scope's actor with the parameters it had, the oldest first, at most
/// `limit`. Children, transient runs, and runs of what is gone or of inactive organizations are left out; so are inline
/// code and runs of forms unless the actor is a platform administrator.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then nothing was changed.
pub async fn retry(tx: &mut OrgTx, selection: &Selection, limit: i64) -> Result<Vec<Retried>> {
    let statuses = names(selection, &[Status::Failed, Status::Timeout]);
    let actor = tx.scope().actor().clone();
    // One at a time: each sees what the one before has repeated.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.retry'))").execute(tx.conn()).await?;
    let picked = sqlx::query_scalar!(
        r#"SELECT e.id
           FROM executions e
           WHERE e.status = ANY ($1) AND e.status IN ('Failed', 'Timeout', 'Cancelled', 'CompletedWithErrors')
             AND ($2::uuid IS NULL OR e.workflow_id = $2) AND ($3::text IS NULL OR e.workflow_name = $3)
             AND ($4::timestamptz IS NULL OR e.created_at >= $4) AND ($5::timestamptz IS NULL OR e.created_at <= $5)
             AND ($6::uuid IS NULL OR e.executed_by = $6) AND ($7::text IS NULL OR e.error_type = $7)
             AND e.kind = 'workflow' AND e.parent_id IS NULL AND NOT e.transient
             AND NOT EXISTS (SELECT FROM executions r WHERE r.rerun_of = e.id)
             AND CASE WHEN e.workflow_id IS NULL THEN $8
                 ELSE EXISTS (SELECT FROM workflows w WHERE w.id = e.workflow_id AND w.is_active) END
             AND ($8 OR e.form_id IS NULL)
             AND (e.organization_id IS NULL
                  OR EXISTS (SELECT FROM organizations o WHERE o.id = e.organization_id AND o.is_active))
           ORDER BY e.id
           LIMIT $9
           FOR UPDATE OF e SKIP LOCKED"#,
        &statuses,
        selection.workflow_id as _,
        selection.workflow_name,
        selection.since,
        selection.until,
        selection.executed_by as _,
        selection.error_type,
        actor.is_platform_admin,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let ids: Vec<Uuid> = picked.iter().map(|_| ExecutionId::generate().0).collect();
    let retried = sqlx::query_as!(
        Retried,
        r#"INSERT INTO executions (id, rerun_of, organization_id, workflow_id, workflow_name, code, script_name, parameters,
               startup, form_id, executed_by, executed_by_name, executed_by_email, is_platform_admin, priority,
               timeout_seconds, max_attempts, retry_policy, concurrency_key, due_at, queue_rank)
           SELECT p.new_id, e.id, e.organization_id, e.workflow_id, COALESCE(w.name, e.workflow_name), e.code, e.script_name,
               e.parameters, e.startup, e.form_id, $3, $4, $5, $6, e.priority,
               COALESCE(w.timeout_seconds, e.timeout_seconds), COALESCE(w.max_attempts, e.max_attempts),
               CASE WHEN w.max_attempts > 1 THEN (w.definition -> 'retry_policy')::json END, e.concurrency_key,
               now(), now() - make_interval(mins => e.priority)
           FROM UNNEST($1::uuid[], $2::uuid[]) AS p (old_id, new_id)
           JOIN executions e ON e.id = p.old_id
           LEFT JOIN workflows w ON w.id = e.workflow_id
           RETURNING id AS "id: ExecutionId", rerun_of AS "rerun_of!: ExecutionId",
               organization_id AS "organization_id: OrgId", workflow_name, priority"#,
        &picked,
        &ids,
        actor.id as _,
        actor.name,
        actor.email,
        actor.is_platform_admin,
    )
    .fetch_all(tx.conn())
    .await?;
    let resources = retried.iter().map(|one| (one.organization_id, one.rerun_of.to_string()));
    audit::record_all(tx, Action::ExecutionRetried, resources).await?;
    Ok(retried)
}

/// What it takes to run an execution again.
#[derive(Debug, Clone)]
pub struct Repeatable {
    /// Its organization.
    pub organization_id: Option<OrgId>,
    /// Its workflow; `None` for inline code.
    pub workflow_id: Option<WorkflowId>,
    /// Its source, for inline code.
    pub code: Option<String>,
    /// What the source is called.
    pub script_name: Option<String>,
    /// Its input.
    pub parameters: RawJson,
    /// What its form's launch workflow returned.
    pub startup: Option<RawJson>,
    /// The form it came from.
    pub form_id: Option<Uuid>,
    /// Whether it is kept out of lists.
    pub transient: bool,
    /// 1 to 10.
    pub priority: i16,
}

/// What it takes to run an execution of the scope again. Whether the reader may see it is for [`super::list::get`] to say.
///
/// # Errors
/// [`crate::Error::NotFound`]; [`crate::Error::Impossible`] when another run has handed it a secret, which its row shows masked.
pub async fn repeatable(tx: &mut OrgTx, id: ExecutionId) -> Result<Repeatable> {
    let row = sqlx::query!(
        r#"SELECT organization_id AS "organization_id: OrgId", workflow_id AS "workflow_id: WorkflowId", code, script_name,
               parameters AS "parameters: sqlx::types::Json<RawJson>", startup AS "startup: sqlx::types::Json<RawJson>",
               form_id, transient, priority, sealed_parameters IS NOT NULL AS "is_sealed!"
           FROM executions
           WHERE id = $1 AND kind = 'workflow'"#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(crate::Error::NotFound("execution"))?;
    if row.is_sealed {
        return Err(crate::Error::Impossible(
            "the run that started this one handed it a secret: run that one again instead".into(),
        ));
    }
    Ok(Repeatable {
        organization_id: row.organization_id,
        workflow_id: row.workflow_id,
        code: row.code,
        script_name: row.script_name,
        parameters: row.parameters.0,
        startup: row.startup.map(|startup| startup.0),
        form_id: row.form_id,
        transient: row.transient,
        priority: row.priority,
    })
}

fn names(selection: &Selection, default: &[Status]) -> Vec<String> {
    let statuses = if selection.statuses.is_empty() { default } else { &selection.statuses };
    statuses.iter().map(|status| status.as_str().to_owned()).collect()
}
