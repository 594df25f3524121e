//! Background jobs: woken by their queues, claimed one at a time, kept by a lease, ended by whoever holds the fence.
//!
//! What a kind of job does is in its handler; here is what all have in common. The invariant: before a job's row is
//! written as ended or handed back, its handler has stopped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use domain::background_jobs::upkeep::{self, Reaped};
use domain::background_jobs::work::{self, Claimed, Outcome};
use domain::background_jobs::{Kind, Status};
use domain::events::{Event, News, Progress};
use domain::executions::claim::{LEASE, PATIENCE};
use domain::id::{JobId, UserId, WorkerId};
use domain::notifications::Reporter;
use domain::{Platform, Result, in_time};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::patience::{HEARTBEAT, PAUSE_WITHOUT_DATABASE};

/// Wake-ups taken together; each claim looks at all rows.
const DELIVERIES: usize = 16;
const PREFETCH: u16 = 16;
/// What is told of a job that ended by a fault of ours.
const BROKEN: &str = "The job broke off because of an internal error; the log of the server says more.";

/// What carries a job out. It is dropped where it stands when its lease is lost, its time is up or the process stops,
/// so whatever it starts must end with it.
pub(crate) type Handler = fn(Arc<Running>) -> Work;

/// A handler at work. An error is a fault of ours, told as such; what a person can act on is an [`Outcome::failure`].
pub(crate) type Work = Pin<Box<dyn Future<Output = anyhow::Result<Outcome>> + Send>>;

/// A job under way, as its handler sees it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) platform: Platform,
    pub(crate) job: Claimed,
    /// Tells the notification of the job, if it has one.
    reporter: Option<Reporter>,
}

impl Running {
    /// Tells who asked for the job, where they follow it and in its notification.
    pub(crate) fn log(&self, level: &str, message: impl Into<String>) {
        let message = message.into();
        self.report(None, &*message);
        let news = News::Log { level: level.into(), message };
        tell(&self.platform, self.job.id, self.job.kind, self.job.requested_by, news);
    }

    /// Says how far the job is, 0 to 100 or `None` for as far as before. However often it is called, the work does not
    /// wait, and the notification changes at most four times a second.
    pub(crate) fn report(&self, percent: Option<f64>, description: impl Into<String>) {
        if let Some(reporter) = &self.reporter {
            reporter.report(percent, description);
        }
    }
}

/// Works on jobs until `stop`, then gives what runs the grace, and hands the rest back.
pub(crate) async fn run(platform: Platform, handlers: &'static [(Kind, Handler)], stop: CancellationToken) {
    let jobs = TaskTracker::new();
    let patience = CancellationToken::new();
    let pool = Pool { platform, worker: WorkerId::generate(), handlers, stop, patience: patience.clone() };
    let queues = handlers.iter().map(|(kind, _)| pool.consume(*kind, &jobs));
    futures::future::join_all(queues).await;
    jobs.close();
    let grace = Duration::from_secs(pool.platform.settings.shutdown_grace_seconds);
    if tokio::time::timeout(grace, jobs.wait()).await.is_err() {
        tracing::warn!("handing back a background job that did not end in time");
        patience.cancel();
        jobs.wait().await;
    }
}

#[derive(Clone)]
struct Pool {
    platform: Platform,
    worker: WorkerId,
    handlers: &'static [(Kind, Handler)],
    /// Cancelled when the process stops.
    stop: CancellationToken,
    /// Cancelled when a stopping process waits no longer.
    patience: CancellationToken,
}

impl Pool {
    /// Takes jobs until the process stops. A claim is never dropped on its way: it may be committed, and its job would be
    /// held by nobody for as long as its lease lasts.
    async fn consume(&self, kind: Kind, jobs: &TaskTracker) {
        let mut consumer = self.platform.wakeups.consume_jobs(kind.queue(), PREFETCH);
        while let Some(woken) = self.stop.run_until_cancelled(consumer.next(DELIVERIES)).await {
            let claimed = self.claim().await;
            if claimed.is_none() && self.stop.is_cancelled() {
                return;
            }
            consumer.ack(woken).await;
            if let Some((job, handler, asked)) = claimed {
                jobs.spawn(self.clone().carry_out(job, handler, asked));
            }
        }
    }

    /// Claims whatever is next, and says when it asked for it; while PostgreSQL is away it waits, until the process stops, and the
    /// deliveries stay unacknowledged.
    async fn claim(&self) -> Option<(Claimed, Handler, Instant)> {
        let kinds: Vec<Kind> = self.handlers.iter().map(|(kind, _)| *kind).collect();
        loop {
            let asked = Instant::now();
            match in_time(PATIENCE, work::claim(&self.platform.db, self.worker, &kinds)).await {
                Ok(claimed) => {
                    let job = claimed?;
                    let handler = self.handlers.iter().find(|(kind, _)| *kind == job.kind)?.1;
                    return Some((job, handler, asked));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot claim a background job, trying again");
                    self.stop.run_until_cancelled(tokio::time::sleep(PAUSE_WITHOUT_DATABASE)).await?;
                }
            }
        }
    }

    async fn carry_out(self, job: Claimed, handler: Handler, asked: Instant) {
        let platform = &self.platform;
        tracing::info!(job.id = %job.id, kind = job.kind.as_str(), job.attempt, "began a background job");
        let reporter = job.notification_id.map(|id| Reporter::start(platform, id.into()));
        let running = Arc::new(Running { platform: platform.clone(), job: job.clone(), reporter });
        let mut task = tokio::spawn(handler(running));
        let timeout = Duration::from_secs(u64::try_from(job.timeout_seconds).unwrap_or_default());
        let outcome = tokio::select! {
            done = &mut task => match done {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => {
                    tracing::error!(job.id = %job.id, error = format!("{error:#}"), "a background job broke off");
                    Outcome::failure(BROKEN)
                }
                Err(panic) => {
                    tracing::error!(job.id = %job.id, error = %panic, "the handler of a background job panicked");
                    Outcome::failure(BROKEN)
                }
            },
            () = keep_lease(platform, &job, asked) => {
                tracing::warn!(job.id = %job.id, job.attempt, "lost a background job, another attempt has it");
                return end(task).await;
            }
            () = self.patience.cancelled() => {
                end(task).await;
                if let Err(error) = in_time(PATIENCE, work::release(&platform.db, &job)).await {
                    tracing::warn!(%error, job.id = %job.id, "cannot hand a background job back, the reaper will");
                }
                return wake_next(platform).await;
            }
            () = tokio::time::sleep(timeout) => {
                end(task).await;
                let limit = timeout.as_secs();
                Outcome::failure(format!("It did not end within {limit} s, and was stopped. Nothing was changed."))
            }
        };
        if record(platform, &job, &outcome).await {
            tracing::info!(job.id = %job.id, status = ?outcome.status, "ended a background job");
            tell(platform, job.id, job.kind, job.requested_by, News::from(&outcome));
        }
        wake_next(platform).await;
    }
}

/// Tells of jobs that the reaper took back, and wakes workers for them.
///
/// # Errors
/// As [`upkeep::reap`].
pub(crate) async fn reap(platform: &Platform) -> Result<()> {
    for lost in upkeep::reap(platform).await? {
        let Reaped { id, attempt, status, .. } = lost;
        tracing::warn!(job.id = %id, attempt, ?status, "took back a background job that nobody works on any more");
        if let Some(outcome) = lost.outcome() {
            tell(platform, id, lost.kind, lost.requested_by, News::from(&outcome));
        }
        if status == Status::Pending {
            upkeep::wake_next(&platform.db, &platform.wakeups).await?;
        }
    }
    Ok(())
}

/// Stops a handler and waits until it has.
async fn end(task: tokio::task::JoinHandle<anyhow::Result<Outcome>>) {
    task.abort();
    let _ = task.await;
}

/// Extends the lease until it is lost: to another attempt, or because PostgreSQL was away for as long as it lasts.
/// `asked`: before it was claimed.
async fn keep_lease(platform: &Platform, job: &Claimed, asked: Instant) {
    let (mut ends, mut pause) = (asked + LEASE, HEARTBEAT);
    loop {
        tokio::time::sleep_until(ends.min(Instant::now() + pause)).await;
        let asked = Instant::now();
        match tokio::time::timeout_at(ends, work::heartbeat(&platform.db, job)).await {
            Ok(Ok(true)) => (ends, pause) = (asked + LEASE, HEARTBEAT),
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, job.id = %job.id, "cannot extend the lease of a background job, trying again");
                pause = PAUSE_WITHOUT_DATABASE;
            }
        }
    }
}

/// Writes the end; `false` when it does not count. While PostgreSQL is away it tries as long as the lease may last.
async fn record(platform: &Platform, job: &Claimed, outcome: &Outcome) -> bool {
    let began = Instant::now();
    loop {
        match in_time(PATIENCE, Box::pin(work::finish(platform, job, outcome))).await {
            Ok(is_ours) => return is_ours,
            Err(error) if began.elapsed() < LEASE => {
                tracing::warn!(%error, job.id = %job.id, "cannot write the end of a background job, trying again");
                tokio::time::sleep(PAUSE_WITHOUT_DATABASE).await;
            }
            Err(error) => {
                tracing::error!(%error, job.id = %job.id, "the end of a background job is lost, it will be repeated");
                return false;
            }
        }
    }
}

async fn wake_next(platform: &Platform) {
    if let Err(error) = in_time(PATIENCE, upkeep::wake_next(&platform.db, &platform.wakeups)).await {
        tracing::warn!(%error, "cannot wake a worker for the next background job, the sweeper will");
    }
}

fn tell(platform: &Platform, job_id: JobId, kind: Kind, user_id: UserId, news: News) {
    let progress = Progress { job_id, topic: kind.into(), user_id, news };
    platform.events.publish(Event::Progress(Box::new(progress)));
}

#[cfg(test)]
mod tests;
