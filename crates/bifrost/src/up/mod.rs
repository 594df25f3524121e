//! `bifrost up`: everything in one process, on a private PostgreSQL unless one is configured.
//!
//! The invariant: what is configured is used or waited for, and never silently replaced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::settings::{Environment, Settings};
use domain::{Platform, data_keys};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, USAGE, chain};
use crate::output::{self, Progress};
use crate::{env, migrate, serve};

pub(crate) mod binaries;
pub(crate) mod configured;
mod demo;
pub(crate) mod postgres;
pub(crate) mod state;

use postgres::Postgres;
use state::{Lock, StateDir};

/// The kernel takes 108 bytes for the path of a socket, and runs put some forty behind this one.
const LONGEST_TEMP_PATH: usize = 64;
/// Name of the file that a generated master key is kept in.
const MASTER_KEY: &str = "secrets_master_key";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Make the first administrator if there is none, run `device_inventory` and show what it does.
    #[arg(long)]
    demo: bool,
    /// End after the demo, with the exit code of its run.
    #[arg(long, requires = "demo")]
    once: bool,
    /// Address of the api; LISTEN by default. Port 0 takes any free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where data and generated secrets are kept: /var/lib/bifrost for root, else under ~/.local/state.
    #[arg(long, value_name = "DIR", env = "BIFROST_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// How long services that are configured may take to answer, in seconds.
    #[arg(long, value_name = "SECONDS", env = "BIFROST_PATIENCE_SECONDS", default_value_t = 30)]
    patience: u64,
    /// The workflow files: ./workspace if there is one.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Folder of the Python package `bifrost`: ./platform if there is one.
    #[arg(long, value_name = "DIR")]
    platform: Option<PathBuf>,
}

/// What runs before anything is stopped again.
struct Ready {
    listener: TcpListener,
    settings: Settings,
    url: String,
    /// Whether the master key was made just now, so that nothing can have been stored with it.
    has_new_key: bool,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let progress = Progress::start();
    let mut settings = env::settings()?;
    // The progress lines tell what a person wants to know; RUST_LOG=info shows the rest.
    domain::telemetry::init_with(&settings, "warn,lapin=off");
    let stop = serve::stop_on_signal()?;

    let state = StateDir::locate(args.state_dir.clone())?;
    state.create()?;
    let mut lock = state.lock()?;
    let has_new_key = complete(&mut settings, &args, &state)?;
    let ready = listen(settings, has_new_key, &mut lock).await?;
    progress.say(format!(
        "Bifrost {}: {}, state in {}",
        env!("CARGO_PKG_VERSION"),
        ready.settings.environment.as_str(),
        state.path().display()
    ));
    if !env::is_set("ENVIRONMENT") {
        progress.say(format!(
            "ENVIRONMENT is not set: running as `{}`, since {}",
            ready.settings.environment.as_str(),
            if ready.settings.is_development() {
                "nobody else can reach this address"
            } else {
                "others may reach this address"
            },
        ));
    }

    let patience = Duration::from_secs(args.patience);
    configured::wait_for(&ready.settings, patience, progress, &stop).await?;
    if ready.settings.database_url.is_some() {
        return Box::pin(serve_until(ready, None, &state, &args, progress, stop)).await;
    }
    let mut postgres = Postgres::start(&state, progress).await?;
    progress.say(postgres.describe());
    let ended = Box::pin(serve_until(ready, Some(&mut postgres), &state, &args, progress, stop)).await;
    postgres.stop().await;
    progress.say("PostgreSQL stopped");
    drop(lock);
    ended
}

/// Migrates, serves and works until told to stop, or until the demo has ended when that was the wish.
async fn serve_until(
    ready: Ready,
    mut postgres: Option<&mut Postgres>,
    state: &StateDir,
    args: &Args,
    progress: Progress,
    stop: CancellationToken,
) -> Result<u8, Failure> {
    let Ready { listener, mut settings, url, has_new_key } = ready;
    let admin = match &postgres {
        Some(postgres) => {
            settings.database_url = Some(postgres.url());
            postgres.admin_url()
        }
        None => settings
            .admin_database_url
            .clone()
            .or_else(|| settings.database_url.clone())
            .expect("one of the two is there"),
    };
    let app = settings.database_url.clone().expect("set above, or given");
    let developer = demo::developer(&settings, &url);
    progress.say(migrate::migrate(&admin, &app).await?);
    say_parts(&settings, progress);

    let platform = Platform::open(settings)?;
    check_master_key(&platform, has_new_key, state, progress).await?;
    let serving = tokio::spawn(serve::both(listener, platform, stop.clone()));
    let foreground = async {
        if args.demo {
            let code = Box::pin(demo::run(&url, state, developer, progress)).await?;
            if args.once {
                return Ok(Some(code));
            }
        }
        say_addresses(&url, progress);
        stop.cancelled().await;
        Ok(None)
    };
    let database_ended = async {
        match postgres.as_deref_mut() {
            Some(postgres) => postgres.ended().await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = foreground => ended,
        failure = database_ended => Err(failure),
        // What failed inside cancels it, and the reason is in `serving`. A demo that is interrupted ends here too.
        () = stop.cancelled() => Ok(args.once.then_some(130)),
    };
    progress.say("Stopping: requests and runs that are under way may end");
    stop.cancel();
    let served = serving.await.map_err(|error| Failure::new(format!("the server broke: {error}")))?;
    let code = ended?;
    served?;
    Ok(code.unwrap_or(0))
}

/// Refuses to go on with a new master key where secrets were stored with another: they could not be read, and what is
/// stored from now on would need both.
async fn check_master_key(
    platform: &Platform,
    is_new: bool,
    state: &StateDir,
    progress: Progress,
) -> Result<(), Failure> {
    let unopened = data_keys::count_unopened(&platform.db, &platform.vault).await;
    let unopened = unopened.map_err(|error| Failure::new(chain(&error)))?;
    if unopened == 0 {
        return Ok(());
    }
    if is_new {
        let file = state.forget_secret(MASTER_KEY)?;
        return Err(Failure::new(
            "the secrets in this database were stored with a SECRETS_MASTER_KEY that is not here",
        )
        .next(format!(
            "put the key of then into {}, or set SECRETS_MASTER_KEY; to go on without those secrets set a new one there",
            file.display()
        ))
        .code(USAGE));
    }
    progress.say(data_keys::explain_unopened(unopened));
    Ok(())
}

/// Fills in what the settings leave open: folders, secrets, the environment. Says whether it made the master key.
fn complete(settings: &mut Settings, args: &Args, state: &StateDir) -> Result<bool, Failure> {
    for url in [
        &mut settings.database_url,
        &mut settings.rabbitmq_url,
        &mut settings.redis_url,
        &mut settings.admin_database_url,
    ] {
        url.take_if(|url| url.expose_secret().is_empty());
    }
    settings.listen = args.listen.unwrap_or(settings.listen);
    // Trying it out takes one command; what others may reach is production until somebody says otherwise.
    if !env::is_set("ENVIRONMENT") && settings.listen.ip().to_canonical().is_loopback() {
        settings.environment = Environment::Development;
        // Whoever asked for nothing gets an administrator with a password of their own instead.
        if !env::is_set("DEV_USER_EMAIL") && !env::is_set("DEV_AUTH_BYPASS") {
            settings.dev_user_email.clear();
        }
    }
    settings.workspace_path =
        folder("workspace", args.workspace.as_deref(), "WORKSPACE_PATH", &settings.workspace_path)?;
    settings.platform_path =
        folder("platform", args.platform.as_deref(), "PLATFORM_PATH", &settings.platform_path)?;
    if !env::is_set("TEMP_PATH") {
        settings.temp_path = state.temp();
        let made = std::fs::create_dir_all(&settings.temp_path);
        let mode = if env::is_root() { 0o711 } else { 0o700 };
        made.and_then(|()| state::set_mode(&settings.temp_path, mode)).map_err(|error| {
            Failure::new(format!("cannot make {}: {error}", settings.temp_path.display()))
        })?;
    }
    if !env::is_set("UPLOADS_PATH") {
        settings.uploads_path = state.uploads();
    }
    if settings.temp_path.as_os_str().len() > LONGEST_TEMP_PATH {
        return Err(Failure::new(format!(
            "{} is too long a path for the sockets of runs",
            settings.temp_path.display()
        ))
        .next("choose a shorter one: TEMP_PATH=/tmp/bifrost bifrost up")
        .code(USAGE));
    }
    let generated = |given: &mut Option<SecretString>, name: &str| {
        if given.as_ref().is_none_or(|value| value.expose_secret().is_empty()) {
            let is_new = state.known_secret(name)?.is_none();
            *given = Some(state.secret(name)?);
            return Ok::<bool, Failure>(is_new);
        }
        Ok(false)
    };
    generated(&mut settings.secret_key, "secret_key")?;
    let has_new_key = generated(&mut settings.secrets_master_key, MASTER_KEY)?;
    settings.check().map_err(|faults| Failure::new(faults).code(USAGE))?;
    Ok(has_new_key)
}

/// The folder that was named on the command line, in the settings, or lies here.
fn folder(name: &str, given: Option<&Path>, variable: &str, default: &Path) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path,
        None if env::is_set(variable) || !Path::new(name).is_dir() => default,
        None => Path::new(name),
    };
    env::existing_directory(name, path)
        .map_err(|failure| failure.next(format!("bifrost up --{name} DIR, or run it where ./{name} is")))
}

async fn listen(mut settings: Settings, has_new_key: bool, lock: &mut Lock) -> Result<Ready, Failure> {
    let listener = serve::bind(settings.listen).await?;
    settings.listen = listener.local_addr().map_err(|error| Failure::new(error.to_string()))?;
    let mut reached_at = settings.listen;
    if reached_at.ip().is_unspecified() {
        reached_at.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let url = format!("http://{reached_at}");
    if !env::is_set("PUBLIC_URL") {
        let is_ours = settings.listen.ip().is_loopback() || settings.listen.ip().is_unspecified();
        settings.public_url =
            if is_ours { format!("http://localhost:{}", settings.listen.port()) } else { url.clone() };
    }
    lock.announce(&url).map_err(|error| Failure::new(format!("cannot write the lock file: {error}")))?;
    Ok(Ready { listener, settings, url, has_new_key })
}

fn say_parts(settings: &Settings, progress: Progress) {
    progress.say(match settings.rabbitmq_url {
        Some(_) => "Wake-ups through RabbitMQ",
        None => "Wake-ups within this process (RABBITMQ_URL is not set)",
    });
    progress.say(match settings.redis_url {
        Some(_) => "Live events and counters in Redis",
        None => "Live events and counters within this process (REDIS_URL is not set)",
    });
    if let Some(address) = settings.metrics_address().filter(|address| address.port() != 0) {
        progress.say(format!("Metrics on http://{address}/metrics"));
    }
    progress.say(format!("Workspace {}", settings.workspace_path.display()));
}

fn say_addresses(url: &str, progress: Progress) {
    progress.say("Ready; Ctrl-C stops it");
    output::say(&format!("\n  API   {url}\n  Docs  {url}/docs\n"));
}
