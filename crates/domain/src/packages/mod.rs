//! Packages: what the workspace's Python code may import besides the standard library.
//!
//! Here are the rows: which environment is in use, and asking for another one. What people may ask for is read in
//! `requirements`, what is newer at the index in `updates`; building is the business of the jobs process. The invariant:
//! an environment is what its lock says, and the newest row of `package_switches` says which one runs use. Nothing is
//! changed in place.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::types::Json;

use crate::audit::{self, Action};
use crate::background_jobs::{self, Claimed, Kind, NewJob, Submitted, work};
use crate::id::JobId;
use crate::{Db, Error, OrgTx, Result, SystemScope};

pub mod requirements;
pub mod updates;

use requirements::{Name, Version};

/// The file of the workspace that says what was asked for.
pub const FILE: &str = "requirements.txt";
/// How long one build may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Switches that are kept, so that there is something to go back to.
const KEPT_SWITCHES: i64 = 20;

const SCOPE: SystemScope = SystemScope::because("the workspace and its environment are the platform's own");

/// A package with its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Normalized name.
    pub name: String,
    /// Exact version.
    pub version: String,
}

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Add a package, or another version of it.
    Install {
        /// Which.
        name: Name,
        /// Which versions; the newest that fits if not given.
        version: Option<Version>,
    },
    /// Remove a package.
    Uninstall {
        /// Which.
        name: Name,
    },
    /// Go back to the environment before.
    RollBack,
}

impl Change {
    /// What is going on, in a few words.
    fn title(&self) -> String {
        match self {
            Self::Install { name, .. } => format!("Installing {name}"),
            Self::Uninstall { name } => format!("Removing {name}"),
            Self::RollBack => "Going back to the packages before".to_owned(),
        }
    }
}

/// An environment in use, or used before.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Rises with every switch; 0 before the first.
    pub version: i64,
    /// Digest of the lock; `None`: no packages.
    pub id: Option<String>,
    /// Every package with its version and the hashes of its files, one a line.
    pub lock: String,
    /// The same without hashes.
    pub packages: Vec<Package>,
    /// The content of `requirements.txt` that belongs to it.
    pub requirements: String,
    /// Whether that file has yet to be written.
    pub file_is_due: bool,
    /// The job that switched to it.
    pub job_id: Option<JobId>,
    /// When.
    pub switched_at: Option<DateTime<Utc>>,
}

/// What was built, to switch to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Every package with its version and the hashes of its files, one a line.
    pub lock: String,
    /// The same without hashes.
    pub packages: Vec<Package>,
    /// The content of `requirements.txt` that belongs to it.
    pub requirements: String,
}

impl Build {
    /// The name of the environment; `None`: it has no packages.
    pub fn id(&self) -> Option<String> {
        (!self.packages.is_empty()).then(|| environment_id(&self.lock))
    }
}

/// The name of the environment that a lock describes.
pub fn environment_id(lock: &str) -> String {
    hex::encode(&Sha256::digest(lock)[..16])
}

/// The environment that runs use.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn current(db: &Db) -> Result<Environment> {
    Ok(before(db, i64::MAX).await?.unwrap_or_default())
}

/// The environment that was in use before a version.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn before(db: &Db, version: i64) -> Result<Option<Environment>> {
    let mut conn = db.system(&SCOPE).await?;
    let row = sqlx::query!(
        r#"SELECT s.id AS version, s.environment_id, e.lock AS "lock?", e.packages AS "packages?: Json<Vec<Package>>",
               s.requirements, s.file_is_due, s.job_id AS "job_id: JobId", s.switched_at
           FROM package_switches s
           LEFT JOIN package_environments e ON e.id = s.environment_id
           WHERE s.id < $1
           ORDER BY s.id DESC
           LIMIT 1"#,
        version,
    )
    .fetch_optional(&mut *conn)
    .await?;
    Ok(row.map(|row| Environment {
        version: row.version,
        id: row.environment_id,
        lock: row.lock.unwrap_or_default(),
        packages: row.packages.map(|packages| packages.0).unwrap_or_default(),
        requirements: row.requirements,
        file_is_due: row.file_is_due,
        job_id: Some(row.job_id),
        switched_at: Some(row.switched_at),
    }))
}

/// Asks for a change, on behalf of the actor of `tx`: a job that the caller announces after the commit.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn request(tx: &mut OrgTx, change: &Change, traceparent: Option<String>) -> Result<Submitted> {
    let new = NewJob {
        kind: Kind::PackagesInstall,
        payload: serde_json::to_value(change).map_err(Error::internal)?,
        title: change.title(),
        timeout: PATIENCE,
        traceparent,
    };
    let job = background_jobs::submit(tx, new).await?;
    let (action, resource) = match change {
        Change::Install { name, .. } => (Action::PackageInstallRequested, format!("package/{name}")),
        Change::Uninstall { name } => (Action::PackageRemovalRequested, format!("package/{name}")),
        Change::RollBack => (Action::PackagesRollbackRequested, "packages".into()),
    };
    audit::record(tx, action, resource, &json!({"job": job.id, "change": change})).await?;
    Ok(job)
}

/// Switches to what was built, if the job still is this attempt's; `check` is asked last, with the row locked, and its
/// refusal changes nothing. Answers the new version, or `None` when another attempt has the job.
///
/// # Errors
/// Those of `check`; [`Error::Unavailable`] when PostgreSQL is away: then nothing was switched, or the next attempt finds
/// that it was.
pub async fn switch<E: From<Error>>(
    db: &Db,
    job: &Claimed,
    build: &Build,
    check: impl AsyncFnOnce() -> Result<(), E>,
) -> Result<Option<i64>, E> {
    let mut tx = db.begin_system(&SCOPE).await?;
    if !work::hold(&mut tx, job).await? {
        return Ok(None);
    }
    let id = build.id();
    let insert = async {
        if let Some(id) = &id {
            sqlx::query!(
                "INSERT INTO package_environments (id, lock, packages) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
                id,
                build.lock,
                Json(&build.packages) as _,
            )
            .execute(tx.conn())
            .await?;
        }
        let version = sqlx::query_scalar!(
            "INSERT INTO package_switches (environment_id, requirements, job_id, switched_by)
             VALUES ($1, $2, $3, $4)
             RETURNING id",
            id,
            build.requirements,
            job.id as _,
            job.requested_by_email,
        )
        .fetch_one(tx.conn())
        .await?;
        Ok::<_, Error>(version)
    };
    let version = insert.await?;
    check().await?;
    // After what waits for the disk: the log is held from here on.
    let resource = format!("environment/{}", id.as_deref().unwrap_or("none"));
    audit::record_system(&mut tx, Action::PackagesSwitched, &job.requested_by_email, resource, None).await?;
    tx.commit().await?;
    Ok(Some(version))
}

/// Remembers that `requirements.txt` is what a version says.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn file_written(db: &Db, version: i64) -> Result<()> {
    let mut conn = db.system(&SCOPE).await?;
    sqlx::query!("UPDATE package_switches SET file_is_due = FALSE WHERE id = $1", version)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// Forgets old switches, and environments that none of the others leads to.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn housekeep(db: &Db) -> Result<()> {
    let mut tx = db.begin_system(&SCOPE).await?;
    sqlx::query!(
        "DELETE FROM package_switches WHERE id < (SELECT max(id) FROM package_switches) - $1",
        KEPT_SWITCHES,
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "DELETE FROM package_environments e
         WHERE created_at < now() - interval '1 day'
           AND NOT EXISTS (SELECT FROM package_switches s WHERE s.environment_id = e.id)",
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}
