//! `bifrost secrets rotate`: wraps the data keys of all organizations with the current master key.

use std::path::PathBuf;

use domain::data_keys;
use domain::vault::Vault;
use serde_json::json;

use crate::failure::{Failure, USAGE};
use crate::{env, output};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Wrap every data key with the first key of SECRETS_MASTER_KEY. Safe to interrupt and to run again, while
    /// everything goes on; after it the other keys may be removed from the setting.
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Where `bifrost up` keeps its state.
    #[arg(long, env = "BIFROST_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<u8, Failure> {
    let Command::Rotate(args) = command;
    let settings = env::settings()?;
    let (db, state) = super::open(&settings, args.state_dir).await?;
    let master = match settings.secrets_master_key {
        Some(master) => Some(master),
        None => state.known_secret("secrets_master_key")?,
    };
    let master = master.ok_or_else(|| {
        Failure::new("SECRETS_MASTER_KEY is not set")
            .next("set it as NEW_ID:NEW_KEY,OLD_ID:OLD_KEY; the first wraps, all unwrap")
            .code(USAGE)
    })?;
    let vault = Vault::new(&master);
    let rotated = data_keys::rotate(&db, &vault, |done| {
        if !args.json {
            output::note(&format!("{done} data keys wrapped …"));
        }
    })
    .await;
    db.close().await;
    let wrapped = rotated.map_err(|error| {
        super::failed(&error)
            .next("keep every master key that is in use in SECRETS_MASTER_KEY, and run it again")
    })?;
    if args.json {
        output::say(&json!({ "master_key": vault.current_master(), "wrapped": wrapped }).to_string());
    } else {
        output::say(&match wrapped {
            0 => format!("Every data key is wrapped with master key `{}` already.", vault.current_master()),
            1 => format!("1 data key is wrapped with master key `{}` now.", vault.current_master()),
            many => format!("{many} data keys are wrapped with master key `{}` now.", vault.current_master()),
        });
    }
    Ok(0)
}
