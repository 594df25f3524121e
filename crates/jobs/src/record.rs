//! Recording: log lines and outcomes of all runs, in batches, one transaction each.
//!
//! One lane keeps the order within an execution. While PostgreSQL is away the batch is kept and tried again;
//! the fence decides whether it still counts.

use std::time::Duration;

use domain::Platform;
use domain::events::Update;
use domain::executions::finish::{self, Outcome, Recorded, Written};
use domain::executions::{Kind, Status, logs};
use domain::gather::Gather;
use domain::in_time;
use domain::wakeup::Wakeup;
use tokio::sync::{mpsc, oneshot};

/// Entries of one transaction.
const BATCH: usize = 256;
/// Entries that may wait; more makes runs wait, which slows their processes down.
const BACKLOG: usize = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer of PostgreSQL is waited for; what it wrote all the same is refused the second time, by the fence.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Where outcomes go. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    lane: mpsc::Sender<Entry>,
}

/// The outcome of an attempt, with what its last event says.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    /// The terminal update but for what the database decides.
    pub(crate) update: Update,
    pub(crate) kind: Kind,
    pub(crate) priority: i16,
}

#[derive(Debug)]
enum Entry {
    Lines(logs::Batch),
    Finished(Box<Finished>, oneshot::Sender<()>),
}

impl Recorder {
    pub(crate) fn start(platform: &Platform) -> Self {
        let (lane, entries) = mpsc::channel(BACKLOG);
        tokio::spawn(run_lane(platform.clone(), entries));
        Self { lane }
    }

    /// Stores lines of a run that goes on.
    pub(crate) async fn lines(&self, batch: logs::Batch) {
        // The lane ends only with the process.
        let _ = self.lane.send(Entry::Lines(batch)).await;
    }

    /// Stores an outcome; returns when it is durable or its fence was lost.
    pub(crate) async fn finish(&self, finished: Finished) {
        let (done, recorded) = oneshot::channel();
        let _ = self.lane.send(Entry::Finished(Box::new(finished), done)).await;
        let _ = recorded.await;
    }
}

async fn run_lane(platform: Platform, mut entries: mpsc::Receiver<Entry>) {
    let mut gather = Gather::default();
    loop {
        let batch = gather.next(&mut entries, BATCH).await;
        if batch.is_empty() {
            return;
        }
        let (mut lines, mut finished, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for entry in batch {
            match entry {
                Entry::Lines(batch) => lines.push(batch),
                Entry::Finished(outcome, done) => {
                    finished.push(*outcome);
                    waiting.push(done);
                }
            }
        }
        let recorded = write_until_durable(&platform, &lines, &mut finished).await;
        announce(&platform, finished, &recorded);
        for done in waiting {
            let _ = done.send(());
        }
    }
}

async fn write_until_durable(
    platform: &Platform,
    lines: &[logs::Batch],
    finished: &mut [Finished],
) -> Vec<Recorded> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match write(platform, lines, finished).await {
            Ok(recorded) => return recorded,
            Err(error) => error,
        };
        if !error.is_unavailable() {
            tracing::error!(?error, "a batch of outcomes was refused, writing them one by one");
            return write_one_by_one(platform, lines, finished).await;
        }
        tracing::warn!(%error, outcomes = finished.len(), retry_in = ?pause, "outcomes wait for PostgreSQL");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Writes one entry: again while PostgreSQL is away, for then nothing is known about what it holds.
async fn write_one(
    platform: &Platform,
    lines: &[logs::Batch],
    finished: &[Finished],
) -> domain::Result<Vec<Recorded>> {
    let mut pause = FIRST_PAUSE;
    loop {
        match write(platform, lines, finished).await {
            Err(error) if error.is_unavailable() => tracing::warn!(%error, "an outcome waits for PostgreSQL"),
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn write(
    platform: &Platform,
    lines: &[logs::Batch],
    finished: &[Finished],
) -> domain::Result<Vec<Recorded>> {
    let outcomes: Vec<Outcome> = finished.iter().map(|finished| finished.outcome.clone()).collect();
    let Written { recorded, dropped_lines } =
        in_time(WRITE_PATIENCE, Box::pin(finish::record(&platform.db, lines, &outcomes))).await?;
    if dropped_lines > 0 {
        tracing::warn!(dropped_lines, "log lines of attempts that had lost their fence were dropped");
    }
    let lost = finished.len() - recorded.len();
    if lost > 0 {
        tracing::warn!(lost, "outcomes of attempts that had lost their fence were dropped");
    }
    Ok(recorded)
}

/// One bad value must not hold the others up: what PostgreSQL refuses becomes a failure that says so.
async fn write_one_by_one(
    platform: &Platform,
    lines: &[logs::Batch],
    finished: &mut [Finished],
) -> Vec<Recorded> {
    for batch in lines {
        if let Err(error) = Box::pin(write_one(platform, std::slice::from_ref(batch), &[])).await {
            tracing::error!(?error, execution.id = %batch.execution_id, "log lines were refused");
        }
    }
    let mut recorded = Vec::new();
    for one in finished {
        match Box::pin(write_one(platform, &[], std::slice::from_ref(one))).await {
            Ok(written) => recorded.extend(written),
            Err(error) => {
                tracing::error!(?error, execution.id = %one.outcome.id, "an outcome was refused");
                refuse(one);
                let refused = Box::pin(write_one(platform, &[], std::slice::from_ref(one))).await;
                recorded.extend(refused.unwrap_or_default());
            }
        }
    }
    recorded
}

fn refuse(finished: &mut Finished) {
    let outcome = &mut finished.outcome;
    outcome.status = Status::Failed;
    (outcome.result, outcome.result_type, outcome.variables, outcome.lines) = (None, None, None, None);
    outcome.error_type = Some("ResultNotSerializable".into());
    outcome.error_message = Some("the result cannot be stored".into());
}

fn announce(platform: &Platform, finished: Vec<Finished>, recorded: &[Recorded]) {
    for Finished { outcome, mut update, kind, priority } in finished {
        // A batch may hold two attempts of one execution: what counts of one says nothing of the other.
        let is_of = |recorded: &&Recorded| (recorded.id, recorded.attempt) == (outcome.id, outcome.attempt);
        let Some(recorded) = recorded.iter().find(is_of) else { continue };
        update.status = recorded.status;
        update.completed_at = recorded.completed_at;
        if recorded.status == Status::Pending {
            wake_later(platform, Wakeup::new(outcome.id, update.org_id, priority, None), outcome.retry_in);
        }
        if recorded.status != Status::Cancelled {
            update.has_variables = outcome.variables.is_some_and(|variables| variables.get() != "{}");
            update.duration_ms = Some(outcome.duration_ms);
            update.result_type = outcome.result_type;
            update.error_message = outcome.error_message;
            update.error_type = outcome.error_type;
            update.is_user_error = outcome.is_user_error;
            update = update.with_result(outcome.result);
        }
        platform.events.publish(update.of_kind(kind));
    }
}

/// Wakes somebody for the next attempt. The sweeper would find the row as well; this is in time.
pub(crate) fn wake_later(platform: &Platform, wakeup: Wakeup, pause: Duration) {
    let wakeups = platform.wakeups.clone();
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        wakeups.publish(vec![wakeup]);
    });
}
