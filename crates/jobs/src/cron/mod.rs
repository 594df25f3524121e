//! The clockwork: idempotent ticks, safe on every replica at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::background_jobs::upkeep;
use domain::connections;
use domain::events::Update;
use domain::executions::reap::{self, Reaped};
use domain::executions::{Status, history, housekeep, sweep};
use domain::metrics;
use domain::packages;
use domain::sabotage::{self, Fault};
use domain::schedules::fire;
use domain::system_events::{Category, Level, NewEvent};
use domain::wakeup::Wakeup;
use domain::wakeup::queue::Queue;
use domain::{Platform, Result, in_time};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::background;
use crate::record::wake_later;

const REAP_PERIOD: Duration = Duration::from_secs(2);
/// Also how late a run may start that was given a time.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
const SCHEDULE_PERIOD: Duration = Duration::from_secs(1);
/// How often a replica looks whether the tokens of connections are due; one of all replicas refreshes them.
const TOKENS_PERIOD: Duration = Duration::from_secs(60);
/// How often a replica looks whether metrics are due; one of all replicas takes them, every two minutes.
const METRICS_PERIOD: Duration = Duration::from_secs(5);
/// How often somebody looks whether messages have died.
const DEAD_LETTERS_PERIOD: Duration = Duration::from_secs(20);
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(3600);
/// How often old executions are removed, and partitions of log lines made and dropped.
const HISTORY_PERIOD: Duration = Duration::from_secs(600);
/// Rows younger than this are left to the publisher that is still at it.
const SWEEP_GRACE_SECONDS: f64 = 3.0;
/// After PostgreSQL was away, workers get this long to extend their leases before any is taken for dead.
const REAP_GRACE: Duration = Duration::from_secs(5);
/// How long a tick may take: a connection may be dead without anybody having said so.
const REAP_PATIENCE: Duration = Duration::from_secs(5);
const TICK_PATIENCE: Duration = Duration::from_secs(20);
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// Starts all ticks; they end with `stop`.
pub(crate) fn start(platform: &Platform, stop: &CancellationToken) -> JoinHandle<()> {
    let platform = platform.clone();
    let work = async move {
        let dead = Mutex::new(HashMap::new());
        let ticks = Ticks { platform: &platform };
        tokio::join!(
            reap_forever(&platform),
            ticks.every(SWEEP_PERIOD, TICK_PATIENCE, "sweep", || sweep_once(&platform)),
            ticks.every(SWEEP_PERIOD, TICK_PATIENCE, "sweep of jobs", || sweep_jobs(&platform)),
            ticks.every(SCHEDULE_PERIOD, TICK_PATIENCE, "schedules", || fire_schedules(&platform)),
            ticks.every(TOKENS_PERIOD, LONG_PATIENCE, "token refresh", || refresh_tokens(&platform)),
            ticks.every(METRICS_PERIOD, LONG_PATIENCE, "metrics", || take_metrics(&platform)),
            ticks.every(DEAD_LETTERS_PERIOD, LONG_PATIENCE, "dead letters", || count_dead_letters(
                &platform, &dead
            )),
            ticks.every(HOUSEKEEPING_PERIOD, LONG_PATIENCE, "housekeeping", || housekeep::housekeep(
                &platform.db
            )),
            ticks.every(HISTORY_PERIOD, LONG_PATIENCE, "history", || keep_history(&platform)),
            ticks.every(HOUSEKEEPING_PERIOD, LONG_PATIENCE, "housekeeping of jobs", || upkeep::housekeep(
                &platform.db
            )),
            ticks.every(HOUSEKEEPING_PERIOD, LONG_PATIENCE, "housekeeping of packages", || {
                packages::housekeep(&platform.db)
            }),
        );
    };
    tokio::spawn({
        let stop = stop.clone();
        async move {
            stop.run_until_cancelled(Box::pin(work)).await;
        }
    })
}

/// What is done again and again; what fails is told.
struct Ticks<'a> {
    platform: &'a Platform,
}

impl Ticks<'_> {
    async fn every<F: Future<Output = Result<()>>>(
        &self,
        period: Duration,
        patience: Duration,
        name: &'static str,
        tick: impl Fn() -> F,
    ) {
        let mut clock = tokio::time::interval(period);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            if let Err(error) = in_time(patience, tick()).await {
                tracing::warn!(%error, tick = name, "a tick failed, the next one tries again");
                let event =
                    NewEvent::new(Category::System, Level::Error, format!("The tick `{name}` failed"));
                self.platform.system_events.report(event.with(json!({"error": error.to_string()})));
            }
        }
    }
}

async fn sweep_once(platform: &Platform) -> Result<()> {
    if sabotage::is_without_sweeper() {
        return Ok(());
    }
    let published = sweep::sweep(&platform.db, &platform.wakeups, SWEEP_GRACE_SECONDS).await?;
    if published > 0 {
        tracing::info!(published, "woke executions that nobody had woken");
    }
    Ok(())
}

async fn sweep_jobs(platform: &Platform) -> Result<()> {
    let published = upkeep::sweep(&platform.db, &platform.wakeups).await?;
    if published > 0 {
        tracing::info!(published, "woke background jobs that nobody had woken");
    }
    Ok(())
}

async fn fire_schedules(platform: &Platform) -> Result<()> {
    let fired = fire::tick(&platform.db).await?;
    if fired.started + fired.passed_over > 0 {
        let lag_ms = fired.lag.num_milliseconds();
        tracing::info!(fired.started, fired.passed_over, lag_ms, "schedules fired");
    }
    fired.updates.into_iter().for_each(|update| platform.events.publish(update.into()));
    platform.wakeups.publish(fired.wakeups);
    Ok(())
}

/// Tells of dead letters when there are more of them than there were.
async fn count_dead_letters(platform: &Platform, seen: &Mutex<HashMap<Queue, u64>>) -> Result<()> {
    for (queue, count) in platform.wakeups.count_dead_letters().await? {
        let before = seen.lock().unwrap_or_else(PoisonError::into_inner).insert(queue, count);
        if count <= before.unwrap_or_default() {
            continue;
        }
        let name = queue.as_str();
        let message = format!("Messages could not be handled and are dead letters of {name}");
        // Every replica counts the same.
        let minute = chrono::Utc::now().format("%Y%m%d%H%M");
        let event = NewEvent::new(Category::System, Level::Warning, message)
            .with(json!({"queue": name, "count": count}))
            .once(format!("dead-letters:{name}:{count}:{minute}"));
        platform.system_events.report(event);
    }
    Ok(())
}

async fn refresh_tokens(platform: &Platform) -> Result<()> {
    let Some(report) = connections::refresh_due(&platform.db, &platform.refresher).await? else {
        return Ok(());
    };
    if report.failed > 0 {
        let message = "Tokens of connections could not be refreshed; their log entries say which and why";
        let event = NewEvent::new(Category::Oauth, Level::Warning, message);
        let details = json!({"failed": report.failed, "refreshed": report.refreshed});
        platform.system_events.report(event.with(details));
    }
    if report.needed > 0 {
        tracing::info!(
            refreshed = report.refreshed,
            failed = report.failed,
            "refreshed tokens of connections"
        );
    }
    Ok(())
}

async fn take_metrics(platform: &Platform) -> Result<()> {
    if let Some(ticked) = metrics::tick(&platform.db).await? {
        tracing::debug!(ticked.folded, "took metrics");
    }
    Ok(())
}

async fn keep_history(platform: &Platform) -> Result<()> {
    let removed = history::tick(&platform.db, platform.settings.history_days).await?;
    if removed != history::Removed::default() {
        let history::Removed { executions, lines, partitions } = removed;
        tracing::info!(executions, lines, partitions, "removed history that was older than it is kept");
    }
    Ok(())
}

async fn reap_forever(platform: &Platform) {
    let mut clock = tokio::time::interval(REAP_PERIOD);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reachable_since = Instant::now();
    while !sabotage::is(Fault::NoReaper) {
        clock.tick().await;
        let look = async {
            if reachable_since.elapsed() < REAP_GRACE {
                platform.db.ping().await.map(|()| Vec::new())
            } else {
                reap::reap(&platform.db).await
            }
        };
        let reaped = in_time(REAP_PATIENCE, Box::pin(look)).await;
        // What is away is told of once, below.
        if reachable_since.elapsed() >= REAP_GRACE
            && reaped.is_ok()
            && let Err(error) = in_time(REAP_PATIENCE, Box::pin(background::reap(platform))).await
        {
            tracing::warn!(%error, "cannot look for lost background jobs");
        }
        match reaped {
            Ok(reaped) => announce(platform, reaped),
            Err(error) => {
                tracing::warn!(%error, "cannot look for lost executions");
                reachable_since = Instant::now();
            }
        }
    }
}

/// An attempt that was lost, for the log.
fn of_lost(lost: &Reaped) -> NewEvent {
    let message = format!("An attempt of {} was ended, since nobody ran it any more", lost.workflow_name);
    let details = json!({
        "execution_id": lost.id, "attempt": lost.attempt, "status": lost.status.to_string(),
        "error": lost.error_message,
    });
    NewEvent::new(Category::Execution, Level::Warning, message).of(lost.organization_id).with(details)
}

fn announce(platform: &Platform, reaped: Vec<Reaped>) {
    for lost in reaped {
        tracing::warn!(
            execution.id = %lost.id,
            attempt = lost.attempt,
            status = %lost.status,
            "ended an attempt that nobody runs any more"
        );
        platform.system_events.report(of_lost(&lost));
        if lost.status == Status::Pending {
            let wakeup = Wakeup::new(lost.id, lost.organization_id, lost.priority, None);
            wake_later(platform, wakeup, Duration::try_from_secs_f64(lost.pause_seconds).unwrap_or_default());
        }
        let executed_by = (lost.executed_by, lost.executed_by_name);
        let (org, name) = (lost.organization_id, lost.workflow_name);
        let update = Update {
            started_at: lost.started_at,
            completed_at: lost.completed_at,
            error_message: lost.error_message,
            error_type: lost.error_type,
            transient: lost.transient,
            ..Update::new(lost.id, org, name, executed_by, lost.status, lost.attempt)
        };
        platform.events.publish(update.of_kind(lost.kind));
    }
}
