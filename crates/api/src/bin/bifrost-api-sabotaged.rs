//! `bifrost-api` with faults built in, for `scripts/chaos --prove`: a program of its own, so that it is never mistaken for
//! the one that is shipped.

use std::process::ExitCode;

use anyhow::Context;
use domain::process;
use mimalloc::MiMalloc;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    process::end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let settings = process::prepare().map_err(anyhow::Error::msg)?;
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    api::serve_alone(listener, settings, process::stop_on_signal()?).await
}
