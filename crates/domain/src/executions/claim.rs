//! Claim: pending rows become running, fenced by a higher attempt and a lease.
//!
//! The message that woke the worker only says that something waits; which rows run is decided here, on the database's
//! clock: the organization that runs least first, and of each the smallest `queue_rank` (ADR 12).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::limits::{self, Room};
use super::{Kind, RawJson, Status, queue};
use crate::events::Update;
use crate::id::{ExecutionId, OrgId, UserId, WorkerId, WorkflowId};
use crate::workflows::RetryPolicy;
use crate::{Actor, Db, OrgScope, Result, SystemScope, in_time};

/// How long a lease lasts without a heartbeat.
pub const LEASE: Duration = Duration::from_secs(10);

/// How long the answer to a statement that claims is waited for: a connection may be dead without anybody having said so. What was
/// claimed all the same is the reaper's.
pub const PATIENCE: Duration = Duration::from_secs(5);

const SCOPE: SystemScope = SystemScope::because("a worker claims for every organization");

/// A claimed execution, with all a run needs.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the row; see the schema")]
pub struct Claimed {
    pub id: ExecutionId,
    pub attempt: i32,
    pub max_attempts: i32,
    /// Attempts that do not count.
    pub given_back: i32,
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
    /// Kept out of lists, histories and metrics.
    pub transient: bool,
    pub parameters: Json<RawJson>,
    /// What it runs with instead, for [`super::sealed::open`].
    pub sealed_parameters: Option<Vec<u8>>,
    pub startup: Option<Json<RawJson>>,
    pub executed_by: UserId,
    pub executed_by_name: String,
    pub executed_by_email: String,
    /// Whether it was started by a platform administrator who still is one.
    pub is_platform_admin: bool,
    pub is_function_key: bool,
    pub retry_policy: Option<Json<RetryPolicy>>,
    pub timeout_seconds: i32,
    pub priority: i16,
    /// W3C trace context of the request that submitted it.
    pub traceparent: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    /// Last sequence that earlier attempts logged.
    pub last_sequence: i64,
    /// The same, counting only lines a user may see.
    pub last_user_sequence: i64,
    /// Whether its end gives a slot back that others may wait for.
    pub is_limited: bool,
    /// The environment of packages in use when it was claimed, or a later one, is what it runs with.
    pub environment_version: i64,
    /// Whether something limited was next in turn when it was claimed.
    comes_before_limited: bool,
}

impl Claimed {
    /// That it is in this state.
    pub fn update(&self, status: Status) -> Update {
        let executed_by = (self.executed_by, self.executed_by_name.clone());
        let name = self.workflow_name.clone();
        Update {
            started_at: self.started_at,
            transient: self.transient,
            ..Update::new(self.id, self.organization_id, name, executed_by, status, self.attempt)
        }
    }

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

/// Makes the rows that `$picked` names, and has locked, running; answers with all a run needs. All ways to claim share it;
/// the macros of sqlx take text only.
macro_rules! claim {
    ($picked:tt, $comes_before_limited:tt, $worker:expr, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            Claimed,
            $picked
                + r#", claimed AS (
                   UPDATE executions e
                   SET status = 'Running', attempt = e.attempt + 1, lease_owner = $1,
                       lease_expires_at = now() + make_interval(secs => $2),
                       started_at = COALESCE(e.started_at, now()), attempt_started_at = now()
                   -- An array, because the planner expects few of it and goes by the key. That it waits was found when it was
                   -- locked; asked for here, all that waits would be gone through, for the planner knows of little.
                   WHERE e.id = ANY (ARRAY(SELECT id FROM picked))
                   RETURNING e.*
               )
               SELECT e.id AS "id!: ExecutionId", e.attempt AS "attempt!", e.max_attempts AS "max_attempts!",
                   e.given_back AS "given_back!",
                   e.kind AS "kind!: Kind",
                   e.organization_id AS "organization_id?: OrgId",
                   o.name AS "organization_name?", o.is_active AS "organization_is_active?",
                   e.workflow_id AS "workflow_id?: WorkflowId", e.workflow_name AS "workflow_name!",
                   w.path AS "path?", w.function_name AS "function_name?", w.isolation AS "isolation?",
                   e.code, e.script_name, e.form_id, e.transient AS "transient!", e.parameters AS "parameters!: Json<RawJson>", e.sealed_parameters,
                   e.startup AS "startup?: Json<RawJson>",
                   e.executed_by AS "executed_by!: UserId", e.executed_by_name AS "executed_by_name!",
                   e.executed_by_email AS "executed_by_email!",
                   -- The rights of an administrator end with the administrator, whatever still waits.
                   CASE WHEN e.is_platform_admin
                       THEN COALESCE((SELECT u.is_active AND u.is_superuser FROM users u WHERE u.id = e.executed_by), FALSE)
                       ELSE FALSE END AS "is_platform_admin!",
                   e.is_function_key AS "is_function_key!",
                   e.retry_policy AS "retry_policy?: Json<RetryPolicy>", e.timeout_seconds AS "timeout_seconds!",
                   e.priority AS "priority!", e.traceparent, e.started_at,
                   CASE WHEN e.attempt = 1 THEN 0 ELSE last_sequence(e.id, FALSE) END AS "last_sequence!",
                   CASE WHEN e.attempt = 1 THEN 0 ELSE last_sequence(e.id, TRUE) END AS "last_user_sequence!",
                   w.concurrency_limit IS NOT NULL OR o.concurrency_limit IS NOT NULL AS "is_limited!",
                   COALESCE((SELECT s.id FROM package_switches s ORDER BY s.id DESC LIMIT 1), 0) AS "environment_version!", "#
                + $comes_before_limited
                + r#" AS "comes_before_limited!"
               FROM claimed e
               LEFT JOIN workflows w ON w.id = e.workflow_id AND w.is_active
               LEFT JOIN organizations o ON o.id = e.organization_id
               ORDER BY e.queue_rank, e.id"#,
            $worker as WorkerId,
            LEASE.as_secs_f64(),
            $($argument),+
        )
    };
}

/// Claims up to `limit` due rows for `worker`, always the most urgent of the organization that runs least.
///
/// While nothing limited waits that is one statement and one commit. What comes after something limited is claimed under
/// a lock, together with it.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away or does not answer within [`PATIENCE`], and nothing was claimed before.
pub async fn claim(db: &Db, worker: WorkerId, limit: usize) -> Result<Vec<Claimed>> {
    let mut claimed = Vec::new();
    match claim_into(&mut claimed, db, worker, limit).await {
        // What is committed is this worker's to run: nobody else may until its leases end.
        Err(error) if !claimed.is_empty() => tracing::warn!(%error, "cannot claim all there is"),
        outcome => outcome?,
    }
    Ok(claimed)
}

async fn claim_into(claimed: &mut Vec<Claimed>, db: &Db, worker: WorkerId, limit: usize) -> Result<()> {
    while claimed.len() < limit {
        let more = in_time(PATIENCE, Box::pin(claim_unlimited(db, worker, limit - claimed.len()))).await?;
        let (is_empty, is_limited_next) = (more.is_empty(), more.iter().any(|one| one.comes_before_limited));
        claimed.extend(more);
        // Of nothing it cannot be told whether something limited came first.
        if claimed.len() < limit
            && (is_limited_next || (is_empty && in_time(PATIENCE, are_any_limited(db)).await?))
        {
            claimed
                .extend(in_time(PATIENCE, Box::pin(claim_limited(db, worker, limit - claimed.len()))).await?);
            break;
        }
        if is_empty {
            break;
        }
    }
    Ok(())
}

async fn are_any_limited(db: &Db) -> Result<bool> {
    limits::are_any(&mut *db.system(&SCOPE).await?).await
}

/// Claims what no limit concerns, up to the first that one does. Claims at the same time pass by each other's rows.
async fn claim_unlimited(db: &Db, worker: WorkerId, limit: usize) -> Result<Vec<Claimed>> {
    let mut conn = db.system(&SCOPE).await?;
    let claimed = claim!(
        r#"WITH lanes AS MATERIALIZED (
               SELECT lane, count(*) OVER () AS lanes FROM pending_lanes($4, $5) AS lane
           ), limited AS MATERIALIZED (
               SELECT id, paused_at IS NOT NULL AS is_paused
               FROM workflows
               WHERE concurrency_limit IS NOT NULL OR rate_limit_starts IS NOT NULL OR paused_at IS NOT NULL
           ), limited_organizations AS MATERIALIZED (
               SELECT id FROM organizations WHERE concurrency_limit IS NOT NULL
           ), shares AS MATERIALIZED (
               SELECT organization_id, count(*) AS running
               FROM executions
               WHERE status IN ('Running', 'Cancelling') AND lease_expires_at > now() - interval '1 minute'
                 -- One lane needs no sharing.
                 AND (SELECT count(*) > 1 FROM lanes)
               GROUP BY organization_id
           ), heads AS (
               SELECT e.id, e.lane, e.queue_rank, w.id IS NOT NULL OR o.id IS NOT NULL AS is_limited,
                   COALESCE(s.running, 0)
                       + row_number() OVER (PARTITION BY e.organization_id ORDER BY e.queue_rank, e.id) AS turn
               FROM lanes l
               CROSS JOIN LATERAL (
                   SELECT e.id, e.lane, e.queue_rank, e.organization_id, e.workflow_id
                   FROM executions e
                   WHERE e.status = 'Pending' AND e.lane = l.lane
                     AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
                   ORDER BY e.queue_rank, e.id
                   LIMIT LEAST($3::bigint, GREATEST(1, $3::bigint * 4 / l.lanes))
               ) AS e
               LEFT JOIN limited w ON w.id = e.workflow_id
               LEFT JOIN limited_organizations o ON o.id = e.organization_id
               LEFT JOIN shares s ON s.organization_id IS NOT DISTINCT FROM e.organization_id
               WHERE w.is_paused IS NOT TRUE
           ), turns AS (
               SELECT id, lane, bool_or(is_limited) OVER (ORDER BY turn, queue_rank, id) AS is_after_limited
               FROM heads
               ORDER BY turn, queue_rank, id
               LIMIT $3::bigint
           ), quotas AS (
               SELECT lane, count(*) AS rows
               FROM turns
               WHERE NOT is_after_limited
               GROUP BY lane
           ), picked AS (
               -- Rows that another worker is claiming are passed by, and the lane's next taken.
               SELECT e.id
               FROM quotas q
               CROSS JOIN LATERAL (
                   SELECT e.id
                   FROM executions e
                   WHERE e.status = 'Pending' AND e.lane = q.lane
                     AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
                   ORDER BY e.queue_rank, e.id
                   LIMIT q.rows
                   FOR UPDATE SKIP LOCKED
               ) AS e
           )"#,
        "(SELECT bool_or(is_after_limited) FROM turns)",
        worker,
        i64::try_from(limit).unwrap_or(i64::MAX),
        queue::anywhere(),
        queue::LANES,
    );
    Ok(claimed.fetch_all(&mut *conn).await?)
}

/// Claims these, which were submitted a moment ago, if nothing else waits: then nobody is passed by. What is not there, not
/// due, taken, paused or limited is left to [`claim`].
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away or does not answer within [`PATIENCE`].
pub async fn claim_submitted(db: &Db, worker: WorkerId, submitted: &[ExecutionId]) -> Result<Vec<Claimed>> {
    in_time(PATIENCE, Box::pin(claim_named(db, worker, submitted))).await
}

async fn claim_named(db: &Db, worker: WorkerId, submitted: &[ExecutionId]) -> Result<Vec<Claimed>> {
    let ids: Vec<Uuid> = submitted.iter().map(|id| id.0).collect();
    let mut conn = db.system(&SCOPE).await?;
    let claimed = claim!(
        "WITH others AS MATERIALIZED (
             SELECT FROM executions e
             WHERE e.status = 'Pending' AND e.queue_rank <= now() - interval '1 minute' AND e.due_at <= now()
               AND e.id <> ALL ($3)
             LIMIT 1
         ), picked AS (
             SELECT e.id
             FROM executions e
             -- COALESCE, to go by the key (ADR 57).
             WHERE e.id = ANY ($3) AND COALESCE(e.status, '') = 'Pending' AND e.due_at <= now()
               AND NOT EXISTS (SELECT FROM others)
               AND NOT EXISTS (
                   SELECT FROM workflows w
                   WHERE w.id = e.workflow_id
                     AND (w.concurrency_limit IS NOT NULL OR w.rate_limit_starts IS NOT NULL OR w.paused_at IS NOT NULL))
               AND NOT EXISTS (
                   SELECT FROM organizations o WHERE o.id = e.organization_id AND o.concurrency_limit IS NOT NULL)
             FOR UPDATE OF e SKIP LOCKED
         )",
        "FALSE",
        worker,
        &ids,
    );
    Ok(claimed.fetch_all(&mut *conn).await?)
}

/// Claims whatever its limits let start. One transaction at a time does, so that none counts less than what runs.
async fn claim_limited(db: &Db, worker: WorkerId, limit: usize) -> Result<Vec<Claimed>> {
    let mut tx = db.begin_system(&SCOPE).await?;
    limits::lock(tx.conn()).await?;
    let heads = queue::heads(tx.conn(), i64::try_from(limit).unwrap_or(i64::MAX), 0.0).await?;
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let mut room = Room::load(tx.conn(), &heads).await?;
    let chosen: Vec<Uuid> = room.choose(heads, limit).iter().map(|one| one.id.0).collect();
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let claimed = claim!(
        "WITH picked AS (
             SELECT e.id
             FROM executions e
             -- COALESCE, to go by the key (ADR 57).
             WHERE e.id = ANY ($3) AND COALESCE(e.status, '') = 'Pending'
             ORDER BY e.id
             FOR UPDATE
         )",
        "FALSE",
        worker,
        &chosen,
    );
    let claimed = claimed.fetch_all(tx.conn()).await?;
    let counted: Vec<WorkflowId> =
        claimed.iter().filter_map(|one| one.workflow_id).filter(|id| room.has_rate(*id)).collect();
    limits::remember_starts(tx.conn(), &counted).await?;
    tx.commit().await?;
    Ok(claimed)
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
/// It waits for no lock: a row that somebody else holds is this worker's still, and the next heartbeat extends its lease.
/// Whoever holds one row for long must not cost the worker all others.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn heartbeat(db: &Db, worker: WorkerId, running: &[ExecutionId]) -> Result<Vec<Held>> {
    let ids: Vec<Uuid> = running.iter().map(|id| id.0).collect();
    let mut conn = db.system(&SCOPE).await?;
    let rows = sqlx::query!(
        r#"WITH free AS MATERIALIZED (
               SELECT id
               FROM executions
               -- COALESCE, to go by the key (ADR 57).
               WHERE id = ANY ($1) AND lease_owner = $2 AND COALESCE(status, '') IN ('Running', 'Cancelling')
               FOR NO KEY UPDATE SKIP LOCKED
           ), kept AS (
               UPDATE executions
               SET lease_expires_at = now() + make_interval(secs => $3)
               WHERE id = ANY (ARRAY(SELECT id FROM free))
           )
           SELECT id AS "id: ExecutionId", attempt, status = 'Cancelling' AS "cancelling!"
           FROM executions
           WHERE id = ANY ($1) AND lease_owner = $2 AND COALESCE(status, '') IN ('Running', 'Cancelling')"#,
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
