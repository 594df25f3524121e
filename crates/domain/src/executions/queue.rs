//! The queue as the claim sees it: what waits and is due, lane by lane, an organization's most urgent first.
//!
//! A lane holds the waiting runs of one organization, workflow and concurrency key (ADR 12). Looking at the heads of lanes
//! costs the same whatever is queued behind them. What is paused is not shown; limits are checked in `limits.rs`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Result;
use crate::id::{ExecutionId, OrgId, WorkflowId};

/// Lanes that one look takes in, some of each organization first; with more, looks begin at random places, so that each lane has
/// its turn.
pub(super) const LANES: i32 = 256;

/// A run that waits and is due.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) id: ExecutionId,
    pub(super) organization_id: Option<OrgId>,
    pub(super) workflow_id: Option<WorkflowId>,
    pub(super) concurrency_key: Option<String>,
    /// Whether another run waits for it, which then holds the organization's slot for both, or a form does.
    pub(super) is_awaited: bool,
    pub(super) priority: i16,
    pub(super) queue_rank: DateTime<Utc>,
    pub(super) traceparent: Option<String>,
}

/// Where a look at the lanes begins.
pub(super) fn anywhere() -> i64 {
    Uuid::new_v4().as_u64_pair().0.cast_signed()
}

/// The heads of the lanes: at least the `limit` that fairness may choose from. What was to start at once is left out for
/// `grace_seconds`, while its own wake-up is on its way; nobody publishes one for what was given a later time.
pub(super) async fn heads(conn: &mut PgConnection, limit: i64, grace_seconds: f64) -> Result<Vec<Waiting>> {
    Ok(sqlx::query_as!(
        Waiting,
        r#"WITH paused AS MATERIALIZED (
               SELECT id FROM workflows WHERE paused_at IS NOT NULL
           )
           SELECT e.id AS "id!: ExecutionId", e.organization_id AS "organization_id: OrgId",
               e.workflow_id AS "workflow_id: WorkflowId", e.concurrency_key, e.is_awaited AS "is_awaited!",
               e.priority AS "priority!", e.queue_rank AS "queue_rank!", e.traceparent
           FROM (SELECT lane, count(*) OVER () AS lanes FROM pending_lanes($1, $2) AS lane) AS l
           CROSS JOIN LATERAL (
               SELECT e.id, e.organization_id, e.workflow_id, e.concurrency_key, e.is_awaited,
                   e.priority, e.queue_rank, e.traceparent
               FROM executions e
               WHERE e.status = 'Pending' AND e.lane = l.lane
                 AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
                 AND (e.due_at > e.created_at OR e.created_at <= now() - make_interval(secs => $4))
               ORDER BY e.queue_rank, e.id
               LIMIT LEAST($3::bigint, GREATEST(1, $3::bigint * 4 / l.lanes))
           ) AS e
           WHERE e.workflow_id IS NULL OR e.workflow_id NOT IN (SELECT id FROM paused)"#,
        anywhere(),
        LANES,
        limit,
        grace_seconds,
    )
    .fetch_all(conn)
    .await?)
}
