//! `bifrost-jobs`: claims and runs executions. HTTP is served by `bifrost-api` on the same database and broker.

use std::process::ExitCode;

use domain::process;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    process::end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let settings = process::prepare().map_err(anyhow::Error::msg)?;
    jobs::serve(settings, process::stop_on_signal()?).await
}
