//! `bifrost audit verify`: proves that the audit log is what was written.

use std::path::PathBuf;

use domain::audit::verify::{self, Chain};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::{Failure, USAGE};
use crate::{env, output};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Compute every hash of the audit log anew; exits 1 when a row was changed, added or removed.
    Verify(Verify),
}

#[derive(clap::Args)]
pub(crate) struct Verify {
    /// Only the chain of this organization.
    #[arg(long, value_name = "UUID")]
    org: Option<Uuid>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Where `bifrost up` keeps its state.
    #[arg(long, env = "BIFROST_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<u8, Failure> {
    let Command::Verify(args) = command;
    let (db, _) = super::open(&env::settings()?, args.state_dir).await?;
    let progress = |rows| {
        if !args.json {
            output::note(&format!("{rows} rows verified …"));
        }
    };
    let chains = verify::verify(&db, args.org.map(Into::into), progress).await;
    db.close().await;
    let chains = chains.map_err(|error| super::failed(&error))?;
    if let Some(org) = args.org.filter(|_| chains.is_empty()) {
        return Err(Failure::new(format!("there is no audit chain of the organization {org}"))
            .next("without --org every chain is verified, and listed with its organization")
            .code(USAGE));
    }
    let broken = chains.iter().filter(|chain| chain.fault.is_some()).count();
    if args.json {
        let document = json!({
            "chains": chains.iter().map(shown).collect::<Vec<_>>(),
            "verified": chains.iter().map(|chain| chain.verified).sum::<i64>(),
            "broken": broken,
        });
        output::say(&format!("{document:#}"));
    } else {
        let rows: Vec<Vec<String>> = chains.iter().map(row).collect();
        output::say(&output::table(&["organization", "rows", "head", "state"], &rows));
        output::say(&match broken {
            0 => {
                "\nThe audit log is what was written. Keep the heads elsewhere to prove it later.".to_owned()
            }
            1 => "\n1 chain is not what was written.".to_owned(),
            many => format!("\n{many} chains are not what was written."),
        });
    }
    Ok(u8::from(broken > 0))
}

fn shown(chain: &Chain) -> Value {
    json!({
        "organization_id": chain.organization_id,
        "verified": chain.verified,
        "head": chain.head,
        "fault": chain.fault.as_ref().map(|fault| json!({
            "sequence": fault.sequence, "id": fault.id, "what": fault.what,
        })),
    })
}

fn row(chain: &Chain) -> Vec<String> {
    let organization = chain.organization_id.map_or_else(|| "(none)".to_owned(), |org| org.to_string());
    let state = match &chain.fault {
        None => "intact".to_owned(),
        Some(fault) => {
            let id = fault.id.map(|id| format!(" ({id})")).unwrap_or_default();
            format!("row {}{id}: {}", fault.sequence, fault.what)
        }
    };
    vec![organization, chain.verified.to_string(), chain.head.chars().take(16).collect(), state]
}
