//! The Python interpreter: which one it is, and how it is started to read files without executing them.
//!
//! One way for all processes, so that what checks a file is what will run it. The invariant: what is started here inherits
//! nothing of our environment.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::settings::Settings;
use crate::{Error, Result};

/// The interpreter of runs, and who they are.
#[derive(Debug, Clone)]
pub struct Interpreter {
    /// Where it is.
    pub path: PathBuf,
    /// Whether runs are another user than we are.
    pub as_another: bool,
}

impl Interpreter {
    /// When we are root, runs are somebody else: the first interpreter on the PATH that everybody can use is
    /// taken. Where that user could not read the files it needs, runs keep our user, and the log says why.
    pub fn choose(settings: &Settings) -> Self {
        let (chosen, obstacle) = Self::look(settings);
        if let Some(path) = obstacle {
            tracing::warn!(path = %path.display(), "runs keep our user, since another could not use what is here");
        }
        chosen
    }

    /// The choice, and what stood in the way of another user.
    fn look(settings: &Settings) -> (Self, Option<PathBuf>) {
        let candidates = candidates(&settings.python);
        let first = Self { path: candidates.first().unwrap_or(&settings.python).clone(), as_another: false };
        if !rustix::process::geteuid().is_root() {
            return (first, None);
        }
        let needed = [&settings.workspace_path, &settings.platform_path, &settings.temp_path];
        if let Some(path) = needed.into_iter().find(|path| !open_to_all(path)) {
            return (first, Some(path.clone()));
        }
        match candidates.into_iter().find(|path| open_to_all(path)) {
            Some(path) => (Self { path, as_another: true }, None),
            None => {
                let obstacle = first.path.clone();
                (first, Some(obstacle))
            }
        }
    }
}

/// A module of the platform's package that reads the workspace at `root`, in a process with no credentials.
///
/// # Errors
/// [`Error::Internal`] when there is no current folder to take paths from.
pub fn reader(settings: &Settings, module: &str, root: &Path) -> Result<Command> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::internal);
    let mut command = Command::new(Interpreter::look(settings).0.path);
    command
        .args(["-s", "-P", "-m", module])
        .arg(absolute(root)?)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("PYTHONPATH", absolute(&settings.platform_path)?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir("/")
        .kill_on_drop(true);
    Ok(command)
}

/// The program as set, or everything of that name on the PATH.
pub fn candidates(program: &Path) -> Vec<PathBuf> {
    if program.components().count() > 1 {
        return vec![program.to_owned()];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).filter(|file| file.is_file()).collect()
}

/// Whether every folder up to the root lets everybody pass; of what is not there yet, every folder that is.
fn open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    let Ok(path) = std::path::absolute(path) else { return false };
    let Some(path) = path.ancestors().find_map(|folder| folder.canonicalize().ok()) else { return false };
    path.ancestors()
        .all(|folder| folder.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}
