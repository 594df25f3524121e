//! Metrics: how much ran, how it ended and what it used, by organization, workflow, person and day (ADR 41).
//!
//! What ended is summed up in `fold.rs`, the numbers of the whole platform are taken in `snapshot.rs`, those of a caller
//! in `dashboard.rs`, and the sums are read in `report.rs`. Executions that wait or run are in no sum.
//!
//! The invariant: an execution that ended is either a row of `execution_endings` or in the sums, never both and never
//! neither, so each is counted once however often and wherever a tick runs.

use std::time::Duration;

use crate::{Db, Result, SystemScope, job_runs};

mod dashboard;
mod fold;
mod report;
mod snapshot;

pub use dashboard::{Dashboard, Failure, Stats, dashboard};
pub use report::{Daily, Day, OrganizationSums, Ranked, Sort, WorkflowSums, daily, organizations, workflows};
pub use snapshot::{Snapshot, latest};

/// Time between two snapshots.
const PERIOD: Duration = Duration::from_secs(2 * 60);
const JOB: &str = "metrics";
const SYSTEM: SystemScope = SystemScope::because("the sums are of every organization");

/// Sums over executions that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// All of them.
    pub executions: i64,
    /// Those that succeeded.
    pub successes: i64,
    /// Those that failed, or said themselves that they had.
    pub failures: i64,
    /// Those that ran out of time.
    pub timeouts: i64,
    /// Those that were cancelled.
    pub cancellations: i64,
    /// Those that have a duration.
    pub timed: i64,
    /// Of these, together, in milliseconds.
    pub duration_ms: i64,
    /// The longest, in milliseconds.
    pub max_duration_ms: i64,
    /// Those whose memory and CPU time are known.
    pub measured: i64,
    /// Peak memory of each of these, added up, in bytes.
    pub memory_bytes: i64,
    /// The largest, in bytes.
    pub peak_memory_bytes: i64,
    /// CPU time of these, together, in microseconds.
    pub cpu_microseconds: i64,
    /// The most of one, in microseconds.
    pub peak_cpu_microseconds: i64,
}

impl Sums {
    /// Mean duration, in milliseconds; 0 of none.
    pub fn avg_duration_ms(&self) -> i64 {
        mean(self.duration_ms, self.timed)
    }

    /// Mean peak memory, in bytes; 0 of none.
    pub fn avg_memory_bytes(&self) -> i64 {
        mean(self.memory_bytes, self.measured)
    }

    /// CPU time together, in seconds.
    pub fn total_cpu_seconds(&self) -> f64 {
        seconds(self.cpu_microseconds)
    }

    /// The most CPU time of one, in seconds.
    pub fn peak_cpu_seconds(&self) -> f64 {
        seconds(self.peak_cpu_microseconds)
    }

    /// Mean CPU time, in seconds; 0 of none.
    pub fn avg_cpu_seconds(&self) -> f64 {
        seconds(mean(self.cpu_microseconds, self.measured))
    }

    /// Those that failed in whatever way.
    pub fn all_failures(&self) -> i64 {
        self.failures + self.timeouts
    }

    /// Share of the successful ones, see [`success_rate`].
    pub fn success_rate(&self) -> f64 {
        success_rate(self.successes, self.all_failures())
    }
}

/// Percent that succeeded of what succeeded or failed, with two decimals; what was cancelled says nothing. 0 of none.
pub fn success_rate(successes: i64, failures: i64) -> f64 {
    match successes + failures {
        0 => 0.0,
        all => (successes as f64 * 10_000.0 / all as f64).round() / 100.0,
    }
}

/// What a tick did.
#[derive(Debug, Clone, Copy)]
pub struct Ticked {
    /// Endings that were added to the sums.
    pub folded: i64,
}

/// Adds up what ended and takes a snapshot, if no replica did so in the last two minutes.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; what was added up until then stays, and the next tick goes on.
pub async fn tick(db: &Db) -> Result<Option<Ticked>> {
    if !job_runs::begin(&mut *db.system(&SYSTEM).await?, JOB, PERIOD).await? {
        return Ok(None);
    }
    refresh(db).await.map(Some)
}

/// The same at once, whenever the last one was.
///
/// # Errors
/// As [`tick`].
pub async fn refresh(db: &Db) -> Result<Ticked> {
    let folded = fold::fold(db).await?;
    snapshot::take(db).await?;
    Ok(Ticked { folded })
}

fn mean(sum: i64, count: i64) -> i64 {
    if count == 0 { 0 } else { (sum + count / 2) / count }
}

fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_rates_of_nothing_are_nothing() {
        let none = Sums::default();
        assert_eq!((none.avg_duration_ms(), none.avg_memory_bytes()), (0, 0));
        assert!(none.avg_cpu_seconds() == 0.0 && none.success_rate() == 0.0);
    }

    #[test]
    fn what_was_not_measured_does_not_lower_a_mean_and_what_was_cancelled_no_rate() {
        let sums = Sums {
            executions: 6,
            successes: 2,
            failures: 0,
            timeouts: 1,
            cancellations: 3,
            timed: 3,
            duration_ms: 100,
            measured: 2,
            memory_bytes: 9,
            cpu_microseconds: 3_000_000,
            ..Sums::default()
        };
        assert_eq!((sums.avg_duration_ms(), sums.avg_memory_bytes()), (33, 5));
        assert_eq!((sums.avg_cpu_seconds(), sums.success_rate()), (1.5, 66.67));
    }
}
