//! The working process: `bifrost-jobs`.

use domain::settings::Settings;
use domain::{Platform, telemetry};
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load().map_err(anyhow::Error::msg)?;
    telemetry::init(&settings);
    settings.check().map_err(anyhow::Error::msg)?;
    settings.check_distributed().map_err(anyhow::Error::msg)?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping");
            stop.cancel();
        }
    });
    jobs::run(Platform::open(settings)?, stop).await
}
