//! Reading the sums: by day, by organization, by workflow. They are as old as the last tick.

use chrono::NaiveDate;

use super::Sums;
use crate::id::OrgId;
use crate::{OrgTx, Result};

/// Sums over rows of `execution_metrics`: what comes before, what comes after, and the arguments.
macro_rules! summed {
    ($keys:tt, $rest:tt, $($arguments:tt)*) => {
        sqlx::query!(
            "SELECT "
                + $keys
                + r#", COALESCE(sum(m.executions), 0)::bigint AS "executions!", COALESCE(sum(m.successes), 0)::bigint AS "successes!",
                    COALESCE(sum(m.failures), 0)::bigint AS "failures!", COALESCE(sum(m.timeouts), 0)::bigint AS "timeouts!",
                    COALESCE(sum(m.cancellations), 0)::bigint AS "cancellations!", COALESCE(sum(m.timed), 0)::bigint AS "timed!",
                    COALESCE(sum(m.duration_ms), 0)::bigint AS "duration_ms!", COALESCE(max(m.max_duration_ms), 0) AS "max_duration_ms!",
                    COALESCE(sum(m.measured), 0)::bigint AS "measured!", COALESCE(sum(m.memory_bytes), 0)::bigint AS "memory_bytes!",
                    COALESCE(max(m.peak_memory_bytes), 0) AS "peak_memory_bytes!",
                    COALESCE(sum(m.cpu_microseconds), 0)::bigint AS "cpu_microseconds!",
                    COALESCE(max(m.peak_cpu_microseconds), 0) AS "peak_cpu_microseconds!"
                   FROM execution_metrics m "#
                + $rest,
            $($arguments)*
        )
    };
}

/// The sums of a row.
macro_rules! sums {
    ($row:expr) => {
        Sums {
            executions: $row.executions,
            successes: $row.successes,
            failures: $row.failures,
            timeouts: $row.timeouts,
            cancellations: $row.cancellations,
            timed: $row.timed,
            duration_ms: $row.duration_ms,
            max_duration_ms: $row.max_duration_ms,
            measured: $row.measured,
            memory_bytes: $row.memory_bytes,
            peak_memory_bytes: $row.peak_memory_bytes,
            cpu_microseconds: $row.cpu_microseconds,
            peak_cpu_microseconds: $row.peak_cpu_microseconds,
        }
    };
}

/// What ended on a day, in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Day {
    /// The day.
    pub day: NaiveDate,
    /// Its sums.
    pub sums: Sums,
}

/// Days of one organization, or of all that the scope reaches.
#[derive(Debug, Clone)]
pub struct Daily {
    /// The organization and its name; `None`: all of them together, or there is no such one in reach.
    pub organization: Option<(OrgId, String)>,
    /// Days on which something ended, the newest first.
    pub days: Vec<Day>,
}

/// What ended in an organization.
#[derive(Debug, Clone)]
pub struct OrganizationSums {
    /// The organization.
    pub organization_id: OrgId,
    /// Its name.
    pub name: String,
    /// Its sums.
    pub sums: Sums,
}

/// What ended of a workflow.
#[derive(Debug, Clone)]
pub struct WorkflowSums {
    /// Its name.
    pub name: String,
    /// Its sums.
    pub sums: Sums,
}

/// The first of a list, and how long all of it is.
#[derive(Debug, Clone)]
pub struct Ranked<T> {
    /// The first.
    pub rows: Vec<T>,
    /// How many there are.
    pub total: i64,
}

/// What workflows are ordered by, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// How many ran.
    Executions,
    /// Mean peak memory.
    Memory,
    /// Mean duration.
    Duration,
    /// Mean CPU time.
    Cpu,
}

impl Sort {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Executions, Self::Memory, Self::Duration, Self::Cpu];

    /// The name of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executions => "executions",
            Self::Memory => "memory",
            Self::Duration => "duration",
            Self::Cpu => "cpu",
        }
    }
}

impl std::str::FromStr for Sort {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|sort| sort.as_str() == name).ok_or(())
    }
}

/// The last `days` days, today included: of `organization`, or else of the scope's, or of all.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn daily(tx: &mut OrgTx, days: i64, organization: Option<OrgId>) -> Result<Daily> {
    let organization = organization.or(tx.scope().org());
    let rows = summed!(
        r#"m.day AS "day!""#,
        "WHERE m.grain = 'day' AND m.day > (now() AT TIME ZONE 'UTC')::date - $1::bigint::int
           AND ($2::uuid IS NULL OR m.organization_id = $2)
         GROUP BY m.day
         ORDER BY m.day DESC",
        days,
        organization as _,
    )
    .fetch_all(tx.conn())
    .await?;
    let named =
        sqlx::query!(r#"SELECT id AS "id: OrgId", name FROM organizations WHERE id = $1"#, organization as _)
            .fetch_optional(tx.conn())
            .await?;
    Ok(Daily {
        organization: named.map(|row| (row.id, row.name)),
        days: rows.into_iter().map(|row| Day { day: row.day, sums: sums!(row) }).collect(),
    })
}

/// The organizations of the scope in which most ended in the last `days` days, at most `limit`. What belongs to no
/// organization is in none.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn organizations(tx: &mut OrgTx, days: i64, limit: i64) -> Result<Ranked<OrganizationSums>> {
    let rows = summed!(
        r#"o.id AS "id: OrgId", o.name, count(*) OVER () AS "total!""#,
        "JOIN organizations o ON o.id = m.organization_id
         WHERE m.grain = 'day' AND m.day > (now() AT TIME ZONE 'UTC')::date - $1::bigint::int
         GROUP BY o.id, o.name
         ORDER BY sum(m.executions) DESC, o.name, o.id
         LIMIT $2",
        days,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let total = rows.first().map_or(0, |row| row.total);
    let rows = rows.into_iter().map(|row| OrganizationSums {
        organization_id: row.id,
        sums: sums!(row),
        name: row.name,
    });
    Ok(Ranked { rows: rows.collect(), total })
}

/// The first `limit` workflows of the scope by what ended of them in the last `days` days. A name is one workflow,
/// whichever organizations it ran in.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn workflows(tx: &mut OrgTx, days: i64, sort: Sort, limit: i64) -> Result<Ranked<WorkflowSums>> {
    let rows = summed!(
        r#"m.workflow_name AS "workflow_name!", count(*) OVER () AS "total!""#,
        "WHERE m.grain = 'workflow_day' AND m.day > (now() AT TIME ZONE 'UTC')::date - $1::bigint::int
         GROUP BY m.workflow_name
         ORDER BY CASE $2::text
                 WHEN 'memory' THEN sum(m.memory_bytes) / NULLIF(sum(m.measured), 0)
                 WHEN 'cpu' THEN sum(m.cpu_microseconds) / NULLIF(sum(m.measured), 0)
                 WHEN 'duration' THEN sum(m.duration_ms) / NULLIF(sum(m.timed), 0)
                 ELSE sum(m.executions) END DESC NULLS LAST, m.workflow_name
         LIMIT $3",
        days,
        sort.as_str(),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let total = rows.first().map_or(0, |row| row.total);
    let rows = rows.into_iter().map(|row| WorkflowSums { sums: sums!(row), name: row.workflow_name });
    Ok(Ranked { rows: rows.collect(), total })
}
