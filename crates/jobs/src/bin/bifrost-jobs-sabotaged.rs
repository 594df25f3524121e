//! `bifrost-jobs` with faults built in, for `scripts/chaos --prove`: a program of its own, so that it is never mistaken for
//! the one that is shipped.

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
