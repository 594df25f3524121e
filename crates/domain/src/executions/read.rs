//! Reading one execution in one round trip, for the operation that clients call most.
//!
//! The statement sets its own scope and looks at the table only after that: the fenced subqueries (`OFFSET 0`)
//! cannot be reordered, and a connection of the app pool without a scope sees nothing anyway.

use sqlx::types::Json;

use super::{Execution, RawJson, Status, list, logs};
use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};
use crate::{Db, Error, OrgScope, Result, SystemScope};

/// One execution of the scope. Another user's is [`Error::Forbidden`] for a user without platform rights.
///
/// # Errors
/// [`Error::NotFound`] also when it belongs to another organization.
pub async fn get(db: &Db, scope: &OrgScope, id: ExecutionId) -> Result<Execution> {
    Ok(find(db, scope, id).await?.0)
}

/// One execution with all its lines that the reader may see; the lines are asked for only if there are any.
///
/// # Errors
/// As [`get`].
pub async fn get_with_lines(
    db: &Db,
    scope: &OrgScope,
    id: ExecutionId,
    limit: i64,
    all_levels: bool,
) -> Result<(Execution, Vec<logs::Line>)> {
    let (execution, has_lines) = find(db, scope, id).await?;
    let mut lines = Vec::new();
    if has_lines {
        let mut tx = db.begin(scope).await?;
        lines = logs::list(&mut tx, id, 0, limit, all_levels).await?;
        tx.commit().await?;
    }
    Ok((execution, lines))
}

/// How many runs started each other, down to this one: 1 for a run that no other has started. Counts to a hundred.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn depth(db: &Db, id: ExecutionId) -> Result<i64> {
    let mut conn = db
        .system(&SystemScope::because("a run may have been started by one of another organization"))
        .await?;
    Ok(sqlx::query_scalar!(
        r#"WITH RECURSIVE line AS (
               SELECT parent_id, 1 AS depth FROM executions WHERE id = $1
               UNION ALL
               SELECT e.parent_id, line.depth + 1 FROM line JOIN executions e ON e.id = line.parent_id WHERE line.depth < 100
           )
           SELECT count(*) AS "depth!" FROM line"#,
        id as _,
    )
    .fetch_one(&mut *conn)
    .await?)
}

async fn find(db: &Db, scope: &OrgScope, id: ExecutionId) -> Result<(Execution, bool)> {
    let mut conn = db.unscoped().await?;
    let row = sqlx::query!(
        r#"SELECT e.id AS "id!: ExecutionId", e.organization_id AS "organization_id: OrgId",
               e.workflow_id AS "workflow_id: WorkflowId", e.workflow_name AS "workflow_name!", e.form_id,
               e.executed_by AS "executed_by!: UserId", e.executed_by_name AS "executed_by_name!",
               e.status AS "status!: Status", e.priority AS "priority!", e.attempt AS "attempt!",
               e.max_attempts AS "max_attempts!", e.parameters AS "parameters!: Json<RawJson>",
               e.result AS "result: Json<RawJson>", e.result_type, e.error_message, e.error_type,
               e.is_user_error AS "is_user_error!", e.transient AS "transient!",
               e.rerun_of AS "rerun_of: ExecutionId", e.variables AS "variables: Json<RawJson>", e.peak_memory_bytes, e.cpu_total_seconds, e.duration_ms,
               e.created_at AS "created_at!", e.started_at, e.completed_at, e.has_lines AS "has_lines!"
           FROM (SELECT set_config('bifrost.org_id', $1, TRUE) AS setting OFFSET 0) AS scope
           CROSS JOIN LATERAL (
               -- Of the argument as well: so the partition is known when the statement begins.
               SELECT *, EXISTS (SELECT FROM execution_logs l WHERE l.execution_id = executions.id AND l.execution_id = $2) AS has_lines
               FROM executions
               WHERE executions.id = $2 AND executions.kind = 'workflow' AND scope.setting IS NOT NULL
               OFFSET 0
           ) AS e"#,
        scope.setting(),
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Error::NotFound("execution"))?;
    let execution = Execution {
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
        result: row.result,
        result_type: row.result_type,
        error_message: row.error_message,
        error_type: row.error_type,
        is_user_error: row.is_user_error,
        transient: row.transient,
        rerun_of: row.rerun_of,
        variables: row.variables,
        peak_memory_bytes: row.peak_memory_bytes,
        cpu_total_seconds: row.cpu_total_seconds,
        duration_ms: row.duration_ms,
        created_at: row.created_at,
        started_at: row.started_at,
        completed_at: row.completed_at,
    };
    list::check_owner(scope, &execution)?;
    Ok((execution, row.has_lines))
}
