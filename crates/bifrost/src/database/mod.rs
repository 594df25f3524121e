//! Commands that work on the database itself, for its operator: with its address, not with a session.

pub(crate) mod audit;
pub(crate) mod secrets;

use std::path::PathBuf;

use domain::settings::Settings;
use domain::vault::Vault;
use domain::{Db, data_keys};
use secrecy::SecretString;

use crate::failure::{Failure, USAGE, chain};
use crate::up::postgres;
use crate::up::state::StateDir;

/// One connection each is enough for a command.
const CONNECTIONS: u32 = 1;

/// Opens the database that `DATABASE_URL` names, else that of a running `bifrost up`.
async fn open(settings: &Settings, state_dir: Option<PathBuf>) -> Result<(Db, StateDir), Failure> {
    let state = StateDir::locate(state_dir)?;
    let url = match &settings.database_url {
        Some(url) => url.clone(),
        None => {
            let running = state.running().and_then(|_| postgres::known_url(&state));
            running.ok_or_else(|| {
                Failure::new("DATABASE_URL is not set, and no `bifrost up` is running")
                    .next("set DATABASE_URL, or start `bifrost up`; --state-dir says where its state is")
                    .code(USAGE)
            })?
        }
    };
    let db = Db::open(&url, CONNECTIONS).map_err(|error| failed(&error))?;
    db.ping().await.map_err(|error| failed(&error))?;
    Ok((db, state))
}

/// How many data keys of the database at `url` this master key does not open.
pub(crate) async fn count_unopened(url: &SecretString, master: &SecretString) -> domain::Result<usize> {
    let db = Db::open(url, CONNECTIONS)?;
    let counted = data_keys::count_unopened(&db, &Vault::new(master)).await;
    db.close().await;
    counted
}

fn failed(error: &domain::Error) -> Failure {
    let failure = Failure::new(chain(error));
    if error.is_unavailable() {
        failure.next("start PostgreSQL, or correct DATABASE_URL; `bifrost doctor` looks at every part")
    } else {
        failure
    }
}
