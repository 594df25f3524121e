//! The git directory on the disk: made here, and made harmless before each use.
//!
//! The invariant: whoever was able to write into it has no say in what git does there.

use std::io;
use std::path::Path;

/// The configuration in the git directory.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tlogallrefupdates = true\n";
/// What is never a file of the workspace.
const EXCLUDE: &str = "/.overlays\n/.uploads\n/.trees\n.writing-*\n__pycache__/\n";
/// What could lead a git directory to other objects, files or programs.
const UNWANTED: [&str; 9] = [
    "hooks",
    "modules",
    "config.worktree",
    "commondir",
    "info/attributes",
    "info/grafts",
    "info/sparse-checkout",
    "objects/info/alternates",
    "objects/info/http-alternates",
];
const LOCKS: [&str; 4] = ["index.lock", "HEAD.lock", "packed-refs.lock", "config.lock"];

/// Leaves nothing in a git directory that is not ours and could have a say.
pub(super) fn tame(folder: &Path, is_alone: bool) -> io::Result<()> {
    for part in ["", "objects", "objects/info", "refs", "info"] {
        let path = folder.join(part);
        if path.is_symlink() || !path.is_dir() {
            remove(&path)?;
            std::fs::create_dir_all(&path)?;
        }
    }
    for name in UNWANTED {
        remove(&folder.join(name))?;
    }
    if is_alone {
        for name in LOCKS {
            remove(&folder.join(name))?;
        }
        unlock_refs(&folder.join("refs"), 0)?;
    }
    replace(&folder.join("config"), CONFIG)?;
    replace(&folder.join("info/exclude"), EXCLUDE)
}

fn unlock_refs(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() && depth < 32 {
            unlock_refs(&entry.path(), depth + 1)?;
        } else if entry.file_name().as_encoded_bytes().ends_with(b".lock") {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file anew, whatever is there: readers see the old or the new one.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    let is_plain = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    if is_plain && std::fs::read(path).is_ok_and(|have| have == content.as_bytes()) {
        return Ok(());
    }
    if !is_plain {
        remove(path)?;
    }
    let temporary = path.with_extension(format!("new-{}", uuid::Uuid::now_v7().simple()));
    std::fs::write(&temporary, content)?;
    std::fs::rename(temporary, path)
}

/// Makes an empty git directory whose branch is `head`.
pub(super) fn create(folder: &Path, head: &str) -> io::Result<()> {
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/remotes", "info"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    std::fs::write(folder.join("HEAD"), format!("ref: {head}\n"))?;
    tame(folder, true)
}
