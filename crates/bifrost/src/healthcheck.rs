//! `bifrost healthcheck`: the probe of a container. Says nothing when all is well.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use domain::settings::Settings;

use crate::client::normal_url;
use crate::env;
use crate::failure::Failure;

/// The worker touches its file every few seconds; after this it is not merely slow.
const STALE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ask for the worker of this container instead of the api.
    #[arg(long)]
    jobs: bool,
    /// Address of the api; the one it listens on by default.
    #[arg(long, conflicts_with = "jobs")]
    url: Option<String>,
}

pub(crate) async fn run(args: &Args) -> Result<u8, Failure> {
    let settings = env::settings()?;
    if args.jobs {
        worker(&settings)?
    } else {
        api(&settings, args.url.as_deref()).await?
    }
    Ok(0)
}

fn worker(settings: &Settings) -> Result<(), Failure> {
    let file = settings.temp_path.join(jobs::ALIVE_FILE);
    let touched = std::fs::metadata(&file).and_then(|meta| meta.modified());
    let touched = touched
        .map_err(|error| Failure::new(format!("no worker has touched {}: {error}", file.display())))?;
    // A clock that was set back counts as fresh.
    let age = SystemTime::now().duration_since(touched).unwrap_or_default();
    if age > STALE {
        return Err(Failure::new(format!(
            "the worker has not touched {} for {} s",
            file.display(),
            age.as_secs()
        )));
    }
    Ok(())
}

async fn api(settings: &Settings, url: Option<&str>) -> Result<(), Failure> {
    let base = url.map_or_else(|| Ok(own_address(settings)), normal_url)?;
    let url = format!("{base}/health/ready");
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .map_err(|error| Failure::new(error.to_string()))?;
    let answer =
        client.get(&url).send().await.map_err(|error| Failure::new(crate::failure::chain(&error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let detail = answer.text().await.unwrap_or_default();
    Err(Failure::new(format!("{url} answers {status}: {}", crate::output::harmless(&detail))))
}

/// Where the api of this machine is reached: the wildcard address is not one to connect to.
fn own_address(settings: &Settings) -> String {
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}
