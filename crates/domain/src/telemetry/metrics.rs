//! The figures of the product: their names, what they mean, and the one place that counts each.
//!
//! Without a recorder (`METRICS_PORT` unset) every call here is a look at a pointer. The invariant: labels come from
//! fixed lists and from route templates, never from ids or from what a caller sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::executions::Status;
use crate::wakeup::queue::Queue;

pub(super) const HTTP_DURATION: &str = "http_server_request_duration_seconds";
pub(super) const EXECUTION_DURATION: &str = "bifrost_execution_duration_seconds";
const EXECUTIONS: &str = "bifrost_executions_total";
const SUBMITTED: &str = "bifrost_executions_submitted_total";
const WAKEUPS: &str = "bifrost_wakeups_total";
const QUEUE_DEPTH: &str = "bifrost_queue_depth";
const DEAD_LETTERS: &str = "bifrost_dead_letters";
const WAITING: &str = "bifrost_executions_waiting";
const OLDEST: &str = "bifrost_queue_oldest_age_seconds";
const SCHEDULE_LAG: &str = "bifrost_schedule_lag_seconds";
const READINGS_AGE: &str = "bifrost_readings_age_seconds";
const SLOTS: &str = "bifrost_worker_slots";
const CONNECTIONS: &str = "bifrost_database_connections";

/// Bounds of the histogram of requests, seconds.
pub(super) const HTTP_BUCKETS: [f64; 12] =
    [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];
/// Bounds of the histogram of executions, seconds: up to the longest timeout.
pub(super) const EXECUTION_BUCKETS: [f64; 13] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Whether anybody may ask for figures.
static RECORDING: AtomicBool = AtomicBool::new(false);

const ENDS: [Status; 5] =
    [Status::Success, Status::CompletedWithErrors, Status::Failed, Status::Timeout, Status::Cancelled];
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"];

/// What became of a wake-up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Published {
    /// The broker has it.
    Confirmed,
    /// The broker refused it, or never said that it has it.
    Failed,
    /// The publisher was too far behind to take it.
    Dropped,
}

impl Published {
    const ALL: [Self; 3] = [Self::Confirmed, Self::Failed, Self::Dropped];

    fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Counts an execution that ended; whoever ends one tells of it once.
pub(crate) fn ended(status: Status, took: Option<Duration>) {
    counter!(EXECUTIONS, "status" => status.as_str()).increment(1);
    if let Some(took) = took {
        histogram!(EXECUTION_DURATION, "status" => status.as_str()).record(took.as_secs_f64());
    }
}

/// Counts submissions that are durable.
pub fn submitted(count: usize) {
    counter!(SUBMITTED).increment(count as u64);
}

/// Counts wake-ups.
pub(crate) fn published(outcome: Published, count: usize) {
    counter!(WAKEUPS, "outcome" => outcome.as_str()).increment(count as u64);
}

/// Records a request that was answered: its method, the template of its route, its status.
pub fn answered(method: &str, route: &str, status: u16, took: Duration) {
    if !RECORDING.load(Ordering::Relaxed) {
        return;
    }
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("OTHER");
    let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
    histogram!(HTTP_DURATION, &labels).record(took.as_secs_f64());
}

/// Says how many slots of this worker there are, and how many run something.
pub fn slots(all: usize, free: usize) {
    gauge!(SLOTS, "state" => "busy").set(all.saturating_sub(free) as f64);
    gauge!(SLOTS, "state" => "free").set(free as f64);
}

pub(super) fn queue(queue: Queue, depth: f64, dead: f64) {
    gauge!(QUEUE_DEPTH, "queue" => queue.as_str()).set(depth);
    gauge!(DEAD_LETTERS, "queue" => queue.as_str()).set(dead);
}

pub(super) fn waiting(count: f64, oldest_seconds: f64, schedule_lag_seconds: f64, age_seconds: f64) {
    gauge!(WAITING).set(count);
    gauge!(OLDEST).set(oldest_seconds);
    gauge!(SCHEDULE_LAG).set(schedule_lag_seconds);
    gauge!(READINGS_AGE).set(age_seconds);
}

pub(super) fn connections(pool: &'static str, open: u32, idle: usize) {
    let used = f64::from(open) - idle as f64;
    gauge!(CONNECTIONS, "pool" => pool, "state" => "used").set(used.max(0.0));
    gauge!(CONNECTIONS, "pool" => pool, "state" => "idle").set(idle as f64);
}

/// Called when there is a recorder: says what each figure means, and lets counters begin at zero, so that their first rise is one.
pub(super) fn describe() {
    RECORDING.store(true, Ordering::Relaxed);
    let seconds = Unit::Seconds;
    describe_histogram!(HTTP_DURATION, seconds, "Requests by method, route template and status");
    describe_histogram!(EXECUTION_DURATION, seconds, "The last attempt of executions, by how they ended");
    describe_counter!(EXECUTIONS, "Executions that ended, counted by the process that ended them");
    describe_counter!(SUBMITTED, "Executions that were submitted over HTTP or by other executions");
    describe_counter!(WAKEUPS, "Wake-ups that this process published, by what the broker said");
    describe_gauge!(QUEUE_DEPTH, "Messages that wait in a queue of the broker");
    describe_gauge!(DEAD_LETTERS, "Messages that nobody could handle");
    describe_gauge!(WAITING, "Executions that are due and not started, up to 100000");
    describe_gauge!(OLDEST, seconds, "How long the longest of them has been due");
    describe_gauge!(SCHEDULE_LAG, seconds, "How late the most overdue tick of a schedule is");
    describe_gauge!(READINGS_AGE, seconds, "Age of the figures that all processes share");
    describe_gauge!(SLOTS, "Slots of this worker");
    describe_gauge!(CONNECTIONS, "Connections of this process to PostgreSQL");
    for status in ENDS {
        counter!(EXECUTIONS, "status" => status.as_str()).increment(0);
    }
    for outcome in Published::ALL {
        published(outcome, 0);
    }
    submitted(0);
}
