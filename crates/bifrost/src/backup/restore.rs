//! `bifrost backup restore`: brings everything back, where nothing is.
//!
//! Everything that can be refused is refused before anything is written.

use std::path::{Path, PathBuf};

use domain::schema;
use domain::settings::Settings;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::create::on_thread;
use super::manifest::{self, Manifest};
use super::tools::{self, Tools};
use super::{INTERRUPTED, State, folders, until_stopped};
use crate::failure::{Failure, USAGE, chain};
use crate::output::{self, Progress};
use crate::serve::stop_on_signal;
use crate::up::postgres::Postgres;
use crate::up::state::StateDir;
use crate::{env, migrate};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that `bifrost backup create` made.
    #[arg(value_name = "FOLDER")]
    backup: PathBuf,
    /// Where the workflow files go: WORKSPACE_PATH, or ./workspace for `bifrost up`. Missing or empty.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Leave the workspace and the uploads alone.
    #[arg(long)]
    database_only: bool,
    #[command(flatten)]
    state: State,
}

pub(super) async fn run(args: Args) -> Result<u8, Failure> {
    let progress = Progress::start();
    let settings = env::settings()?;
    let state = args.state.locate()?;
    let manifest = whole(&args.backup).await?;
    let tools = Tools::find(&state).await?;
    let files = if args.database_only {
        Vec::new()
    } else {
        free_folders(&manifest, &args.backup, &settings, &state, args.workspace)?
    };

    let stop = stop_on_signal()?;
    if let Some(admin) = super::configured(&settings) {
        let app = settings.database_url.clone().unwrap_or_else(|| admin.clone());
        into_server(&tools, &args.backup, &admin, &app, progress, &stop).await?;
    } else {
        // `bifrost up` is not running on this state, and nobody can start it meanwhile.
        state.create()?;
        let _lock = state.lock()?;
        let postgres = Postgres::start(&state, progress).await?;
        let restored =
            into_server(&tools, &args.backup, &postgres.admin_url(), &postgres.url(), progress, &stop).await;
        postgres.stop().await;
        restored?;
    }
    for (archive, folder) in files {
        let target = folder.clone();
        let unpacked = stop.run_until_cancelled(on_thread(move || folders::unpack(&archive, &target))).await;
        unpacked
            .ok_or_else(|| {
                let folder = folder.display();
                Failure::new(format!("stopped by a signal: the database is restored, and {folder} is not"))
                    .next("restore again, into an empty database and empty folders")
                    .code(INTERRUPTED)
            })?
            .map_err(|error| Failure::new(format!("{} was not restored: {error}", folder.display())))?;
        progress.say(format!("{} restored", folder.display()));
    }
    progress.say(format!("Restored as it was at {}", manifest.created_at.to_rfc3339()));
    output::say(
        "Runs that were under way then are run again or end with a reason, as those of a lost worker.",
    );
    output::say(&match super::configured(&settings) {
        Some(_) => {
            "next:  start Bifrost with the SECRETS_MASTER_KEY of then; `bifrost doctor` looks at every part"
                .to_owned()
        }
        None => format!(
            "next:  put the secrets_master_key of then into {}, and run `bifrost up`",
            state.secrets().display()
        ),
    });
    Ok(0)
}

/// The manifest of a backup whose pieces are as they were written, by a Bifrost that is not newer than this one.
async fn whole(backup: &Path) -> Result<Manifest, Failure> {
    let manifest = Manifest::read(backup)?;
    if manifest.schema > schema::newest_version() {
        return Err(Failure::new(format!(
            "this backup was made by Bifrost {}, whose schema is newer than this one knows; nothing was changed",
            manifest.bifrost
        ))
        .next("restore it with that Bifrost, or a newer one")
        .code(USAGE));
    }
    let backup = backup.to_owned();
    let checked = on_thread(move || {
        let faults: Vec<String> = manifest
            .check(&backup)
            .into_iter()
            .filter_map(|(piece, fault)| Some(format!("- {}: {}", piece.name, fault?)))
            .collect();
        Ok((manifest, faults))
    });
    let (manifest, faults) =
        checked.await.map_err(|error| Failure::new(format!("the backup cannot be read: {error}")))?;
    if faults.is_empty() {
        Ok(manifest)
    } else {
        Err(Failure::new(format!("the backup is damaged, and nothing was changed\n{}", faults.join("\n")))
            .next("take another one"))
    }
}

/// Which archive goes where; each place is free.
fn free_folders(
    manifest: &Manifest,
    backup: &Path,
    settings: &Settings,
    state: &StateDir,
    workspace: Option<PathBuf>,
) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let wanted = [
        (manifest::WORKSPACE, super::workspace(settings, workspace)),
        (manifest::UPLOADS, super::uploads(settings, state)),
    ];
    let mut files = Vec::new();
    for (name, folder) in wanted {
        let Some(archive) = manifest.file(backup, name) else { continue };
        let is_free = folders::is_free(&folder)
            .map_err(|error| Failure::new(format!("{}: {error}", folder.display())).code(USAGE))?;
        if !is_free {
            return Err(Failure::new(format!("{} is not empty, and nothing was changed", folder.display()))
                .next("move it aside, or restore the database alone: --database-only")
                .code(USAGE));
        }
        files.push((archive, folder));
    }
    Ok(files)
}

async fn into_server(
    tools: &Tools,
    backup: &Path,
    admin: &SecretString,
    app: &SecretString,
    progress: Progress,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let failed = |error: domain::Error| {
        Failure::new(chain(&error)).next("make the database, or correct ADMIN_DATABASE_URL").code(USAGE)
    };
    if !schema::is_empty(admin).await.map_err(failed)? {
        return Err(Failure::new("the database holds tables already, and nothing was changed")
            .next("make an empty one (CREATE DATABASE …) and name it in DATABASE_URL and ADMIN_DATABASE_URL")
            .code(USAGE));
    }
    database(tools, backup, admin, admin, app, stop).await?;
    // No signal stops the migrations: whatever state they leave it in, a database that is restored is not empty again.
    progress.say("Database restored");
    progress.say(migrate::migrate(admin, app).await?);
    Ok(())
}

/// Restores the archive of the database into `target`, an empty database of `server`: wholly, or not at all when `stop`
/// comes before its end.
///
/// The archive gives rights to roles, which belong to the server and not to a database, so a server that never had a
/// Bifrost lacks them. Migrations make them: a scratch database is migrated and removed.
pub(super) async fn database(
    tools: &Tools,
    backup: &Path,
    server: &SecretString,
    target: &SecretString,
    app: &SecretString,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let failed = |error: domain::Error| Failure::new(chain(&error));
    if !schema::inspect(target).await.map_err(failed)?.missing_roles.is_empty() {
        let name = format!("bifrost_roles_{}", uuid::Uuid::now_v7().simple());
        schema::ensure_database(server, &name).await.map_err(failed)?;
        let scratch = tools::database(server, &name)?;
        let migrated = until_stopped(stop, migrate::migrate(&scratch, app)).await;
        schema::drop_database(server, &name).await.map_err(failed)?;
        migrated?;
    }
    until_stopped(stop, tools.restore(&backup.join(manifest::DATABASE), target)).await
}
