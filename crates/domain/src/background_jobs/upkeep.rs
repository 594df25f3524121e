//! Upkeep of jobs: what a lost worker held, what nobody was woken for, what is old. Safe on every replica at once.

use serde_json::Value;
use uuid::Uuid;

use super::{Kind, Status};
use crate::id::{JobId, OrgId, UserId};
use crate::notifications::{self, Ending};
use crate::wakeup::{JobWakeup, Wakeups};
use crate::{Db, Platform, Result, SystemScope};

/// Most rows one tick removes.
const BATCH: i64 = 10_000;
const SCOPE: SystemScope = SystemScope::because("the upkeep of jobs serves every organization");

/// What the reaper did to one job.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the row; see the schema")]
pub struct Reaped {
    pub id: JobId,
    pub kind: Kind,
    pub organization_id: Option<OrgId>,
    pub requested_by: UserId,
    pub attempt: i32,
    /// `Pending`: another attempt follows. `Failed`: there is none left.
    pub status: Status,
    pub message: Option<String>,
    pub notification_id: Option<Uuid>,
}

/// Takes back jobs whose lease has expired; the fence refuses whatever the lost worker still writes. With the last
/// attempt the notification of a job ends too.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn reap(platform: &Platform) -> Result<Vec<Reaped>> {
    let mut tx = platform.db.begin_system(&SCOPE).await?;
    let reaped = sqlx::query_as!(
        Reaped,
        r#"UPDATE background_jobs
           SET status = CASE WHEN attempt < max_attempts THEN 'Pending' ELSE 'Failed' END,
               completed_at = CASE WHEN attempt < max_attempts THEN NULL ELSE now() END,
               message = CASE WHEN attempt < max_attempts THEN NULL
                   ELSE format('The process that worked on it stopped, %s times. Nothing was changed; try again.', attempt) END,
               lease_owner = NULL, lease_expires_at = NULL
           WHERE status = 'Running' AND lease_expires_at < now()
           RETURNING id AS "id: JobId", kind AS "kind: Kind", organization_id AS "organization_id: OrgId",
               requested_by AS "requested_by: UserId", attempt, status AS "status: Status", message, notification_id"#,
    )
    .fetch_all(tx.conn())
    .await?;
    let endings = reaped.iter().filter_map(|lost| {
        let end = lost.outcome()?.end();
        Some(Ending { id: lost.notification_id?.into(), end })
    });
    let told = notifications::end_all(&mut tx, endings.collect()).await?;
    tx.commit().await?;
    told.into_iter().for_each(|event| platform.events.publish(event));
    Ok(reaped)
}

/// Wakes workers for the oldest job of each kind, if nothing runs and nobody was woken for it within five seconds;
/// says how many wake-ups that took.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn sweep(db: &Db, wakeups: &Wakeups) -> Result<usize> {
    let mut conn = db.system(&SCOPE).await?;
    let due = sqlx::query!(
        r#"UPDATE background_jobs
           SET woken_at = now()
           WHERE id IN (SELECT DISTINCT ON (kind) id FROM background_jobs WHERE status = 'Pending' ORDER BY kind, id)
             AND status = 'Pending' AND woken_at < now() - interval '5 seconds'
             AND NOT EXISTS (SELECT FROM background_jobs WHERE status = 'Running')
           RETURNING id AS "id: JobId", kind AS "kind: Kind", organization_id AS "organization_id: OrgId", traceparent"#,
    )
    .fetch_all(&mut *conn)
    .await?;
    for job in &due {
        let wakeup = JobWakeup::new(job.id, job.organization_id, job.traceparent.clone());
        wakeups.publish_job(job.kind.queue(), &wakeup);
    }
    Ok(due.len())
}

/// Wakes workers for whatever comes next, after a job has ended.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then the sweeper does.
pub async fn wake_next(db: &Db, wakeups: &Wakeups) -> Result<()> {
    let mut conn = db.system(&SCOPE).await?;
    let next = sqlx::query!(
        r#"UPDATE background_jobs
           SET woken_at = now()
           WHERE id = (SELECT id FROM background_jobs WHERE status = 'Pending' ORDER BY id LIMIT 1) AND status = 'Pending'
           RETURNING id AS "id: JobId", kind AS "kind: Kind", organization_id AS "organization_id: OrgId", traceparent"#,
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(job) = next {
        let wakeup = JobWakeup::new(job.id, job.organization_id, job.traceparent);
        wakeups.publish_job(job.kind.queue(), &wakeup);
    }
    Ok(())
}

/// Removes jobs 30 days after their end.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn housekeep(db: &Db) -> Result<()> {
    let mut conn = db.system(&SCOPE).await?;
    sqlx::query!(
        "DELETE FROM background_jobs
         WHERE id IN (SELECT id FROM background_jobs WHERE completed_at < now() - interval '30 days' LIMIT $1)",
        BATCH,
    )
    .execute(&mut *conn)
    .await?;
    Ok(())
}

impl Reaped {
    /// How it ended, for the person who asked for it; `None` while another attempt follows.
    pub fn outcome(&self) -> Option<super::Outcome> {
        self.status.is_terminal().then(|| super::Outcome {
            status: self.status,
            message: self.message.clone().unwrap_or_default(),
            result: Value::Null,
        })
    }
}
