//! `bifrost backup create`: the database at one instant, then the files that its rows speak of.
//!
//! In this order, because a file is there before the row that names it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::Utc;
use domain::schema;
use domain::settings::Settings;
use secrecy::SecretString;

use super::manifest::{self, Manifest, Piece};
use super::tools::Tools;
use super::{State, folders, until_stopped};
use crate::env;
use crate::failure::{Failure, USAGE, chain};
use crate::output::{self, Progress, size};
use crate::serve::stop_on_signal;
use crate::up::state::StateDir;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder to make: ./bifrost-backup-TIME by default.
    #[arg(value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// The workflow files: WORKSPACE_PATH, or ./workspace beside a running `bifrost up`.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Print one JSON document at the end instead of progress.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

pub(super) async fn run(args: Args) -> Result<u8, Failure> {
    let progress = Progress::start();
    let settings = env::settings()?;
    let state = args.state.locate()?;
    let url = super::superuser(&settings, &state)?;
    let tools = Tools::find(&state).await?;
    let found = schema::inspect(&url).await.map_err(|error| {
        Failure::new(chain(&error)).next("start PostgreSQL, or correct ADMIN_DATABASE_URL").code(USAGE)
    })?;
    let Some((schema, _)) = found.applied.last() else {
        return Err(Failure::new("this database is not Bifrost's: it has no migrations").code(USAGE));
    };

    let created_at = Utc::now();
    let target =
        args.to.unwrap_or_else(|| format!("bifrost-backup-{}", created_at.format("%Y%m%dT%H%M%SZ")).into());
    let stop = stop_on_signal()?;
    let unfinished = begin(&target)?;
    let say = |text: String| {
        if !args.json {
            progress.say(text);
        }
    };
    let mut pieces = Vec::new();
    let written = until_stopped(&stop, async {
        // What is missing is said before the dump, which may take long.
        let folders = files(&settings, &state, args.workspace, &url).await?;
        tools.dump(&url, &unfinished.join(manifest::DATABASE)).await?;
        pieces.push(measured(&unfinished, manifest::DATABASE).await?);
        say(format!("{}: {}", manifest::DATABASE, size(pieces[0].bytes)));
        for (name, folder) in folders {
            let archive = unfinished.join(name);
            let source = folder.clone();
            let pack = if name == manifest::WORKSPACE { folders::pack_workspace } else { folders::pack };
            on_thread(move || pack(&source, &archive))
                .await
                .map_err(|error| Failure::new(format!("{} was not written: {error}", folder.display())))?;
            let piece = measured(&unfinished, name).await?;
            say(format!("{name}: {} of {}", size(piece.bytes), folder.display()));
            pieces.push(piece);
        }
        Ok(())
    })
    .await;
    if let Err(failure) = written {
        let _ = std::fs::remove_dir_all(&unfinished);
        return Err(failure);
    }
    let manifest = Manifest::new(*schema, found.version, created_at, pieces);
    finish(&manifest, &unfinished, &target)?;
    if args.json {
        let document = serde_json::json!({ "backup": target, "manifest": manifest });
        output::say(&document.to_string());
    } else {
        progress.say(format!("Backup in {}", target.display()));
        output::say("Keep SECRETS_MASTER_KEY apart from it: without the key no stored secret can be read.");
        let state = args.state.as_argument();
        output::say(&format!("next:  bifrost backup verify {state}--restore {}", target.display()));
    }
    Ok(0)
}

/// The folder under the name that it has until it is whole. Only its owner may enter: it holds everybody's data.
fn begin(target: &Path) -> Result<PathBuf, Failure> {
    if target.exists() {
        return Err(Failure::new(format!("{} is there already", target.display()))
            .next("name a folder that is not there yet")
            .code(USAGE));
    }
    let mut name = target.as_os_str().to_owned();
    name.push(".unfinished");
    let unfinished = PathBuf::from(name);
    let _ = std::fs::remove_dir_all(&unfinished); // of one that was interrupted
    DirBuilder::new().recursive(true).mode(0o700).create(&unfinished).map_err(|error| {
        Failure::new(format!("cannot make {}: {error}", unfinished.display())).code(USAGE)
    })?;
    Ok(unfinished)
}

fn finish(manifest: &Manifest, unfinished: &Path, target: &Path) -> Result<(), Failure> {
    manifest
        .write(unfinished)
        .and_then(|()| std::fs::File::open(unfinished)?.sync_all())
        .and_then(|()| std::fs::rename(unfinished, target))
        .map_err(|error| Failure::new(format!("cannot finish {}: {error}", target.display())))
}

/// The folders that belong to it. Uploads in a bucket are the bucket's to keep, and where nothing was ever uploaded there
/// need be no folder.
async fn files(
    settings: &Settings,
    state: &StateDir,
    workspace: Option<PathBuf>,
    url: &SecretString,
) -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let workspace = super::workspace(settings, workspace);
    let mut files = vec![(manifest::WORKSPACE, env::existing_directory("workspace", &workspace)?)];
    if settings.s3_bucket.is_none() {
        let uploads = super::uploads(settings, state);
        match std::fs::read_dir(&uploads) {
            Ok(_) => files.push((manifest::UPLOADS, uploads)),
            Err(_) if !schema::has_uploads(url).await? => {}
            Err(error) => {
                let lost = format!("the uploads are not in {}: {error}", uploads.display());
                let advice = "name their folder in UPLOADS_PATH, as a user that may read it, or their bucket in S3_BUCKET; \
                     where they are lost, make an empty folder";
                return Err(Failure::new(lost).next(advice).code(USAGE));
            }
        }
    }
    Ok(files)
}

async fn measured(backup: &Path, name: &'static str) -> Result<Piece, Failure> {
    let backup = backup.to_owned();
    on_thread(move || Piece::of(&backup, name))
        .await
        .map_err(|error| Failure::new(format!("{name} cannot be read back: {error}")))
}

/// Reads and writes files where it keeps nobody waiting.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
