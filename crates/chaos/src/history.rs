//! The history of a run: what was asked and answered, what the rows say, what was seen on the way.
//!
//! Plain data. `observe` and `load` write it down, `verify` judges it; nothing here does either.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A moment on the clock of this machine, which all processes share.
pub(crate) type Time = DateTime<Utc>;

/// What a workflow of the load does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Returns at once.
    Quick,
    /// Logs a number of lines.
    Chatty,
    /// Sleeps for less than two seconds.
    Sleeping,
    /// Raises.
    Failing,
    /// Raises twice, then returns.
    Retried,
    /// At most two run at once.
    Lone,
    /// At most one runs at once with the same key, in an organization.
    Keyed,
    /// Is given a later time.
    Delayed,
    /// Sleeps long, and is cancelled.
    Cancelled,
    /// Runs longer than a lease.
    Long,
    /// Ends with an outcome that nobody has defined.
    Undefined,
    /// Is started by the clock.
    Scheduled,
}

/// A service that everything stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    Postgres,
    Rabbitmq,
    Redis,
}

/// One intent to have something executed, however often it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    pub(crate) token: String,
    pub(crate) organization: Uuid,
    pub(crate) kind: Kind,
    /// Every id that was answered.
    pub(crate) ids: Vec<Uuid>,
    /// Whether its cancellation was accepted.
    pub(crate) cancelled: bool,
    /// Not before this.
    pub(crate) run_at: Option<Time>,
}

/// An execution as it stands at the end.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) organization: Option<Uuid>,
    pub(crate) kind: Option<Kind>,
    pub(crate) token: Option<String>,
    pub(crate) status: String,
    pub(crate) attempt: i32,
    pub(crate) error_type: Option<String>,
    /// What the run said of itself.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) started_at: Option<Time>,
}

/// What a run says of itself in its result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Stamp {
    pub(crate) execution: Uuid,
    pub(crate) attempt: i32,
    pub(crate) scope: String,
    pub(crate) token: String,
}

/// A change of a row, as PostgreSQL saw it.
#[derive(Debug, Clone)]
pub(crate) struct Transition {
    pub(crate) execution: Uuid,
    pub(crate) at: Time,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) attempt_before: i32,
    pub(crate) attempt: i32,
    /// Until when the lease had lasted.
    pub(crate) lease_until: Option<Time>,
    /// What is limited, and how: the runs that share it.
    pub(crate) lane: Option<(String, usize)>,
}

/// A state that somebody read over HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) execution: Uuid,
    pub(crate) status: String,
}

/// A run that began, as it wrote down itself.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Start {
    pub(crate) execution: Uuid,
    pub(crate) attempt: i32,
}

/// A log line as stored.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) execution: Uuid,
    pub(crate) sequence: i64,
    /// Its number for readers without platform rights; nothing: hidden from them.
    pub(crate) user_sequence: Option<i64>,
    pub(crate) attempt: i32,
    pub(crate) message: String,
}

/// What a follower was told, over all its connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followed {
    pub(crate) execution: Uuid,
    pub(crate) connections: usize,
    /// Attempts and numbers of the lines, as they came.
    pub(crate) lines: Vec<(i64, i64)>,
    /// The state it was told last, and whether lines came after it.
    pub(crate) terminal: Option<String>,
    pub(crate) lines_after_end: usize,
}

impl Followed {
    /// What a follower that comes back says it has.
    pub(crate) fn last_line(&self) -> String {
        let (attempt, sequence) = self.lines.last().copied().unwrap_or_default();
        format!("{sequence}.{attempt}")
    }
}

/// A tick of a schedule.
#[derive(Debug, Clone)]
pub(crate) struct Tick {
    pub(crate) schedule: String,
    pub(crate) fire_at: Time,
    pub(crate) outcome: String,
    pub(crate) execution: Option<Uuid>,
}

/// Ticks that there must be: one a minute.
#[derive(Debug, Clone)]
pub(crate) struct Timetable {
    pub(crate) schedule: String,
    pub(crate) first: Time,
    pub(crate) last: Time,
}

/// What became of a fault.
#[derive(Debug, Clone)]
pub(crate) struct Injected {
    pub(crate) name: String,
    pub(crate) sort: Sort,
    pub(crate) began: Time,
    pub(crate) healed: Time,
}

/// What a fault excuses or obliges to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// The database was away for everybody.
    Database,
    /// The broker, or somebody's way to it, was away.
    Broker,
    /// A replica did nothing at all.
    FrozenApi(usize),
    /// A worker was gone or stood still.
    Worker,
    Other,
}

/// The queue at a moment; nothing when the broker did not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) at: Time,
    pub(crate) consumers: Option<u32>,
}

/// An answer that is worth remembering.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) replica: usize,
    pub(crate) at: Time,
    pub(crate) seconds: f64,
    pub(crate) status: u16,
    pub(crate) has_retry_after: bool,
    pub(crate) request: &'static str,
}

/// What an organization's own user can reach.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) organization: Uuid,
    pub(crate) listed: Vec<Uuid>,
    /// Executions of others that were asked for, and the answers.
    pub(crate) foreign: Vec<(Uuid, u16)>,
}

/// Everything that was written down.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) submissions: Vec<Submission>,
    pub(crate) rows: Vec<Row>,
    pub(crate) transitions: Vec<Transition>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) starts: Vec<Start>,
    pub(crate) lines: Vec<Line>,
    pub(crate) followed: Vec<Followed>,
    pub(crate) ticks: Vec<Tick>,
    pub(crate) timetables: Vec<Timetable>,
    pub(crate) faults: Vec<Injected>,
    pub(crate) queue: Vec<Queue>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) reach: Vec<Reach>,
    /// Messages that were doubled or invented.
    pub(crate) foreign_messages: usize,
    /// Workers that consume when all are whole.
    pub(crate) workers: u32,
    /// From the last repair until everything had ended; nothing: it never did.
    pub(crate) quiet_after: Option<f64>,
    /// What was submitted to limited workflows at the very end, and how long it took, if it ended at all.
    pub(crate) probes: Vec<(String, Option<f64>)>,
    /// Processes that did not end when they were asked to.
    pub(crate) stubborn: Vec<String>,
    /// Processes of ours that were there after all had been ended.
    pub(crate) left_over: usize,
}

impl Kind {
    /// Those that are submitted.
    pub(crate) const SUBMITTED: [Self; 11] = [
        Self::Quick,
        Self::Chatty,
        Self::Sleeping,
        Self::Failing,
        Self::Retried,
        Self::Lone,
        Self::Keyed,
        Self::Delayed,
        Self::Cancelled,
        Self::Long,
        Self::Undefined,
    ];

    /// The name of its workflow.
    pub(crate) fn workflow(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Chatty => "chatty",
            Self::Sleeping => "sleeping",
            Self::Failing => "failing",
            Self::Retried => "retried",
            Self::Lone => "lone",
            Self::Keyed => "keyed",
            Self::Delayed => "delayed",
            Self::Cancelled => "cancelled",
            Self::Long => "long",
            Self::Undefined => "undefined",
            Self::Scheduled => "ticks",
        }
    }

    /// The kind whose workflow has this name.
    pub(crate) fn of_workflow(name: &str) -> Option<Self> {
        if name.starts_with("ticks_") {
            return Some(Self::Scheduled);
        }
        Self::SUBMITTED.into_iter().find(|kind| kind.workflow() == name)
    }
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::Rabbitmq, Self::Redis];

    /// Its name for `scripts/services`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rabbitmq => "rabbitmq",
            Self::Redis => "redis",
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Rabbitmq => "RabbitMQ",
            Self::Redis => "Redis",
        })
    }
}

/// What the lock guards; what another task left there when it panicked is still what was remembered.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
