//! The dashboard: what a caller may see, as it is now. What ended is the sums and what is not added to them yet, read in
//! one statement, so that a run is in it as soon as it has ended.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::success_rate;
use crate::forms;
use crate::id::{ExecutionId, UserId};
use crate::{OrgTx, Permission, Result};

/// Failures that it shows.
const FAILURES: i64 = 10;

/// What a caller may see.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Active workflows in reach.
    pub workflows: i64,
    /// Active data providers in reach.
    pub data_providers: i64,
    /// Active forms that the caller may use.
    pub forms: i64,
    /// Executions.
    pub stats: Stats,
    /// The newest that failed, at most ten.
    pub failures: Vec<Failure>,
}

/// Counts of executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Those that ended.
    pub ended: i64,
    /// Of these, those that succeeded.
    pub successes: i64,
    /// And those that failed in whatever way.
    pub failures: i64,
    /// Those that have a duration.
    pub timed: i64,
    /// Of these, together, in milliseconds.
    pub duration_ms: i64,
    /// Those that run.
    pub running: i64,
    /// Those that wait.
    pub pending: i64,
}

impl Stats {
    /// All there are.
    pub fn total(&self) -> i64 {
        self.ended + self.running + self.pending
    }

    /// Percent, see [`success_rate`].
    pub fn success_rate(&self) -> f64 {
        success_rate(self.successes, self.failures)
    }

    /// Mean duration, in seconds; 0 of none.
    pub fn avg_duration_seconds(&self) -> f64 {
        if self.timed == 0 { 0.0 } else { self.duration_ms as f64 / self.timed as f64 / 1e3 }
    }
}

/// An execution that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Id.
    pub id: ExecutionId,
    /// Name of its workflow.
    pub workflow_name: String,
    /// Why.
    pub error_message: Option<String>,
    /// Whether that was written for the person who ran it.
    pub is_user_error: bool,
    /// First claim.
    pub started_at: Option<DateTime<Utc>>,
}

/// Failed executions, the newest first; the condition has an index.
macro_rules! failures {
    ($which:tt, $($arguments:tt)*) => {
        sqlx::query_as!(
            Failure,
            r#"SELECT id AS "id: ExecutionId", workflow_name, error_message, is_user_error, started_at
               FROM executions
               WHERE status IN ('Failed', 'Timeout', 'CompletedWithErrors') AND NOT transient AND kind = 'workflow' "#
                + $which
                + " ORDER BY id DESC LIMIT $1",
            FAILURES,
            $($arguments)*
        )
    };
}

/// What the actor of the scope may see: of executions all of the scope for who may read them, else their own.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn dashboard(tx: &mut OrgTx) -> Result<Dashboard> {
    let scope = tx.scope().clone();
    let own = (!scope.permits(Permission::ExecutionsRead)).then_some(scope.actor().id);
    let catalog = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE kind = 'workflow') AS "workflows!",
               count(*) FILTER (WHERE kind = 'data_provider') AS "data_providers!"
           FROM workflows
           WHERE is_active AND ($1 OR organization_id IS NULL OR organization_id = $2)"#,
        scope.spans_all(),
        scope.org() as _,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(Dashboard {
        workflows: catalog.workflows,
        data_providers: catalog.data_providers,
        forms: forms::access::count_usable(tx).await?,
        stats: stats(tx, own).await?,
        failures: failures(tx, own).await?,
    })
}

async fn stats(tx: &mut OrgTx, own: Option<UserId>) -> Result<Stats> {
    let grain = if own.is_some() { "person" } else { "total" };
    Ok(sqlx::query_as!(
        Stats,
        r#"WITH ended AS (
               SELECT executions, successes, failures + timeouts AS failures, timed, duration_ms
               FROM execution_metrics
               WHERE grain = $1 AND ($2::uuid IS NULL OR executed_by = $2)
               UNION ALL
               SELECT count(*), count(*) FILTER (WHERE status = 'Success'),
                   count(*) FILTER (WHERE status IN ('Failed', 'CompletedWithErrors', 'Timeout')), count(duration_ms),
                   COALESCE(sum(duration_ms), 0)::bigint
               FROM execution_endings
               WHERE $2::uuid IS NULL OR executed_by = $2
           )
           SELECT COALESCE(sum(executions), 0)::bigint AS "ended!", COALESCE(sum(successes), 0)::bigint AS "successes!",
               COALESCE(sum(failures), 0)::bigint AS "failures!", COALESCE(sum(timed), 0)::bigint AS "timed!",
               COALESCE(sum(duration_ms), 0)::bigint AS "duration_ms!",
               (SELECT count(*) FROM executions
                WHERE status IN ('Running', 'Cancelling') AND NOT transient AND kind = 'workflow'
                  AND ($2::uuid IS NULL OR executed_by = $2)) AS "running!",
               (SELECT count(*) FROM executions
                WHERE status = 'Pending' AND NOT transient AND kind = 'workflow'
                  AND ($2::uuid IS NULL OR executed_by = $2)) AS "pending!"
           FROM ended"#,
        grain,
        own as _,
    )
    .fetch_one(tx.conn())
    .await?)
}

async fn failures(tx: &mut OrgTx, own: Option<UserId>) -> Result<Vec<Failure>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    let failures = if let Some(user) = own {
        failures!("AND executed_by = $2", user as _).fetch_all(tx.conn()).await?
    } else if spans_all {
        failures!("",).fetch_all(tx.conn()).await?
    } else {
        failures!(
            "AND (CASE WHEN organization_id IS NULL
                 THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $2",
            org.map_or(Uuid::nil(), |org| org.0),
        )
        .fetch_all(tx.conn())
        .await?
    };
    Ok(failures)
}
