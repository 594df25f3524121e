//! Working on jobs: claimed by one statement, kept by a lease, ended by the holder of the fence.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Kind, Status};
use crate::events::News;
use crate::executions::claim::LEASE;
use crate::id::{JobId, OrgId, UserId, WorkerId};
use crate::notifications::{self, End, Ending};
use crate::{Actor, Db, OrgScope, Platform, Result, SystemScope, SystemTx};

const SCOPE: SystemScope = SystemScope::because("a worker takes the jobs of every organization");

/// A claimed job, with all its handler needs.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the row; see the schema")]
pub struct Claimed {
    pub id: JobId,
    pub attempt: i32,
    pub max_attempts: i32,
    pub kind: Kind,
    pub organization_id: Option<OrgId>,
    pub requested_by: UserId,
    pub requested_by_name: String,
    pub requested_by_email: String,
    pub payload: Value,
    pub notification_id: Option<Uuid>,
    pub timeout_seconds: i32,
    pub traceparent: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// How a job ended, for the person who asked for it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// [`Status::Success`], [`Status::Conflict`] or [`Status::Failed`].
    pub status: Status,
    /// In words.
    pub message: String,
    /// Members that the `complete` frame has besides, and the row keeps: an object or null.
    pub result: Value,
}

impl Claimed {
    /// The scope of the person who asked for it, as the row says.
    pub fn scope(&self) -> OrgScope {
        let actor = Actor {
            id: self.requested_by,
            name: self.requested_by_name.clone(),
            email: self.requested_by_email.clone(),
            is_platform_admin: false,
        };
        OrgScope::for_run(self.organization_id, actor)
    }
}

impl From<&Outcome> for News {
    fn from(outcome: &Outcome) -> Self {
        let status = match outcome.status {
            Status::Success => "success",
            Status::Conflict => "conflict",
            _ => "error",
        };
        Self::Complete {
            status: status.into(),
            message: outcome.message.clone(),
            result: outcome.result.clone(),
        }
    }
}

impl Outcome {
    /// Done.
    pub fn success(message: impl Into<String>, result: Value) -> Self {
        Self { status: Status::Success, message: message.into(), result }
    }

    /// Something that a person must decide.
    pub fn conflict(message: impl Into<String>, result: Value) -> Self {
        Self { status: Status::Conflict, message: message.into(), result }
    }

    /// Without effect.
    pub fn failure(message: impl Into<String>) -> Self {
        Self { status: Status::Failed, message: message.into(), result: Value::Null }
    }

    /// The same for the notification of the job: what a person must decide did not succeed by itself.
    pub(super) fn end(&self) -> End {
        let result = self.result.as_object().cloned();
        match self.status {
            Status::Success => End::Completed { description: Some(self.message.clone()), result },
            Status::Conflict | Status::Failed | Status::Pending | Status::Running => {
                End::Failed { error: self.message.clone(), result }
            }
        }
    }
}

/// Claims the oldest pending job of these kinds, unless one runs already. Which message woke the worker makes no
/// difference.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn claim(db: &Db, worker: WorkerId, kinds: &[Kind]) -> Result<Option<Claimed>> {
    let kinds: Vec<String> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    let mut conn = db.system(&SCOPE).await?;
    let claimed = sqlx::query_as!(
        Claimed,
        r#"UPDATE background_jobs
           SET status = 'Running', attempt = attempt + 1, lease_owner = $1,
               lease_expires_at = now() + make_interval(secs => $2), started_at = COALESCE(started_at, now())
           WHERE id = (SELECT id FROM background_jobs
                       WHERE status = 'Pending' AND kind = ANY ($3)
                         AND NOT EXISTS (SELECT FROM background_jobs WHERE status = 'Running')
                       ORDER BY id
                       LIMIT 1
                       -- Not passing by what another claims at this moment: then the next one could begin before the oldest.
                       FOR UPDATE)
           RETURNING id AS "id: JobId", attempt, max_attempts, kind AS "kind: Kind",
               organization_id AS "organization_id: OrgId", requested_by AS "requested_by: UserId", requested_by_name,
               requested_by_email, payload, notification_id, timeout_seconds, traceparent, created_at"#,
        worker as _,
        LEASE.as_secs_f64(),
        &kinds,
    )
    .fetch_optional(&mut *conn)
    .await;
    match claimed {
        // Another worker claimed at the same moment.
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("background_jobs_running_key") => {
            Ok(None)
        }
        claimed => Ok(claimed?),
    }
}

/// Extends the lease; `false` when the job is not this attempt's any more, and its work must stop. It waits for no lock: the
/// attempt itself holds the row while it writes ([`hold`]), and nobody else takes it then.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn heartbeat(db: &Db, job: &Claimed) -> Result<bool> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_scalar!(
        r#"WITH kept AS (
               UPDATE background_jobs
               SET lease_expires_at = now() + make_interval(secs => $3)
               WHERE id = (
                   SELECT id FROM background_jobs WHERE id = $1 AND attempt = $2 AND status = 'Running'
                   FOR NO KEY UPDATE SKIP LOCKED)
           )
           SELECT EXISTS (
               SELECT FROM background_jobs WHERE id = $1 AND attempt = $2 AND status = 'Running'
           ) AS "is_held!""#,
        job.id as _,
        job.attempt,
        LEASE.as_secs_f64(),
    )
    .fetch_one(&mut *conn)
    .await?)
}

/// Locks the row of a job for the rest of the transaction, if the attempt still holds it: what a handler writes in
/// this transaction is written by the holder of the fence or not at all. `false`: roll back.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn hold(tx: &mut SystemTx, job: &Claimed) -> Result<bool> {
    let held = sqlx::query_scalar!(
        "SELECT id FROM background_jobs WHERE id = $1 AND attempt = $2 AND status = 'Running' FOR UPDATE",
        job.id as _,
        job.attempt,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(held.is_some())
}

/// Ends a job with its notification, if the attempt still holds it; `false`: it is somebody else's, and nothing was
/// written.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn finish(platform: &Platform, job: &Claimed, outcome: &Outcome) -> Result<bool> {
    let mut tx = platform.db.begin_system(&SCOPE).await?;
    let ended = sqlx::query!(
        "UPDATE background_jobs
         SET status = $3, message = $4, result = $5, completed_at = now(), lease_owner = NULL, lease_expires_at = NULL
         WHERE id = $1 AND attempt = $2 AND status = 'Running'",
        job.id as _,
        job.attempt,
        outcome.status as _,
        // PostgreSQL stores any text but that with a NUL.
        outcome.message.replace('\0', ""),
        outcome.result,
    )
    .execute(tx.conn())
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    let ending = job.notification_id.map(|id| Ending { id: id.into(), end: outcome.end() });
    let told = notifications::end_all(&mut tx, ending.into_iter().collect()).await?;
    tx.commit().await?;
    told.into_iter().for_each(|event| platform.events.publish(event));
    Ok(true)
}

/// Hands a job back that its worker cannot end before it stops.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then the reaper hands it back.
pub async fn release(db: &Db, job: &Claimed) -> Result<()> {
    let mut conn = db.system(&SCOPE).await?;
    sqlx::query!(
        "UPDATE background_jobs
         SET status = 'Pending', lease_owner = NULL, lease_expires_at = NULL
         WHERE id = $1 AND attempt = $2 AND status = 'Running'",
        job.id as _,
        job.attempt,
    )
    .execute(&mut *conn)
    .await?;
    Ok(())
}
