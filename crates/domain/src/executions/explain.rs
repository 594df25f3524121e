//! Why an execution does not run yet, or any more: all reasons there are at the moment, the decisive ones first.
//!
//! It asks the same questions as the claim, of the same rows. What it tells of other organizations is only that a limit
//! they share is reached. Those who follow a run are told its place in the queue instead: a plain count, cheap enough to be made
//! again each second.

use chrono::{DateTime, Utc};

use super::limits::{Full, Room};
use super::queue::{self, Waiting};
use super::{Execution, Status, read};
use crate::id::{ExecutionId, OrgId, WorkflowId};
use crate::workers::{self, Capacity};
use crate::{Db, OrgScope, Result, SystemScope};

/// As many more urgent ones are counted.
const MOST_AHEAD: i64 = 1_000;
const SCOPE: SystemScope =
    SystemScope::because("limits and workers are shared; the reader has been checked against the row");

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members say what they are")]
pub enum Reason {
    /// Its workflow is paused.
    Paused { since: DateTime<Utc> },
    /// It was given a time.
    Delayed { until: DateTime<Utc> },
    /// An attempt failed and the pause before the next is not over. Attempts that were given back do not count.
    RetryPause { until: DateTime<Utc>, attempt: i32, max_attempts: i32 },
    /// As many of the workflow run as may.
    WorkflowLimit { limit: i64 },
    /// As many with its key run as may.
    KeyLimit { limit: i64, key: String },
    /// As many of its organization run as may.
    OrganizationLimit { limit: i64 },
    /// As many of the workflow started as may in this time.
    RateLimit { limit: i64, seconds: i64 },
    /// No worker is alive.
    NoWorker,
    /// All slots of all workers are taken.
    WorkersBusy { slots: i64 },
    /// At least so many more urgent ones of its organization go first.
    Behind { ahead: i64 },
    /// Nothing holds it: a worker is about to take it.
    Ready,
    /// A worker runs it.
    Running { attempt: i32 },
    /// It was asked to stop.
    Cancelling,
    /// It is over.
    Ended,
}

/// An execution and the reasons.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The execution.
    pub execution: Execution,
    /// At least one.
    pub reasons: Vec<Reason>,
}

struct Row {
    waiting: Waiting,
    due_at: DateTime<Utc>,
    is_due: bool,
    paused_at: Option<DateTime<Utc>>,
    /// Attempts that count so far.
    attempt: i32,
}

/// Explains an execution of the scope.
///
/// # Errors
/// As [`read::get`].
pub async fn explain(db: &Db, scope: &OrgScope, id: ExecutionId) -> Result<Explanation> {
    let execution = read::get(db, scope, id).await?;
    let reasons = match execution.status {
        Status::Pending => waits_for(db, &execution).await?,
        Status::Running => vec![Reason::Running { attempt: execution.attempt }],
        Status::Cancelling => vec![Reason::Cancelling],
        _ => vec![Reason::Ended],
    };
    Ok(Explanation { execution, reasons })
}

/// The place of an execution among the waiting ones of its organization, from 1; beyond 1,000 it is 1,001. `None` when it stands in
/// no queue: it does not wait, its time has not come, or its workflow is paused.
///
/// Whoever asks has been checked against the row. Limits are left aside, unlike in [`explain`]: what they hold back counts as well.
/// It looks into as many lanes as the claim does, and counts no further than that, so its cost has a bound.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn position(db: &Db, id: ExecutionId) -> Result<Option<i64>> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_scalar!(
        r#"WITH RECURSIVE own AS (
               SELECT e.id, e.organization_id, e.lane, e.queue_rank
               FROM executions e
               LEFT JOIN workflows w ON w.id = e.workflow_id
               -- COALESCE, to go by the key (ADR 57).
               WHERE e.id = $1 AND COALESCE(e.status, '') = 'Pending' AND e.due_at <= now() AND w.paused_at IS NULL
           ), lanes AS (
               -- Those of its organization lie beside each other (ADR 12).
               SELECT one.lane, one.organization_id, one.workflow_id, 1 AS number
               FROM own
               CROSS JOIN LATERAL (
                   SELECT e.lane, e.organization_id, e.workflow_id
                   FROM executions e
                   WHERE e.status = 'Pending' AND e.lane >= (own.lane >> 44 << 44)
                   ORDER BY e.lane
                   LIMIT 1
               ) AS one
               UNION ALL
               SELECT one.lane, one.organization_id, one.workflow_id, l.number + 1
               FROM lanes l
               CROSS JOIN own
               CROSS JOIN LATERAL (
                   SELECT e.lane, e.organization_id, e.workflow_id
                   FROM executions e
                   WHERE e.status = 'Pending' AND e.lane > l.lane AND e.lane <= (own.lane | ((1::bigint << 44) - 1))
                   ORDER BY e.lane
                   LIMIT 1
               ) AS one
               WHERE l.number < $2
           )
           SELECT 1 + (
               SELECT count(*)
               FROM (
                   SELECT
                   FROM lanes l
                   CROSS JOIN LATERAL (
                       SELECT
                       FROM executions e
                       WHERE e.status = 'Pending' AND e.lane = l.lane
                         AND (e.queue_rank, e.id) < (own.queue_rank, own.id) AND e.due_at <= now()
                       ORDER BY e.queue_rank, e.id
                       LIMIT $3
                   ) AS one
                   -- The digests of two organizations may be equal.
                   WHERE l.organization_id IS NOT DISTINCT FROM own.organization_id
                     AND NOT EXISTS (SELECT FROM workflows w WHERE w.id = l.workflow_id AND w.paused_at IS NOT NULL)
                   LIMIT $3
               ) AS ahead
           ) AS "position!"
           FROM own"#,
        id as _,
        queue::LANES,
        MOST_AHEAD,
    )
    .fetch_optional(&mut *conn)
    .await?)
}

async fn waits_for(db: &Db, execution: &Execution) -> Result<Vec<Reason>> {
    let mut reasons = Vec::new();
    // It may have been claimed since it was read.
    let Some(row) = find(db, execution.id).await? else { return Ok(vec![Reason::Ready]) };
    let waiting = row.waiting;
    if let Some(since) = row.paused_at {
        reasons.push(Reason::Paused { since });
    }
    if !row.is_due {
        let (until, attempt, max_attempts) = (row.due_at, row.attempt, execution.max_attempts);
        reasons.push(if attempt > 0 {
            Reason::RetryPause { until, attempt, max_attempts }
        } else {
            Reason::Delayed { until }
        });
    }
    let mut conn = db.system(&SCOPE).await?;
    let mut seen = if row.is_due { queue::heads(&mut conn, MOST_AHEAD, 0.0).await? } else { Vec::new() };
    seen.push(waiting.clone());
    let room = Room::load(&mut conn, &seen).await?;
    drop(conn);
    let own = room.full(&waiting);
    // Those that something else holds back do not stand in the way.
    let goes_first = |one: &&Waiting| {
        one.organization_id == waiting.organization_id
            && (one.queue_rank, one.id) < (waiting.queue_rank, waiting.id)
            && room.full(one).iter().all(|full| own.contains(full))
    };
    let ahead = seen.iter().filter(goes_first).count();
    reasons.extend(own.into_iter().map(|full| match full {
        Full::Workflow { limit } => Reason::WorkflowLimit { limit },
        Full::Key { limit } => {
            Reason::KeyLimit { limit, key: waiting.concurrency_key.clone().unwrap_or_default() }
        }
        Full::Organization { limit } => Reason::OrganizationLimit { limit },
        Full::Rate { limit, seconds } => Reason::RateLimit { limit, seconds },
    }));
    match workers::capacity(db).await? {
        Capacity { workers: 0, .. } => reasons.push(Reason::NoWorker),
        Capacity { slots, running, .. } if running >= slots => reasons.push(Reason::WorkersBusy { slots }),
        _ => {}
    }
    if ahead > 0 {
        reasons.push(Reason::Behind { ahead: i64::try_from(ahead).unwrap_or(MOST_AHEAD) });
    }
    if reasons.is_empty() {
        reasons.push(Reason::Ready);
    }
    Ok(reasons)
}

async fn find(db: &Db, id: ExecutionId) -> Result<Option<Row>> {
    let mut conn = db.system(&SCOPE).await?;
    let row = sqlx::query!(
        r#"SELECT e.id AS "id: ExecutionId", e.organization_id AS "organization_id: OrgId",
               e.workflow_id AS "workflow_id: WorkflowId", e.concurrency_key, e.is_awaited, e.priority, e.queue_rank,
               e.due_at, e.due_at <= now() AS "is_due!", w.paused_at AS "paused_at?",
               e.attempt - e.given_back AS "attempt!"
           FROM executions e
           LEFT JOIN workflows w ON w.id = e.workflow_id
           WHERE e.id = $1 AND e.status = 'Pending'"#,
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?;
    Ok(row.map(|row| Row {
        waiting: Waiting {
            id: row.id,
            organization_id: row.organization_id,
            workflow_id: row.workflow_id,
            concurrency_key: row.concurrency_key,
            is_awaited: row.is_awaited,
            priority: row.priority,
            queue_rank: row.queue_rank,
            traceparent: None,
        },
        due_at: row.due_at,
        is_due: row.is_due,
        paused_at: row.paused_at,
        attempt: row.attempt,
    }))
}
