//! Readings: what Prometheus wants to know and all processes share: the queue, the schedules, the broker.
//!
//! One process takes a reading every few seconds and keeps it in the cache, the others show that one. Each is one
//! statement that looks at a bounded number of rows, within a bounded time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Platform, Result, SystemScope};

/// How often one of all processes reads.
const EVERY: Duration = Duration::from_secs(5);
/// How long a reading is shown when no new one can be taken.
const LIFETIME: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(3);
/// Waiting executions that are counted.
const MOST: i64 = 100_000;
const TURN: &str = "readings.turn";
const READING: &str = "readings";

/// One reading.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Readings {
    /// Executions that are due and not started.
    pub waiting: i64,
    /// How long the longest of them has been due.
    pub oldest_age_seconds: f64,
    /// How late the most overdue tick of a schedule is.
    pub schedule_lag_seconds: f64,
    /// Messages and dead letters of each queue, in the order of [`crate::wakeup::queue::Queue::ALL`]; `None` while
    /// the broker is away.
    pub queues: [Option<(u64, u64)>; 3],
    /// When it was taken.
    pub read_at: DateTime<Utc>,
}

impl Readings {
    /// Its age now, in seconds.
    pub fn age_seconds(&self) -> f64 {
        (Utc::now() - self.read_at).as_seconds_f64().max(0.0)
    }
}

/// The last reading, or a new one when it is this process's turn; `None` when there is none that may be shown.
pub async fn current(platform: &Platform) -> Option<Readings> {
    if platform.cache.count(TURN, EVERY).await == 1 {
        match tokio::time::timeout(PATIENCE, read(platform)).await {
            Ok(Ok(readings)) => {
                let text = serde_json::to_string(&readings).expect("numbers and times are JSON");
                platform.cache.put(READING, &text, LIFETIME).await;
                return Some(readings);
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot read what metrics show"),
            Err(_) => tracing::warn!("reading what metrics show took too long"),
        }
    }
    let kept = platform.cache.peek(READING).await?;
    serde_json::from_str(&kept).ok()
}

async fn read(platform: &Platform) -> Result<Readings> {
    let (rows, queues) = tokio::join!(read_rows(platform), platform.wakeups.counts());
    let (waiting, oldest_age_seconds, schedule_lag_seconds) = rows?;
    let queues = queues.map_or([None; 3], |counts| counts.map(Some));
    Ok(Readings { waiting, oldest_age_seconds, schedule_lag_seconds, queues, read_at: Utc::now() })
}

async fn read_rows(platform: &Platform) -> Result<(i64, f64, f64)> {
    let scope = SystemScope::because("metrics count for the installation, not for an organization");
    let mut conn = platform.db.system(&scope).await?;
    let row = sqlx::query!(
        r#"SELECT count(*) AS "waiting!",
               COALESCE(extract(epoch FROM now() - min(due_at)), 0)::float8 AS "oldest!",
               (SELECT GREATEST(COALESCE(extract(epoch FROM now() - min(next_fire_at)), 0), 0)
                FROM schedules
                WHERE next_fire_at IS NOT NULL AND paused_at IS NULL)::float8 AS "lag!"
           FROM (SELECT due_at FROM executions WHERE status = 'Pending' AND due_at <= now() LIMIT $1) AS due"#,
        MOST,
    )
    .fetch_one(&mut *conn)
    .await?;
    Ok((row.waiting, row.oldest, row.lag))
}
