//! The private directories of processes: below one folder per template, removed with the process, and at the next start
//! what a killed worker has left.
//!
//! The invariant: a folder that is in use is locked, and what is not locked belongs to nobody.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::protocol::Exit;

const PREFIX: &str = "runs-";
/// One that was made but not locked yet is younger.
const OLD: Duration = Duration::from_secs(60);
/// How long a process may take to end after it was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folder of one template. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Holds the lock.
    _handle: File,
}

impl Folder {
    /// Makes it below `root`; `name` is this template's own.
    pub(crate) fn create(root: &Path, name: &str) -> io::Result<Self> {
        let path = root.join(format!("{PREFIX}{name}"));
        // Others pass, and cannot look around: the directories in it are their owners'.
        DirBuilder::new().recursive(true).mode(0o711).create(&path)?;
        let handle = File::open(&path)?;
        flock(&handle, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _handle: handle })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what workers that were killed have left below `root`; gives how many folders.
///
/// # Errors
/// When `root` cannot be read.
pub fn remove_left_over(root: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(root)?.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OLD));
        let Ok(handle) = File::open(entry.path()) else { continue };
        if is_old
            && flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok()
            && fs::remove_dir_all(entry.path()).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes the directory of a process once the process and all it has started are gone.
pub(crate) fn remove_after(path: PathBuf, mut exit: oneshot::Receiver<Exit>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        if matches!(exit.try_recv(), Err(TryRecvError::Empty)) {
            let _ = tokio::time::timeout(PATIENCE, &mut exit).await;
        }
        let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(path)).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let held = Folder::create(root.path(), "held").expect("makes it");
        for name in ["runs-old", "runs-young", "other"] {
            fs::create_dir_all(root.path().join(name).join("7")).expect("makes it");
        }
        let long_ago = std::time::SystemTime::now() - 2 * OLD;
        for name in ["runs-held", "runs-old", "other"] {
            let folder = File::open(root.path().join(name)).expect("is there");
            folder.set_times(fs::FileTimes::new().set_modified(long_ago)).expect("is ours");
        }

        assert_eq!(remove_left_over(root.path()).expect("reads"), 1);

        let mut left: Vec<_> =
            fs::read_dir(root.path()).expect("reads").flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "runs-held", "runs-young"]);
        drop(held);
        assert!(!root.path().join("runs-held").exists());
    }
}
