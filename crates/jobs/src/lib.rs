//! The working side: consumes wake-ups, claims, runs, records; indexes the workspace; keeps the clockwork.
//!
//! SQL is in `domain`, Python behind `runner`. The invariant: from the claim on the row's lease owns an
//! execution, so whatever dies here, the reaper finds it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::background_jobs::Kind;
use domain::settings::Settings;
use domain::telemetry::scrape;
use domain::{Platform, process};
use tokio_util::sync::CancellationToken;

mod ahead;
mod background;
mod calls;
mod cron;
mod enclosure;
mod execute;
mod git;
mod known;
mod mask;
mod packages;
mod patience;
mod record;
mod slots;
mod stop;
mod templates;
mod trace;
mod transcript;
mod worker;
mod workspace;

pub use enclosure::isolation;
pub use workspace::{Indexer, index_once};

/// Name of the file in `TEMP_PATH` that a living jobs process touches.
pub const ALIVE_FILE: &str = "jobs.alive";
const ALIVE_PERIOD: Duration = Duration::from_secs(5);

/// Who does which background jobs. Those of a kind without a row are left to processes that have one.
const HANDLERS: &[(Kind, background::Handler)] =
    &[(Kind::PackagesInstall, packages::carry_out), (Kind::GitSync, git::carry_out)];

/// A process that only works: reports what is away, runs until `stop`, drains, closes.
///
/// # Errors
/// As [`run`], when a setting is missing, and when the broker has queues of ours with other arguments.
pub async fn serve(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let platform = Platform::open(settings)?;
    tokio::spawn(stop.clone().run_until_cancelled_owned(process::report_dependencies(platform.clone())));
    scrape::start(&platform, &stop).await?;
    let working = |stop| Box::pin(run(platform.clone(), stop));
    let outcome = process::with_own_queues(&platform, &stop, working).await;
    platform.close().await;
    outcome
}

/// Runs the worker, the indexer and the clockwork until `stop`, then drains: nothing new is claimed, runs end
/// within `SHUTDOWN_GRACE_SECONDS` or are ended and recorded.
///
/// # Errors
/// When the private directory cannot be made, and where the isolation that is required cannot be had.
pub async fn run(platform: Platform, stop: CancellationToken) -> anyhow::Result<()> {
    std::fs::create_dir_all(&platform.settings.temp_path)?;
    enclosure::require_isolation(&platform.settings).await?;
    // Before anything else is started, which would be in the way; and gone after everything else.
    let cgroups = enclosure::control_groups(&platform.settings).await?;
    let root = platform.settings.temp_path.clone();
    tokio::task::spawn_blocking(move || match runner::remove_left_over(&root) {
        Ok(0) => {}
        Ok(folders) => tracing::info!(folders, "removed what runs of a killed worker had left"),
        Err(error) => tracing::warn!(%error, "cannot look for what a killed worker has left"),
    });
    // A run that reads /proc/<ppid>/environ must find nothing.
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "this process stays readable for others of its user");
    }
    let (indexer, templates) = Indexer::start(platform.clone(), cgroups.clone(), stop.clone());
    let clockwork = cron::start(&platform, &stop);
    let background = tokio::spawn(background::run(platform.clone(), HANDLERS, stop.clone()));
    let alive = tokio::spawn(
        stop.clone().run_until_cancelled_owned(stay_alive(platform.settings.temp_path.join(ALIVE_FILE))),
    );

    let worker = Arc::new(worker::Worker::new(platform, templates));
    worker.run(stop).await;

    let _ = tokio::join!(indexer, clockwork, alive, background);
    if let Some(cgroups) = cgroups {
        let removed = tokio::task::spawn_blocking(move || cgroups.remove()).await?;
        if let Err(error) = removed {
            tracing::warn!(%error, "control groups of runs are left, the next start removes them");
        }
    }
    Ok(())
}

async fn stay_alive(file: PathBuf) {
    loop {
        if let Err(error) = tokio::fs::write(&file, b"").await {
            tracing::warn!(%error, "cannot touch the file that says this process lives");
        }
        tokio::time::sleep(ALIVE_PERIOD).await;
    }
}
