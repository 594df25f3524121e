//! The interpreter that runs use, who they are, and what they are enclosed in.

use std::path::{Path, PathBuf};

use domain::settings::Settings;
use runner::{Enclosure, Piece, RunAs};

/// Who runs are when we are root: a user per process, in a range that distributions and containers leave alone.
const OWN_USERS: RunAs = RunAs { first: 2_000_000_000, count: 65_536 };
const NOBODY: u32 = 65_534;

/// The pieces of the isolation of runs, and which of them can be had here.
///
/// # Errors
/// When the interpreter cannot say.
pub async fn isolation(settings: &Settings) -> anyhow::Result<Vec<Piece>> {
    let interpreter = Interpreter::choose(settings);
    let platform = std::path::absolute(&settings.platform_path)?;
    Ok(runner::probe(&interpreter.path, &platform, &interpreter.enclosure(settings)).await?)
}

/// Refuses to go on where `ISOLATION` is `required` and a piece of it cannot be had.
///
/// # Errors
/// One line that names every such piece, and why.
pub(crate) async fn require_isolation(settings: &Settings) -> anyhow::Result<()> {
    if settings.isolation != "required" {
        return Ok(());
    }
    let pieces = isolation(settings).await?;
    let missing: Vec<String> = pieces
        .iter()
        .filter(|piece| piece.needed && !piece.available)
        .map(|piece| format!("{}: {}", piece.name, piece.detail))
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "ISOLATION is required, and this worker cannot give it. {}",
        missing.join("; ")
    );
    Ok(())
}

/// The interpreter of runs, and the user they are when we are root.
pub(crate) struct Interpreter {
    pub(crate) path: PathBuf,
    run_as: Option<RunAs>,
}

impl Interpreter {
    /// When we are root, runs are somebody else: the first interpreter on the PATH that everybody can use is
    /// taken. Where that user could not read the files it needs, runs keep our user, and the log says why.
    pub(crate) fn choose(settings: &Settings) -> Self {
        let candidates = candidates(&settings.python);
        let first = Self { path: candidates.first().unwrap_or(&settings.python).clone(), run_as: None };
        if !rustix::process::geteuid().is_root() {
            return first;
        }
        let needed = [&settings.workspace_path, &settings.platform_path, &settings.temp_path];
        if let Some(path) = needed.into_iter().find(|path| !open_to_all(path)) {
            tracing::warn!(path = %path.display(), "runs keep our user, since another could not read this folder");
            return first;
        }
        match candidates.into_iter().find(|path| open_to_all(path)) {
            Some(path) => Self { path, run_as: Some(own_users()) },
            None => {
                tracing::warn!(python = %first.path.display(), "runs keep our user, since another could not use this interpreter");
                first
            }
        }
    }

    /// What runs of it are enclosed in.
    pub(crate) fn enclosure(&self, settings: &Settings) -> Enclosure {
        Enclosure {
            mode: settings.isolation.clone(),
            network: settings.run_network.clone(),
            readable: settings.readable_paths(),
            run_as: self.run_as,
        }
    }
}

/// A range of users that this user namespace has and that nothing else uses, else the one that stands for nobody.
fn own_users() -> RunAs {
    let has_range = |map: &str| std::fs::read_to_string(map).is_ok_and(|map| covers(&map, OWN_USERS));
    if has_range("/proc/self/uid_map") && has_range("/proc/self/gid_map") {
        OWN_USERS
    } else {
        RunAs { first: NOBODY, count: 1 }
    }
}

/// Whether one line of a map (`inside outside count`) holds the whole range.
fn covers(map: &str, users: RunAs) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let wanted = u64::from(users.first)..u64::from(users.first) + u64::from(users.count);
        matches!(numbers[..], [inside, _, count] if inside <= wanted.start && wanted.end <= inside + count)
    })
}

/// The interpreter as set, or everything of that name on the PATH.
fn candidates(python: &Path) -> Vec<PathBuf> {
    if python.components().count() > 1 {
        return vec![python.to_owned()];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(python)).filter(|file| file.is_file()).collect()
}

/// Whether every folder up to the root lets everybody pass.
fn open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    let Ok(path): Result<PathBuf, _> = path.canonicalize() else { return false };
    path.ancestors()
        .all(|folder| folder.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_taken_from_a_range_that_the_namespace_has() {
        let whole = "         0          0 4294967295\n";
        let container = "         0     100000      65536\n";
        assert!(covers(whole, OWN_USERS));
        assert!(!covers(container, OWN_USERS));
        assert!(covers(container, RunAs { first: NOBODY, count: 1 }));
        assert!(!covers("", OWN_USERS));
    }
}
