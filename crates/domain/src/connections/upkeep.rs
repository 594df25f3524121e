//! Tokens that end soon are refreshed before anybody needs them: every fifteen minutes, by one replica.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::{Connection, Refreshed, Refresher, list, select};
use crate::id::OrgId;
use crate::{Db, OrgScope, Result, SystemScope, job_runs};

/// Time between two runs.
const PERIOD: Duration = Duration::from_secs(15 * 60);
const JOB: &str = "oauth refresh";
/// Who does it, in the audit log.
const ACTOR: &str = "System";
const SYSTEM: SystemScope = SystemScope::because("the tokens of every organization are kept fresh");
/// Refreshes at once.
const AT_ONCE: usize = 8;
/// Refreshes of one run.
const MOST: i64 = 1_000;
/// Refusals after which only a person can help.
const MOST_REFUSALS: i32 = 3;
/// Errors of a run that are kept.
const MOST_ERRORS: usize = 50;

/// What a run did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Connections there are.
    pub total: i64,
    /// Connections that needed a new token.
    pub needed: i64,
    /// Those that have one now.
    pub refreshed: i64,
    /// Those that have none.
    pub failed: i64,
    /// What was wrong, by connection.
    pub errors: Vec<String>,
}

/// A run of the periodic job.
#[derive(Debug, Clone)]
pub struct RunOfRefresh {
    /// Begin.
    pub started_at: DateTime<Utc>,
    /// End, if it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What it did, once it ended.
    pub report: Option<Report>,
}

/// Refreshes what ends within half an hour, if no replica did so in the last fifteen minutes.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn refresh_due(db: &Db, refresher: &Refresher) -> Result<Option<Report>> {
    let mut tx = db.begin_system(&SYSTEM).await?;
    if !job_runs::begin(tx.conn(), JOB, PERIOD).await? {
        return Ok(None);
    }
    let total = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM oauth_connections"#)
        .fetch_one(tx.conn())
        .await?;
    let due = select!(
        "WHERE access_token IS NOT NULL AND expires_at < now() + interval '30 minutes' AND refusals < $1
           AND (refresh_token IS NOT NULL OR flow = 'client_credentials')
         ORDER BY expires_at LIMIT $2",
        MOST_REFUSALS,
        MOST,
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;

    let scoped = due.into_iter().map(|one| (OrgScope::for_system(one.organization_id, ACTOR, None), one));
    let mut report = refresh_each(refresher, scoped.collect(), std::future::pending()).await;
    report.total = total;
    let mut tx = db.begin_system(&SYSTEM).await?;
    sqlx::query!(
        "UPDATE job_runs SET ended_at = now(), report = $2 WHERE name = $1",
        JOB,
        sqlx::types::Json(&report) as _,
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(Some(report))
}

/// Refreshes what can be refreshed of exactly the scope, now; what takes longer than `patience` has neither succeeded nor
/// failed.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn refresh_scope(
    db: &Db,
    refresher: &Refresher,
    scope: &OrgScope,
    patience: Duration,
) -> Result<Report> {
    let mut tx = db.begin(scope).await?;
    let all = list(&mut tx).await?;
    tx.commit().await?;
    let total = i64::try_from(all.len()).unwrap_or(i64::MAX);
    let due = all.into_iter().filter(Connection::can_refresh).map(|one| (scope.clone(), one)).collect();
    let mut report = refresh_each(refresher, due, tokio::time::sleep(patience)).await;
    report.total = total;
    Ok(report)
}

/// The last run of the periodic job, and when the next one is due.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn last_run(db: &Db) -> Result<(Option<RunOfRefresh>, DateTime<Utc>)> {
    let mut conn = db.system(&SystemScope::because("jobs of the platform belong to no tenant")).await?;
    let run = sqlx::query!(
        r#"SELECT started_at, ended_at, report AS "report: sqlx::types::Json<Report>" FROM job_runs WHERE name = $1"#,
        JOB,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let run = run.map(|run| RunOfRefresh {
        started_at: run.started_at,
        report: run.report.filter(|_| run.ended_at.is_some()).map(|report| report.0),
        ended_at: run.ended_at,
    });
    let period = TimeDelta::from_std(PERIOD).unwrap_or_default();
    let next = run.as_ref().map_or_else(Utc::now, |run| run.started_at + period);
    Ok((run, next))
}

/// Refreshes these, as far as it gets until then. What is under way goes on, since no answer of a provider may be lost.
async fn refresh_each(
    refresher: &Refresher,
    due: Vec<(OrgScope, Connection)>,
    until: impl Future<Output = ()>,
) -> Report {
    let mut report = Report { needed: i64::try_from(due.len()).unwrap_or(i64::MAX), ..Report::default() };
    let work = due.into_iter().map(|(scope, connection)| async move {
        let outcome = refresher.refresh(&scope, &connection).await;
        (connection.name, outcome)
    });
    let done = futures::stream::iter(work).buffer_unordered(AT_ONCE).take_until(until);
    let mut done = std::pin::pin!(done);
    while let Some((name, outcome)) = done.next().await {
        let reason = match outcome {
            Ok(Refreshed::Fresh) => {
                report.refreshed += 1;
                continue;
            }
            Ok(Refreshed::Refused(reason)) => reason,
            Ok(Refreshed::TooLate) => "somebody else refreshes it, and takes too long".into(),
            Err(error) => error.to_string(),
        };
        report.failed += 1;
        if report.errors.len() < MOST_ERRORS {
            report.errors.push(format!("{name}: {reason}"));
        }
    }
    report
}
