//! Serving and draining: not ready first, then no new connections, then the end of what is under way.

use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use domain::settings::Settings;
use domain::telemetry::scrape;
use domain::{Platform, process};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{AppState, dev, router};

/// How long a balancer is told that the process is not ready, before it stops listening.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// A process that only serves: reports what is away, serves until `stop`, drains, closes.
///
/// # Errors
/// As [`serve`], when a setting is missing, and when the broker has queues of ours with other arguments.
pub async fn serve_alone(
    listener: TcpListener,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let platform = Platform::open(settings)?;
    tracing::info!(
        environment = platform.settings.environment.as_str(),
        version = env!("CARGO_PKG_VERSION"),
        "listening on {}",
        listener.local_addr()?
    );
    tokio::spawn(stop.clone().run_until_cancelled_owned(process::report_dependencies(platform.clone())));
    scrape::start(&platform, &stop).await?;
    let state = AppState::new(platform.clone())?;
    let outcome =
        process::with_own_queues(&platform, &stop, |stop| Box::pin(serve(listener, state, stop))).await;
    platform.close().await;
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

/// Serves until `stop`, then drains within `SHUTDOWN_GRACE_SECONDS`: readiness fails at once, requests under
/// way end, WebSockets are closed with 1012.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, state: AppState, stop: CancellationToken) -> anyhow::Result<()> {
    dev::prepare(&state, listener.local_addr()?).await;
    let mailer = state.platform.mailer.clone();
    let grace = Duration::from_secs(state.platform.settings.shutdown_grace_seconds);
    let draining = state.draining.clone();
    let sockets = state.sockets.clone();
    let closing = CancellationToken::new();

    let announce = {
        let (stop, draining, closing) = (stop.clone(), draining.clone(), closing.clone());
        async move {
            stop.cancelled().await;
            tracing::info!(?grace, "stopping: no longer ready, requests under way may end");
            draining.cancel();
            tokio::time::sleep(LAME_DUCK).await;
            closing.cancel();
        }
    };
    tokio::spawn(announce);

    let listener = listener.tap_io(|connection| {
        // Answers are small: waiting to fill a packet only delays them.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(closing.clone().cancelled_owned());
    let patience = async {
        draining.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = server => ended?,
        () = patience => tracing::warn!(?grace, "requests did not end in time, closing their connections"),
    }
    if tokio::time::timeout(LAME_DUCK, mailer.drain()).await.is_err() {
        tracing::warn!("mails under way were given up");
    }
    sockets.close();
    if tokio::time::timeout(LAME_DUCK, sockets.wait()).await.is_err() {
        tracing::debug!(open = sockets.len(), "WebSockets did not answer the close");
    }
    Ok(())
}
