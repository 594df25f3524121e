//! How soon things go on: lost leases, the end of everything, consumers of the queue.

use super::{Facts, Verdict, explained, seconds, verdict};
use crate::history::{History, Sort};

/// A lease, without a heartbeat.
const LEASE: f64 = 10.0;
const WORKER_BUDGET: f64 = 15.0;
const BROKER_BUDGET: f64 = 10.0;
/// Reapers leave workers this long to extend their leases after PostgreSQL was away; then comes their next tick.
const DATABASE_GRACE: f64 = 8.0;

/// R4: what a lost worker ran is taken up within fifteen seconds of its last heartbeat.
pub(super) fn in_time(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let (mut cases, mut slowest) = (0, 0.0_f64);
    for change in &facts.history.transitions {
        let Some(lease) = change.lease_until.filter(|lease| *lease < change.at) else { continue };
        cases += 1;
        let excused = explained(&facts.history.faults, Sort::Database, DATABASE_GRACE, lease, change.at);
        let took = LEASE + (change.at - lease).as_seconds_f64() - excused;
        slowest = slowest.max(took);
        if took > WORKER_BUDGET {
            told.push(format!("{} was taken up after {took:.1} s, at {}", change.execution, change.at));
        }
    }
    verdict("R4", "a lost worker's runs are taken up in time", cases, format!("slowest {slowest:.1} s"), told)
}

/// After the last repair all that waits ends by itself.
pub(super) fn quiet(history: &History) -> Verdict {
    let (figure, told) = match history.quiet_after {
        Some(after) => (format!("all ended {after:.1} s after the last repair"), Vec::new()),
        None => ("never quiet".to_owned(), vec!["something still waited or ran at the end".to_owned()]),
    };
    verdict("R7", "after the repair everything ends", 1, figure, told)
}

/// R7: once the broker can be reached again, every worker consumes again.
pub(super) fn consuming(history: &History) -> Verdict {
    let mut told = Vec::new();
    let (mut cases, mut slowest) = (0, 0.0_f64);
    for fault in history.faults.iter().filter(|fault| fault.sort == Sort::Broker) {
        let until = fault.healed + seconds(BROKER_BUDGET);
        // Whoever is hurt meanwhile need not consume.
        let is_disturbed = history.faults.iter().any(|other| {
            matches!(other.sort, Sort::Broker | Sort::Worker)
                && (other.began, &other.name) != (fault.began, &fault.name)
                && other.began <= until
                && other.healed + seconds(BROKER_BUDGET) >= fault.healed
        });
        let samples = history.queue.iter().filter(|sample| sample.at >= fault.healed);
        let back = samples.clone().find(|sample| sample.consumers >= Some(history.workers));
        let took = back.map(|sample| (sample.at - fault.healed).as_seconds_f64());
        match took {
            Some(took) if took <= BROKER_BUDGET => {
                cases += 1;
                slowest = slowest.max(took);
            }
            _ if is_disturbed => {}
            Some(took) => {
                told.push(format!("after {:?} workers consumed again in {took:.1} s only", fault.name))
            }
            None => told.push(format!("after {:?} not all workers consumed again", fault.name)),
        }
    }
    let last = history.queue.iter().rev().find_map(|sample| sample.consumers);
    if last.is_some_and(|last| last < history.workers) {
        told.push(format!("at the end {last:?} of {} workers consume", history.workers));
    }
    cases += told.len();
    verdict("R7", "workers consume again in time", cases, format!("slowest {slowest:.1} s"), told)
}
