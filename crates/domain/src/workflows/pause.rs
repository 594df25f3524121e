//! Pausing a workflow: nothing of it starts, whoever submits it. What runs goes on, and what waits keeps its place.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::audit::{self, Action};
use crate::id::WorkflowId;
use crate::{Error, OrgTx, Result};

/// A workflow after it was paused or resumed.
#[derive(Debug, Clone)]
pub struct Paused {
    /// Id.
    pub id: WorkflowId,
    /// Name.
    pub name: String,
    /// Since when nothing of it starts; `None`: it starts.
    pub paused_at: Option<DateTime<Utc>>,
    /// E-mail of who paused it.
    pub paused_by: Option<String>,
}

/// Pauses; pausing twice is fine and keeps the first time.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn pause(tx: &mut OrgTx, id: WorkflowId) -> Result<Paused> {
    let by = tx.scope().actor().email.clone();
    let paused = sqlx::query_as!(
        Paused,
        r#"UPDATE workflows
           SET paused_by = CASE WHEN paused_at IS NULL THEN $2 ELSE paused_by END, paused_at = COALESCE(paused_at, now())
           WHERE id = $1 AND kind = 'workflow'
           RETURNING id AS "id: WorkflowId", name, paused_at, paused_by"#,
        id as _,
        by,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("workflow"))?;
    audit::record(tx, Action::WorkflowPaused, id, &serde_json::json!({ "name": paused.name })).await?;
    Ok(paused)
}

/// Resumes; resuming what is not paused is fine. The sweeper wakes what waits.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn resume(tx: &mut OrgTx, id: WorkflowId) -> Result<Paused> {
    let resumed = sqlx::query_as!(
        Paused,
        r#"UPDATE workflows
           SET paused_at = NULL, paused_by = NULL
           WHERE id = $1 AND kind = 'workflow'
           RETURNING id AS "id: WorkflowId", name, paused_at, paused_by"#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("workflow"))?;
    audit::record(tx, Action::WorkflowResumed, id, &serde_json::json!({ "name": resumed.name })).await?;
    Ok(resumed)
}

/// Since when what of the scope is paused.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn since(tx: &mut OrgTx) -> Result<HashMap<WorkflowId, DateTime<Utc>>> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: WorkflowId", paused_at AS "paused_at!" FROM workflows WHERE paused_at IS NOT NULL"#,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.paused_at)).collect())
}
