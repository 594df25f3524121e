//! `bifrost backup verify`: whether a backup is what was written, and whether it would bring everything back.

use std::path::PathBuf;

use domain::audit::verify;
use domain::{Db, schema};
use secrecy::SecretString;
use serde_json::json;

use super::create::on_thread;
use super::manifest::{self, Manifest, Piece};
use super::tools::{self, Tools};
use super::{State, trees, until_stopped};
use crate::failure::{Failure, chain};
use crate::output::{self, size};
use crate::serve::stop_on_signal;
use crate::{env, migrate};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that `bifrost backup create` made.
    #[arg(value_name = "FOLDER")]
    backup: PathBuf,
    /// Also restore the database under another name on the server of ADMIN_DATABASE_URL, bring its schema up to date,
    /// compute the audit log anew, and remove it again.
    #[arg(long)]
    restore: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

pub(super) async fn run(args: Args) -> Result<u8, Failure> {
    let state = args.state.locate()?;
    let manifest = Manifest::read(&args.backup)?;
    let tools = Tools::find(&state).await?;
    let (faults, manifest) = {
        let backup = args.backup.clone();
        let checked = on_thread(move || {
            let look_inside = |piece: &Piece| {
                (piece.name == manifest::WORKSPACE).then(|| trees::fault(&backup.join(&piece.name))).flatten()
            };
            let faults: Vec<Option<String>> = manifest
                .check(&backup)
                .into_iter()
                .map(|(piece, fault)| fault.or_else(|| look_inside(piece)))
                .collect();
            Ok((faults, manifest))
        });
        checked.await.map_err(|error| Failure::new(format!("the backup cannot be read: {error}")))?
    };
    let damaged = faults.iter().flatten().count();
    let tried = if damaged > 0 {
        None
    } else if args.restore {
        let url = super::superuser(&env::settings()?, &state)?;
        Some(try_out(&tools, &args, &url).await?)
    } else {
        tools.list(&args.backup.join(manifest::DATABASE)).await?;
        None
    };
    if args.json {
        let pieces: Vec<_> = manifest
            .pieces
            .iter()
            .zip(&faults)
            .map(|(piece, fault)| json!({ "name": piece.name, "bytes": piece.bytes, "fault": fault }))
            .collect();
        let document = json!({
            "bifrost": manifest.bifrost, "schema": manifest.schema, "created_at": manifest.created_at,
            "pieces": pieces, "damaged": damaged, "restored": tried,
        });
        output::say(&document.to_string());
    } else {
        let state = |fault: &Option<String>| fault.clone().unwrap_or_else(|| "whole".to_owned());
        let rows: Vec<Vec<String>> = manifest
            .pieces
            .iter()
            .zip(&faults)
            .map(|(piece, fault)| vec![piece.name.clone(), size(piece.bytes), state(fault)])
            .collect();
        output::say(&output::table(&["piece", "size", "state"], &rows));
        output::say(&match (damaged, &tried) {
            (0, None) => "\nThe backup is whole; --restore also tries it out.".to_owned(),
            (0, Some(tried)) => format!("\nThe backup is whole, and was restored: {}.", tried.describe()),
            (1, _) => "\n1 piece is damaged: do not restore it.".to_owned(),
            (many, _) => format!("\n{many} pieces are damaged: do not restore them."),
        });
    }
    Ok(u8::from(damaged > 0))
}

/// What a backup brought back when it was tried out.
#[derive(serde::Serialize)]
struct Tried {
    executions: i64,
    organizations: i64,
    audit_rows: i64,
}

impl Tried {
    fn describe(&self) -> String {
        let Self { executions, organizations, audit_rows } = self;
        format!(
            "{executions} executions, {organizations} organizations, {audit_rows} rows of the audit log, \
             whose hashes hold"
        )
    }
}

/// Restores the database beside the others of the server, looks at it, and removes it.
async fn try_out(tools: &Tools, args: &Args, server: &SecretString) -> Result<Tried, Failure> {
    let name = format!("bifrost_verify_{}", uuid::Uuid::now_v7().simple());
    let scratch = tools::database(server, &name)?;
    let stop = stop_on_signal()?;
    schema::ensure_database(server, &name).await.map_err(|error| Failure::new(chain(&error)))?;
    let looked = async {
        super::restore::database(tools, &args.backup, server, &scratch, &scratch, &stop).await?;
        until_stopped(&stop, async {
            migrate::migrate(&scratch, &scratch).await?;
            look(&scratch).await
        })
        .await
    }
    .await;
    let dropped = schema::drop_database(server, &name).await;
    let tried = looked?;
    dropped.map_err(|error| {
        Failure::new(format!(
            "the database {name} that it was tried out in is still there: {}",
            chain(&error)
        ))
    })?;
    Ok(tried)
}

async fn look(url: &SecretString) -> Result<Tried, Failure> {
    let failed = |error: domain::Error| Failure::new(chain(&error));
    let db = Db::open(url, 1).map_err(failed)?;
    let chains = verify::verify(&db, None, |_| ()).await;
    db.close().await;
    let chains = chains.map_err(failed)?;
    if let Some(broken) = chains.iter().find_map(|chain| chain.fault.as_ref()) {
        return Err(Failure::new(format!(
            "the audit log in it is not what was written: row {}: {}",
            broken.sequence, broken.what
        )));
    }
    let counts = schema::counts(url).await.map_err(failed)?;
    Ok(Tried {
        executions: counts.executions,
        organizations: counts.organizations,
        audit_rows: chains.iter().map(|chain| chain.verified).sum(),
    })
}
