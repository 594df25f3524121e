//! Package builds: the handler of the jobs on `packages.install`.
//!
//! What an environment consists of is worked out by `tool`, its files are made by `environments`. The invariant: until
//! `packages::switch` has committed nothing is different for anybody, and from then on it is done: who comes later, after
//! whatever was killed, only writes the file that belongs to it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use domain::Error;
use domain::background_jobs::Outcome;
use domain::events::Event;
use domain::packages::requirements::Requirements;
use domain::packages::{self, Build, Change, Environment, FILE, Package};
use domain::python::Interpreter;
use domain::workspace_files::{self, FilePath};
use serde_json::json;

use crate::background::{Running, Work};

pub(crate) mod environments;
mod lock;
pub(crate) mod tool;

use environments::Environments;
use tool::{Fault, Tool};

/// Longest `requirements.txt` that is read.
const MAX_FILE: u64 = 256 * 1024;

/// Why a build ends without a switch.
#[derive(Debug)]
enum Stop {
    /// Told to who asked.
    Refused(String),
    /// A fault of ours.
    Broken(anyhow::Error),
}

/// Carries out one change of the packages.
pub(crate) fn carry_out(running: Arc<Running>) -> Work {
    Box::pin(async move {
        match change_packages(&running).await {
            Ok(outcome) => Ok(outcome),
            Err(Stop::Refused(message)) => Ok(Outcome::failure(message)),
            Err(Stop::Broken(error)) => Err(error),
        }
    })
}

async fn change_packages(running: &Running) -> Result<Outcome, Stop> {
    let (platform, job) = (&running.platform, &running.job);
    let change: Change = serde_json::from_value(job.payload.clone()).context("the payload of the job")?;
    let current = packages::current(&platform.db).await?;
    if current.file_is_due {
        write_file(running, &current).await?;
    }
    if current.job_id == Some(job.id) {
        // An attempt before this one got as far as that.
        platform.events.publish(Event::PackagesSwitched);
        return Ok(done(&change, &current.packages, &current.packages));
    }
    let written = read_file(&platform.settings.workspace_path).await?;
    let build = match &change {
        Change::RollBack => match packages::before(&platform.db, current.version).await? {
            Some(Environment { lock, packages, requirements, .. }) => Build { lock, packages, requirements },
            None => return Err(Stop::Refused("There is no environment to go back to.".into())),
        },
        Change::Install { .. } | Change::Uninstall { .. } => {
            // A file that somebody removed asks for nothing else than before.
            let text = written.clone().unwrap_or_else(|| current.requirements.clone());
            build(running, &change, &current, &text).await?
        }
    };
    if build.id() == current.id && written.as_ref() == Some(&build.requirements) {
        return Ok(Outcome::success("Nothing had to be changed.", json!({"packages": build.packages.len()})));
    }
    let interpreter = Interpreter::choose(&platform.settings);
    let environments = Environments::of(&platform.settings);
    let _held = match build.id() {
        Some(id) => {
            running.log("info", format!("Installing {} packages", build.packages.len()));
            let tell = |line: String| running.log("info", line);
            Some(environments.build(&interpreter, &id, &build.lock, &tell).await?)
        }
        None => None,
    };
    let unchanged = async || {
        let now = read_file(&platform.settings.workspace_path).await?;
        if now == written {
            return Ok(());
        }
        Err(Stop::Refused(format!("{FILE} was changed meanwhile; nothing was installed. Try again.")))
    };
    let Some(version) = packages::switch(&platform.db, job, &build, unchanged).await? else {
        return Err(anyhow::anyhow!("another attempt has the job").into());
    };
    let outcome = done(&change, &current.packages, &build.packages);
    platform.events.publish(Event::PackagesSwitched);
    let switched = Environment { version, requirements: build.requirements, ..Environment::default() };
    write_file(running, &switched).await?;
    Ok(outcome)
}

/// Works out what the environment consists of after the change.
async fn build(running: &Running, change: &Change, current: &Environment, text: &str) -> Result<Build, Stop> {
    let settings = &running.platform.settings;
    let mut wanted = Requirements::parse(text).map_err(Stop::Refused)?;
    let newest = match change {
        Change::Install { name, version } => {
            wanted.install(name, version.as_ref());
            Some(name)
        }
        Change::Uninstall { name } if !wanted.uninstall(name) => {
            return Err(Stop::Refused(format!(
                "{name} is not in {FILE}: other packages need it, or it is not installed."
            )));
        }
        Change::Uninstall { .. } | Change::RollBack => None,
    };
    if wanted.is_empty() {
        return Ok(Build { lock: String::new(), packages: Vec::new(), requirements: wanted.to_string() });
    }
    running.log("info", "Looking for versions that fit together");
    let interpreter = Interpreter::choose(settings);
    let tool = Tool::find(settings, &interpreter).await?;
    let folder = Environments::of(settings).work_folder().context("a folder to work in")?;
    let tell = |line: String| running.log("info", line);
    let resolved = tool.resolve(folder.path(), &wanted.for_installer(), &current.lock, newest, &tell).await?;
    if let Some(name) = newest {
        wanted.pin(name, &resolved.packages);
    }
    Ok(Build { lock: resolved.lock, packages: resolved.packages, requirements: wanted.to_string() })
}

fn done(change: &Change, before: &[Package], after: &[Package]) -> Outcome {
    let version =
        |name: &str| after.iter().find(|package| package.name == name).map(|package| &package.version);
    let message = match change {
        Change::Install { name, .. } => match version(name.as_str()) {
            Some(version) => format!("Installed {name} {version}."),
            None => format!("Installed {name}."),
        },
        Change::Uninstall { name } => match version(name.as_str()) {
            Some(_) => format!("{name} is not asked for any more; it stays because other packages need it."),
            None => format!("Removed {name}."),
        },
        Change::RollBack => "Went back to the packages before.".to_owned(),
    };
    let only_in = |these: &[Package], those: &[Package]| -> Vec<Package> {
        these.iter().filter(|package| !those.contains(package)).cloned().collect()
    };
    Outcome::success(
        message,
        json!({"packages": after.len(), "added": only_in(after, before), "removed": only_in(before, after)}),
    )
}

fn file_path() -> Result<FilePath, Error> {
    FilePath::parse(FILE)
}

/// The content of `requirements.txt`, if it is there.
async fn read_file(workspace: &Path) -> Result<Option<String>, Stop> {
    let path = file_path()?;
    let read = workspace_files::on_disk(workspace, move |files| files.read(&path, MAX_FILE)).await;
    match read {
        Ok(content) => match String::from_utf8(content.bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Stop::Refused(format!("{FILE} is not UTF-8 text"))),
        },
        Err(Error::NotFound(_)) => Ok(None),
        Err(Error::Impossible(why)) => Err(Stop::Refused(why)),
        Err(error) => Err(error.into()),
    }
}

/// Writes the `requirements.txt` that belongs to an environment.
async fn write_file(running: &Running, environment: &Environment) -> Result<(), Stop> {
    let (path, text) = (file_path()?, environment.requirements.clone());
    let workspace = &running.platform.settings.workspace_path;
    workspace_files::on_disk(workspace, move |files| files.write(&path, text.as_bytes())).await?;
    packages::file_written(&running.platform.db, environment.version).await?;
    Ok(())
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(message) => Self::Refused(message),
            Fault::Broken(error) => Self::Broken(error),
        }
    }
}
