//! `bifrost backup`: a folder that holds all of an installation but its keys, and the way back from it.
//!
//! One file per command; what a backup consists of is in `manifest.rs`. The invariant: a folder without
//! `manifest.json` is no backup, and nothing is restored over something that is there.

use std::path::PathBuf;

use domain::settings::Settings;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::env;
use crate::failure::{Failure, USAGE};
use crate::up::postgres;
use crate::up::state::StateDir;

mod create;
mod folders;
mod manifest;
mod restore;
mod tools;
mod trees;
mod verify;

/// What a shell makes of SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Write the database, the workspace and the uploads into a new folder, while everything goes on.
    Create(create::Args),
    /// Check that a backup is whole; with --restore also that it can be restored.
    Verify(verify::Args),
    /// Bring a backup back, into an empty database and empty folders.
    Restore(restore::Args),
}

pub(crate) async fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Create(args) => create::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Restore(args) => restore::run(args).await,
    }
}

/// Says where the state of `bifrost up` is.
#[derive(clap::Args)]
struct State {
    /// Where `bifrost up` keeps its state.
    #[arg(long, env = "BIFROST_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

impl State {
    fn locate(&self) -> Result<StateDir, Failure> {
        StateDir::locate(self.state_dir.clone())
    }

    /// The same for another command, before what else it is told.
    fn as_argument(&self) -> String {
        self.state_dir
            .as_ref()
            .map_or_else(String::new, |folder| format!("--state-dir {} ", folder.display()))
    }
}

/// PostgreSQL as a login that row-level security does not bind, which whoever copies everything must be: the configured
/// one, else that of a running `bifrost up`.
fn superuser(settings: &Settings, state: &StateDir) -> Result<SecretString, Failure> {
    if let Some(url) = configured(settings) {
        return Ok(url);
    }
    state.running().and_then(|_| postgres::known_admin_url(state)).ok_or_else(|| {
        Failure::new("ADMIN_DATABASE_URL is not set, and no `bifrost up` is running")
            .next("set it to the superuser's address, or start `bifrost up`; --state-dir says where its state is")
            .code(USAGE)
    })
}

/// Where the workflow files are: as said, as set, or beside `bifrost up`.
fn workspace(settings: &Settings, said: Option<PathBuf>) -> PathBuf {
    let is_up = configured(settings).is_none() && !env::is_set("WORKSPACE_PATH");
    said.unwrap_or_else(|| if is_up { "workspace".into() } else { settings.workspace_path.clone() })
}

/// Where uploads are: as set, or where `bifrost up` has them, which may have a PostgreSQL of somebody else's. One that was tried out
/// once leaves a folder, too; so where there are two, and none runs, it is the usual one.
pub(crate) fn uploads(settings: &Settings, state: &StateDir) -> PathBuf {
    let (of_up, usual) = (state.uploads(), settings.uploads_path.clone());
    if env::is_set("UPLOADS_PATH") {
        return usual;
    }
    let is_up =
        configured(settings).is_none() || state.running().is_some() || (of_up.is_dir() && !usual.is_dir());
    if is_up { of_up } else { usual }
}

/// Works until it is told to stop. What is begun then is for the caller to remove, for which a signal alone leaves no time.
async fn until_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stopped = || Err(Failure::new("stopped by a signal").code(INTERRUPTED));
    stop.run_until_cancelled(work).await.unwrap_or_else(stopped)
}

fn configured(settings: &Settings) -> Option<SecretString> {
    settings.admin_database_url.clone().or_else(|| settings.database_url.clone())
}
