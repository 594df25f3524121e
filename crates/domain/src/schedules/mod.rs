//! Schedules: workflows that run by themselves.
//!
//! The files say when (`follow`); `timetable` knows the clocks; `fire` decides what becomes of each tick. The invariant:
//! a tick is the primary key (workflow, time) of a row that is written in the transaction of its execution, so however
//! many replicas tick, it fires once.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::audit::{self, Action};
use crate::id::{ExecutionId, WorkflowId};
use crate::page::NameCursor;
use crate::{Error, OrgTx, Result};

pub mod fire;
pub(crate) mod follow;
pub mod timetable;

pub use timetable::Timetable;

/// Ticks closer than this are worth a warning: each is an execution.
pub const SHORT_INTERVAL_SECONDS: i64 = 300;

/// What happens to a tick while a scheduled run before it has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Overlap {
    /// It is recorded, and nothing runs.
    Skip,
    /// It waits for the end; at most one does.
    Queue,
    /// It runs beside.
    Allow,
}

/// What happens to ticks that were missed while nobody ticked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Misfire {
    /// They are recorded, and nothing runs.
    Skip,
    /// The last one runs.
    Latest,
    /// They run, oldest first, at most the newest 24.
    All,
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It started an execution.
    Started,
    /// It waits for the run before it.
    Waiting,
    /// The run before it had not ended.
    Overlapped,
    /// Nobody ticked at its time.
    Missed,
    /// The organization is inactive.
    Inactive,
}

/// A workflow with a schedule.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the rows; see the schema")]
pub struct Schedule {
    pub workflow_id: WorkflowId,
    pub name: String,
    pub description: Option<String>,
    pub category: String,
    pub path: String,
    pub tags: Option<serde_json::Value>,
    pub expression: String,
    pub timezone: String,
    pub error: Option<String>,
    pub next_fire_at: Option<DateTime<Utc>>,
    /// Whether the next tick is later than the clockwork can explain.
    pub is_overdue: bool,
    pub paused_at: Option<DateTime<Utc>>,
    pub last_run_at: Option<DateTime<Utc>>,
    pub last_execution_id: Option<ExecutionId>,
    pub run_count: i64,
}

/// What became of a tick, as history shows it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the rows; see the schema")]
pub struct Fire {
    pub fire_at: DateTime<Utc>,
    pub outcome: Outcome,
    pub ticks: i32,
    pub execution_id: Option<ExecutionId>,
    pub decided_at: DateTime<Utc>,
}

/// The active workflows in reach that have a schedule, by name, one page.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, limit: i64, after: &NameCursor) -> Result<Vec<Schedule>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    Ok(sqlx::query_as!(
        Schedule,
        r#"SELECT s.workflow_id AS "workflow_id: WorkflowId", w.name, w.description, w.category, w.path,
               w.definition -> 'tags' AS tags, s.expression, s.timezone, s.error, s.next_fire_at,
               COALESCE(s.next_fire_at < now() - interval '6 minutes' AND s.paused_at IS NULL, FALSE) AS "is_overdue!",
               s.paused_at, s.last_run_at, s.last_execution_id AS "last_execution_id: ExecutionId", s.run_count
           FROM schedules s
           JOIN workflows w ON w.id = s.workflow_id AND w.is_active
           WHERE s.expression <> '' AND ($1 OR s.organization_id IS NULL OR s.organization_id = $2)
             AND (w.name COLLATE "C", w.id) > ($3 COLLATE "C", $4)
           ORDER BY w.name COLLATE "C", w.id
           LIMIT $5"#,
        spans_all,
        org as _,
        after.name,
        after.id,
        limit,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Makes sure that this workflow has a schedule.
///
/// # Errors
/// [`Error::NotFound`] when it has none, or is not in reach.
pub async fn require(tx: &mut OrgTx, id: WorkflowId) -> Result<()> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM schedules s JOIN workflows w ON w.id = s.workflow_id AND w.is_active
                          WHERE s.workflow_id = $1 AND s.expression <> '') AS "found!""#,
        id as _,
    )
    .fetch_one(tx.conn())
    .await?;
    if found { Ok(()) } else { Err(Error::NotFound("schedule")) }
}

/// Pauses a schedule: nothing fires until it is resumed. Pausing a paused one changes nothing.
///
/// # Errors
/// As [`require`].
pub async fn pause(tx: &mut OrgTx, id: WorkflowId) -> Result<()> {
    require(tx, id).await?;
    let actor = tx.scope().actor().email.clone();
    let changed = sqlx::query!(
        "UPDATE schedules
         SET paused_at = now(), paused_by = $2, updated_at = now()
         WHERE workflow_id = $1 AND paused_at IS NULL",
        id as _,
        actor,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if changed > 0 {
        audit::record(tx, Action::SchedulePaused, format!("schedule/{id}"), &()).await?;
    }
    Ok(())
}

/// Resumes a schedule with the next tick from now on: what passed meanwhile was not wanted.
///
/// # Errors
/// As [`require`].
pub async fn resume(tx: &mut OrgTx, id: WorkflowId) -> Result<()> {
    require(tx, id).await?;
    let row = sqlx::query!(
        r#"SELECT expression, timezone, now() AS "now!" FROM schedules
           WHERE workflow_id = $1 AND paused_at IS NOT NULL
           FOR UPDATE"#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(()) };
    let next =
        Timetable::parse(&row.expression, &row.timezone).ok().and_then(|table| table.next_after(row.now));
    sqlx::query!(
        "UPDATE schedules
         SET paused_at = NULL, paused_by = NULL, next_fire_at = $2, updated_at = now()
         WHERE workflow_id = $1",
        id as _,
        next,
    )
    .execute(tx.conn())
    .await?;
    audit::record(tx, Action::ScheduleResumed, format!("schedule/{id}"), &()).await
}

/// What became of the ticks of a workflow, newest first, one page.
///
/// # Errors
/// As [`require`].
pub async fn history(
    tx: &mut OrgTx,
    id: WorkflowId,
    limit: i64,
    before: Option<DateTime<Utc>>,
) -> Result<Vec<Fire>> {
    require(tx, id).await?;
    Ok(sqlx::query_as!(
        Fire,
        r#"SELECT fire_at, outcome AS "outcome: Outcome", ticks, execution_id AS "execution_id: ExecutionId", decided_at
           FROM schedule_fires
           WHERE workflow_id = $1 AND ($2::timestamptz IS NULL OR fire_at < $2)
           ORDER BY fire_at DESC
           LIMIT $3"#,
        id as _,
        before,
        limit,
    )
    .fetch_all(tx.conn())
    .await?)
}
