//! `bifrost-api`: serves HTTP and WebSockets. Work is done by `bifrost-jobs` on the same database and broker.

use std::time::Duration;

use anyhow::{Context, anyhow};
use api::AppState;
use domain::settings::Settings;
use domain::{Platform, Result, telemetry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load().map_err(|fault| anyhow!(fault))?;
    settings.check().map_err(|fault| anyhow!(fault))?;
    settings.check_distributed().map_err(|fault| anyhow!(fault))?;
    telemetry::init(&settings);
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;

    let address = settings.listen;
    let platform = Platform::open(settings)?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(
        environment = platform.settings.environment.as_str(),
        version = env!("CARGO_PKG_VERSION"),
        "listening on {}",
        listener.local_addr()?
    );

    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    tokio::spawn(stop.clone().run_until_cancelled_owned(report_dependencies(platform.clone())));
    api::serve(listener, AppState::new(platform.clone())?, stop).await?;
    platform.db.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Asks for the stop at SIGTERM or SIGINT. The handlers are in place when this returns.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}

/// Says which dependency is away until all have answered once. The server serves meanwhile: what needs the
/// missing part answers 503.
async fn report_dependencies(platform: Platform) {
    tokio::join!(
        report("PostgreSQL", || platform.db.ping()),
        report("RabbitMQ", || platform.wakeups.ping()),
        report("Redis", || platform.cache.ping()),
    );
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
