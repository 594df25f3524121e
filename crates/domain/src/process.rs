//! What every long-running process does at its start and its end: settings, logs, TLS, signals.

use std::io::Write as _;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;
use crate::system_events::{Category, Level, NewEvent};
use crate::wakeup::topology::END_OF_CONFLICT;
use crate::{Error, Platform, Result, data_keys, telemetry};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Reads and checks the settings of a process that shares its work with others, and opens the logs.
///
/// # Errors
/// One line per fault, naming the variable and never its value.
pub fn prepare() -> Result<Settings, String> {
    let settings = Settings::load()?;
    settings.check_distributed()?;
    settings.check()?;
    telemetry::init(&settings);
    // The first installation wins; a second one is the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(settings)
}

/// A token that SIGINT and SIGTERM cancel; the second signal ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if told.is_cancelled() {
                std::process::exit(130);
            }
            tracing::info!("stopping");
            told.cancel();
        }
    });
    Ok(stop)
}

/// Says which dependency is away until each has answered once, and whether the master key is that of the secrets in the
/// database; the process works on meanwhile.
pub async fn report_dependencies(platform: Platform) {
    tokio::join!(
        async {
            report("PostgreSQL", || platform.db.ping()).await;
            report_master_key(&platform).await;
        },
        report("RabbitMQ", || platform.wakeups.ping()),
        report("Redis", || platform.cache.ping()),
    );
}

/// Carries out the work of a process, until `stop`. A broker that has queues of ours with other arguments ends it, unless it was
/// of use before: also hours after the start, so that the work is never cut off, but told to stop by the token that it is given.
///
/// # Errors
/// Those of the work; [`Error::Impossible`] when the broker ends it.
pub async fn with_own_queues<E: From<Error>, F: Future<Output = Result<(), E>>>(
    platform: &Platform,
    stop: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
) -> Result<(), E> {
    // A child: the first signal that comes while the work ends is not taken for the second.
    let stop = stop.child_token();
    let mut work = pin!(work(stop.clone()));
    let conflict = tokio::select! {
        done = &mut work => return done,
        conflict = platform.wakeups.conflict_at_start() => conflict,
    };
    stop.cancel();
    work.await?;
    Err(Error::Impossible(format!("RabbitMQ is not usable: {conflict}; {END_OF_CONFLICT}")).into())
}

/// Ends a `main`: a failure is one readable line on standard error.
pub fn end<E: std::fmt::Display>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whether anybody can read it makes no difference.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A process of another master key serves what needs no secret: refusing to start would take that away too.
async fn report_master_key(platform: &Platform) {
    match data_keys::count_unopened(&platform.db, &platform.vault).await {
        Ok(0) => {}
        Ok(unopened) => {
            let message = data_keys::explain_unopened(unopened);
            tracing::error!("{message}");
            platform.system_events.report(NewEvent::new(Category::Secret, Level::Critical, message));
        }
        Err(error) => tracing::warn!(%error, "cannot try the master key on the secrets"),
    }
}

async fn report<F: Future<Output = Result<()>>>(name: &str, ping: impl Fn() -> F) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = ping().await {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%error, cause, "{name} does not answer yet, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::info!("{name} answers");
}
