//! Background jobs: git jobs and package builds, asked for by somebody who does not wait for them.
//!
//! Here they are submitted and read. Claiming, keeping and ending them is in `work`, what nobody holds any more in
//! `upkeep`. The row is the truth and a message a wake-up, as with executions. The invariant: one job runs at a time,
//! since all of them change the one workspace; a unique index says so.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::events::Topic;
use crate::id::{JobId, OrgId, UserId};
use crate::notifications::{self, Category, NewNotification, Notification};
use crate::wakeup::JobWakeup;
use crate::wakeup::queue::Queue;
use crate::{Error, OrgTx, Platform, Result};

pub mod upkeep;
pub mod work;

pub use work::{Claimed, Outcome};

/// Attempts of a job whose worker was lost.
const MAX_ATTEMPTS: i32 = 3;

/// What a job belongs to; its queue has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[sqlx(type_name = "text")]
pub enum Kind {
    /// Works on the repository of the workspace.
    #[sqlx(rename = "git.sync")]
    #[serde(rename = "git.sync")]
    GitSync,
    /// Builds the environment of the workspace.
    #[sqlx(rename = "packages.install")]
    #[serde(rename = "packages.install")]
    PackagesInstall,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[sqlx(type_name = "text")]
pub enum Status {
    /// Waits for its turn.
    Pending,
    /// A worker is at it.
    Running,
    /// Done.
    Success,
    /// Ended with something that a person must decide.
    Conflict,
    /// Ended without effect.
    Failed,
}

/// A job to submit.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What it belongs to.
    pub kind: Kind,
    /// What is to be done; the handler of the kind reads it. Names and references, never a secret.
    pub payload: Value,
    /// What the notification of its progress is called.
    pub title: String,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

/// A job that was submitted, and has to be announced once its transaction has committed.
#[derive(Debug, Clone)]
#[must_use = "nobody is woken before `announce`"]
pub struct Submitted {
    /// The job.
    pub id: JobId,
    /// Tells its user how far it is, pending.
    pub notification: Notification,
    kind: Kind,
    wakeup: JobWakeup,
}

/// A job as stored.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns of the row; see the schema")]
pub struct Job {
    pub id: JobId,
    pub kind: Kind,
    pub organization_id: Option<OrgId>,
    pub requested_by: UserId,
    pub payload: Value,
    pub status: Status,
    pub attempt: i32,
    pub notification_id: Option<Uuid>,
    pub message: Option<String>,
    pub result: Option<Value>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
}

impl Kind {
    /// The queue that wakes its workers.
    pub fn queue(self) -> Queue {
        match self {
            Self::GitSync => Queue::GitSync,
            Self::PackagesInstall => Queue::PackagesInstall,
        }
    }

    /// Its name, in the row and on the broker.
    pub fn as_str(self) -> &'static str {
        self.queue().as_str()
    }
}

impl From<Kind> for Category {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::GitSync => Self::GithubSetup,
            Kind::PackagesInstall => Self::PackageInstall,
        }
    }
}

impl From<Kind> for Topic {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::GitSync => Self::Git,
            Kind::PackagesInstall => Self::Package,
        }
    }
}

impl Status {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Success | Self::Conflict | Self::Failed)
    }
}

impl Submitted {
    /// Shows its notification and wakes a worker; called after the commit. A wake-up that gets lost is repeated by the
    /// sweeper.
    pub fn announce(self, platform: &Platform) {
        self.notification.announce(&platform.events);
        platform.wakeups.publish_job(self.kind.queue(), &self.wakeup);
    }
}

/// Writes a pending job and its notification in the scope of `tx`, on behalf of its actor.
///
/// # Errors
/// [`Error::Forbidden`] without an organization context, [`Error::Unavailable`] when PostgreSQL is away.
pub async fn submit(tx: &mut OrgTx, new: NewJob) -> Result<Submitted> {
    let (id, owner) = (JobId::generate(), tx.scope().owner()?);
    let actor = tx.scope().actor().clone();
    let notification = notifications::create(tx, NewNotification::new(new.kind.into(), new.title)).await?;
    sqlx::query!(
        "INSERT INTO background_jobs (id, kind, organization_id, requested_by, requested_by_name, requested_by_email,
             payload, notification_id, traceparent, max_attempts, timeout_seconds)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        id as _,
        new.kind as _,
        owner as _,
        actor.id as _,
        actor.name,
        actor.email,
        new.payload,
        notification.id as _,
        new.traceparent,
        MAX_ATTEMPTS,
        i32::try_from(new.timeout.as_secs()).unwrap_or(i32::MAX),
    )
    .execute(tx.conn())
    .await?;
    let wakeup = JobWakeup::new(id, owner, new.traceparent);
    Ok(Submitted { id, notification, kind: new.kind, wakeup })
}

/// A job of the scope.
///
/// # Errors
/// [`Error::NotFound`], also when it belongs to another organization.
pub async fn get(tx: &mut OrgTx, id: JobId) -> Result<Job> {
    sqlx::query_as!(
        Job,
        r#"SELECT id AS "id: JobId", kind AS "kind: Kind", organization_id AS "organization_id: OrgId",
               requested_by AS "requested_by: UserId", payload, status AS "status: Status", attempt, notification_id,
               message, result, created_at, started_at, completed_at
           FROM background_jobs
           WHERE id = $1"#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("job"))
}
