//! Reading executions: one by id, pages by keyset.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Execution, RawJson, Status};
use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};
use crate::page::Cursor;
use crate::{Error, OrgScope, OrgTx, Permission, Result};

/// What a list shows; part of its continuation token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filters {
    /// Exact workflow name.
    pub workflow_name: Option<String>,
    /// State.
    pub status: Option<Status>,
    /// Created at or after.
    pub since: Option<DateTime<Utc>>,
    /// Created at or before.
    pub until: Option<DateTime<Utc>>,
    /// Only this user's.
    pub executed_by: Option<UserId>,
}

/// One execution of the scope. Another user's is [`Error::Forbidden`] for a user without platform rights.
///
/// # Errors
/// [`Error::NotFound`] also when it belongs to another organization.
pub async fn get(tx: &mut OrgTx, id: ExecutionId) -> Result<Execution> {
    let execution = executions!(
        "SELECT",
        "e.result",
        "e.variables",
        "FROM executions e
         WHERE e.id = $1 AND e.kind = 'workflow'",
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("execution"))?;
    check_owner(tx.scope(), &execution)?;
    Ok(execution)
}

/// A user without platform rights reads their own executions only, unless a role opens those of the organization.
pub(super) fn check_owner(scope: &OrgScope, execution: &Execution) -> Result<()> {
    if execution.executed_by == scope.actor().id || scope.permits(Permission::ExecutionsRead) {
        return Ok(());
    }
    Err(Error::Forbidden("this execution belongs to another user".into()))
}

/// Executions of the scope, newest first, at most `limit`, after `after`. Transient ones are left out, and so
/// are results, variables and logs.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(
    tx: &mut OrgTx,
    filters: &Filters,
    limit: i64,
    after: Option<Cursor>,
) -> Result<Vec<Execution>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    let executions = if spans_all {
        executions!(
            "SELECT",
            "e.result",
            "NULL::json",
            "FROM executions e
             WHERE NOT transient AND ($1::uuid IS NULL OR id < $1)
               AND ($2::text IS NULL OR workflow_name = $2) AND ($3::text IS NULL OR status = $3)
               AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at <= $5)
               AND ($6::uuid IS NULL OR executed_by = $6)
             ORDER BY id DESC
             LIMIT $7",
            after.map(|cursor| cursor.0),
            filters.workflow_name,
            filters.status.map(Status::as_str),
            filters.since,
            filters.until,
            filters.executed_by as _,
            limit,
        )
        .fetch_all(tx.conn())
        .await?
    } else {
        executions!(
            "SELECT",
            "e.result",
            "NULL::json",
            "FROM executions e
             WHERE NOT transient AND (CASE WHEN organization_id IS NULL
                   THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $8 AND ($1::uuid IS NULL OR id < $1)
               AND ($2::text IS NULL OR workflow_name = $2) AND ($3::text IS NULL OR status = $3)
               AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at <= $5)
               AND ($6::uuid IS NULL OR executed_by = $6)
             ORDER BY id DESC
             LIMIT $7",
            after.map(|cursor| cursor.0),
            filters.workflow_name,
            filters.status.map(Status::as_str),
            filters.since,
            filters.until,
            filters.executed_by as _,
            limit,
            org.map_or(Uuid::nil(), |org| org.0),
        )
        .fetch_all(tx.conn())
        .await?
    };
    Ok(executions)
}
