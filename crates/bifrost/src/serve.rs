//! The long-running parts: the api alone, a worker alone, or both on one platform. The only place that calls
//! them.

use std::net::SocketAddr;

use domain::settings::Settings;
use domain::telemetry::scrape;
use domain::{Platform, process};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, USAGE};

#[derive(clap::Args)]
pub(crate) struct ApiArgs {
    /// Address to listen on; LISTEN by default.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

/// Serves the api until it is told to stop.
pub(crate) async fn api(args: ApiArgs) -> Result<u8, Failure> {
    let mut settings = separate_process()?;
    settings.listen = args.listen.unwrap_or(settings.listen);
    let listener = bind(settings.listen).await?;
    api::serve_alone(listener, settings, stop_on_signal()?).await?;
    Ok(0)
}

/// Runs a worker until it is told to stop.
pub(crate) async fn jobs() -> Result<u8, Failure> {
    jobs::serve(separate_process()?, stop_on_signal()?).await?;
    Ok(0)
}

/// Serves the api and works, in this process, until `stop`; the first to fail stops the other.
pub(crate) async fn both(
    listener: TcpListener,
    platform: Platform,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    scrape::start(&platform, &stop).await?;
    let api = async {
        let ended = serve_api(listener, platform.clone(), stop.clone()).await;
        stop.cancel();
        ended
    };
    let jobs = async {
        let ended = jobs::run(platform.clone(), stop.clone()).await;
        stop.cancel();
        ended
    };
    let (api, jobs) = tokio::join!(Box::pin(api), Box::pin(jobs));
    platform.close().await;
    api.and(jobs)
}

/// The OpenAPI document.
pub(crate) fn openapi_json() -> String {
    api::openapi_json()
}

async fn serve_api(listener: TcpListener, platform: Platform, stop: CancellationToken) -> anyhow::Result<()> {
    api::serve(listener, api::AppState::new(platform)?, stop).await
}

/// Listens, or says who could be in the way.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(format!("cannot listen on {address}: {error}")).next(
            "end what listens there, or choose another address: --listen 127.0.0.1:0 takes any free port",
        )
    })
}

/// A token that SIGINT and SIGTERM cancel.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    process::stop_on_signal().map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))
}

/// Settings of a process that shares the work with others.
fn separate_process() -> Result<Settings, Failure> {
    process::prepare().map_err(|faults| Failure::new(faults).code(USAGE))
}
