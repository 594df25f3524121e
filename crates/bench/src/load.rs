//! Closed-loop load: so many clients, each of which begins the next request when the last one is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::follow::Follower;
use crate::http::{Connection, member};

/// Faults that are kept to be shown.
const SHOWN_FAULTS: usize = 3;

/// What a client does again and again.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Sends a run whose answer is its outcome.
    RunAndWait(Arc<[u8]>),
    /// Sends a run, and waits until it has ended.
    RunAndFollow(Arc<[u8]>, Arc<Follower>),
    /// Sends a run and does not care.
    Submit(Arc<[u8]>),
    /// Reads; the requests are sent in turn.
    Read(Arc<[Vec<u8>]>),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// From the first request to the last answer.
    pub(crate) wall: Duration,
    /// Of each, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// Runs that were accepted.
    pub(crate) executions: Vec<Uuid>,
    /// How many failed.
    pub(crate) failed: usize,
    /// The first few reasons.
    pub(crate) faults: Vec<String>,
}

/// Performs `count` actions with `clients` connections.
pub(crate) async fn run(
    address: std::net::SocketAddr,
    clients: usize,
    count: usize,
    action: &Action,
) -> anyhow::Result<Outcome> {
    let (taken, start) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(clients + 1)));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let mut connection = Connection::open(address).await?;
        let (action, taken, start) = (action.clone(), taken.clone(), start.clone());
        tasks.spawn(async move {
            start.wait().await;
            let mut outcome = Outcome::default();
            loop {
                let number = taken.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return outcome;
                }
                let began = Instant::now();
                let done = action.perform(&mut connection, number).await;
                let broken = done.is_err();
                outcome.note(began.elapsed(), done);
                if broken {
                    // What is left of a broken conversation must not be taken for the next answer.
                    match Connection::open(address).await {
                        Ok(fresh) => connection = fresh,
                        Err(_) => return outcome,
                    }
                }
            }
        });
    }
    start.wait().await;
    let began = Instant::now();
    let mut all = Outcome::default();
    while let Some(outcome) = tasks.join_next().await {
        all.merge(outcome.context("a client broke")?);
    }
    all.wall = began.elapsed();
    all.latencies.sort_unstable();
    Ok(all)
}

impl Action {
    async fn perform(&self, connection: &mut Connection, number: usize) -> anyhow::Result<Option<Uuid>> {
        match self {
            Self::RunAndWait(request) => {
                let (id, status) = submit(connection, request).await?;
                ensure!(status == Status::Success, "a run did not succeed: {status:?}");
                Ok(Some(id))
            }
            Self::RunAndFollow(request, follower) => {
                let (id, _) = submit(connection, request).await?;
                follower.ended(id, connection).await?;
                Ok(Some(id))
            }
            Self::Submit(request) => Ok(Some(submit(connection, request).await?.0)),
            Self::Read(requests) => {
                let reply = connection.call(&requests[number % requests.len()]).await?;
                ensure!(
                    reply.status == 200,
                    "status {}: {}",
                    reply.status,
                    String::from_utf8_lossy(reply.body)
                );
                Ok(None)
            }
        }
    }
}

/// The state an execute request answered with.
#[derive(Debug, PartialEq, Eq)]
enum Status {
    Success,
    Other(String),
}

async fn submit(connection: &mut Connection, request: &[u8]) -> anyhow::Result<(Uuid, Status)> {
    let reply = connection.call(request).await?;
    let shown = || String::from_utf8_lossy(reply.body).into_owned();
    ensure!(reply.status == 200, "status {}: {}", reply.status, shown());
    let id = member(reply.body, "execution_id").and_then(|id| id.parse().ok());
    let status = match member(reply.body, "status") {
        Some("Success") => Status::Success,
        other => Status::Other(other.unwrap_or_default().to_owned()),
    };
    Ok((id.with_context(|| format!("an answer without an execution: {}", shown()))?, status))
}

impl Outcome {
    /// Things done a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.wall.as_secs_f64()
    }

    /// The latency that so many percent stay within, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.latencies, percent).as_secs_f64() * 1_000.0
    }

    fn note(&mut self, took: Duration, done: anyhow::Result<Option<Uuid>>) {
        match done {
            Ok(execution) => {
                self.latencies.push(took);
                self.executions.extend(execution);
            }
            Err(error) => {
                self.failed += 1;
                if self.faults.len() < SHOWN_FAULTS {
                    self.faults.push(format!("{error:#}"));
                }
            }
        }
    }

    /// Adds what came of the same load at another time.
    pub(crate) fn add_round(&mut self, other: Self) {
        self.wall += other.wall;
        self.merge(other);
        self.latencies.sort_unstable();
    }

    fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.executions.extend(other.executions);
        self.failed += other.failed;
        self.faults.extend(other.faults);
        self.faults.truncate(SHOWN_FAULTS);
    }
}

/// The nearest-rank percentile of sorted values.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<Duration> = (1..=40).map(Duration::from_millis).collect();

        assert_eq!(percentile(&values, 50), Duration::from_millis(20));
        assert_eq!(percentile(&values, 95), Duration::from_millis(38));
        assert_eq!(percentile(&values, 99), Duration::from_millis(40));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
