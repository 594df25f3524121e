//! The environments of this machine: one folder each, named by its lock and the interpreter it is for.
//!
//! A folder appears by a rename, whole, and is never written to again. Whoever uses it holds a shared lock on the file
//! beside it; who removes it needs the lock alone. The kernel lets locks go when their holder is killed, so nothing has to
//! be cleaned up before it can be trusted. The invariant: what bears the name of an environment is all of it.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::python::Interpreter;
use domain::settings::Settings;
use tempfile::TempDir;

use super::tool::{self, Fault, Tool};

/// Name of what is being built, or removed. A folder of this name whose lock is free is left over from a killed process.
const WORK: &str = ".work-";
/// How long a folder may be without its lock before it counts as left over.
const YOUNG: Duration = Duration::from_secs(60);
/// How long one machine may take to make an environment.
const PATIENCE: Duration = Duration::from_secs(600);

/// The environments of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Environments {
    root: PathBuf,
    settings: Settings,
}

/// An environment that is not removed while this lives.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) path: PathBuf,
    pub(crate) lock: Arc<File>,
}

/// A folder to work in; removed at the end, by whoever comes later if it must be.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    folder: TempDir,
    _lock: File,
}

impl WorkFolder {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Environments {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { root: settings.environments(), settings: settings.clone() }
    }

    /// Makes an environment of this machine, unless it is there.
    pub(crate) async fn materialise(&self, id: &str, lock: &str) -> anyhow::Result<Held> {
        let interpreter = Interpreter::choose(&self.settings);
        let tell = |line: String| tracing::debug!(line, "building an environment");
        match self.build(&interpreter, id, lock, &tell).await {
            Ok(held) => Ok(held),
            Err(Fault::Refused(message)) => Err(anyhow::anyhow!(message)),
            Err(Fault::Broken(error)) => Err(error),
        }
    }

    /// The same, telling how far it is.
    pub(crate) async fn build(
        &self,
        interpreter: &Interpreter,
        id: &str,
        lock: &str,
        tell: &(dyn Fn(String) + Sync),
    ) -> Result<Held, Fault> {
        let name = format!("{id}-{}", tool::tag(interpreter).await?);
        if let Some(held) = self.find(&name).context("looking for an environment")? {
            return Ok(held);
        }
        tracing::info!(environment = name, "making an environment of packages");
        let tool = Tool::find(&self.settings, interpreter).await?;
        let work = self.work_folder().context("a folder to build in")?;
        let target = work.path().join("site");
        let installed = tool.install(work.path(), lock, &target, tell);
        tokio::time::timeout(PATIENCE, installed)
            .await
            .map_err(|_| Fault::Refused("Installing the packages took too long.".into()))??;
        let environments = self.clone();
        let moved = tokio::task::spawn_blocking(move || environments.put_in_place(&target, &name)).await;
        Ok(moved.context("the thread that moves it")?.context("putting an environment in its place")?)
    }

    /// Moves a finished environment to its name, which is held before: else whoever collects could remove it first. Who
    /// built the same one in the meantime was as right.
    fn put_in_place(&self, from: &Path, name: &str) -> io::Result<Held> {
        open_to_readers(from)?;
        // A loss of power must not leave empty files under a name that says that all is there.
        rustix::fs::syncfs(File::open(&self.root)?)?;
        let held = self.hold(name)?;
        match fs::rename(from, &held.path) {
            Err(_) if held.path.is_dir() => Ok(held),
            moved => moved.map(|()| held),
        }
    }

    /// Removes what nobody uses, but for what is named.
    pub(crate) fn collect(&self, keep: &HashSet<String>) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let removed = if name.starts_with(WORK) {
                self.collect_work(&entry.path())
            } else if entry.path().is_dir() && !keep.contains(name.split('-').next().unwrap_or_default()) {
                self.remove(&name)
            } else {
                Ok(false)
            };
            match removed {
                Ok(true) => tracing::info!(environment = name, "removed an environment that nobody uses"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, environment = name, "cannot remove an environment"),
            }
        }
    }

    /// A folder that nobody else works in.
    pub(crate) fn work_folder(&self) -> io::Result<WorkFolder> {
        make_root(&self.root)?;
        loop {
            let folder = tempfile::Builder::new().prefix(WORK).tempdir_in(&self.root)?;
            let lock_path = folder.path().join(".lock");
            let locked = File::create(&lock_path).and_then(|lock| {
                lock.lock()?;
                Ok(lock)
            });
            match locked {
                Ok(lock) if is_still_at(&lock, &lock_path) => return Ok(WorkFolder { folder, _lock: lock }),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Whoever collects took it for left over before we had the lock.
                _ => {}
            }
        }
    }

    /// The environment, held, if it is there.
    fn find(&self, name: &str) -> io::Result<Option<Held>> {
        make_root(&self.root)?;
        let held = self.hold(name)?;
        Ok(held.path.is_dir().then_some(held))
    }

    /// Holds the name, whether the environment is there or not.
    fn hold(&self, name: &str) -> io::Result<Held> {
        loop {
            let lock_path = self.root.join(format!("{name}.lock"));
            let lock = File::options().create(true).append(true).open(&lock_path)?;
            lock.lock_shared()?;
            // Its remover may have taken the file away before we had the lock.
            if is_still_at(&lock, &lock_path) {
                return Ok(Held { path: self.root.join(name), lock: Arc::new(lock) });
            }
        }
    }

    fn remove(&self, name: &str) -> io::Result<bool> {
        let lock_path = self.root.join(format!("{name}.lock"));
        let lock = File::options().create(true).append(true).open(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Out of sight first: nobody may meet half of it.
        let work = self.work_folder()?;
        fs::rename(self.root.join(name), work.path().join("removed"))?;
        fs::remove_file(&lock_path)?;
        Ok(true)
    }

    fn collect_work(&self, folder: &Path) -> io::Result<bool> {
        // Held to the end: whoever waits for the lock must find that the folder is gone.
        let lock = File::options().append(true).open(folder.join(".lock"));
        let is_left = match &lock {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => fs::metadata(folder)?.modified()?.elapsed().is_ok_and(|age| age > YOUNG),
        };
        if is_left {
            fs::remove_dir_all(folder)?;
        }
        Ok(is_left)
    }
}

/// Whether this file is what the path names now. One that was removed and made anew is another one.
fn is_still_at(file: &File, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|ours| now.ino() == ours.ino()))
}

/// Runs are somebody else where we are root, and must get through.
fn make_root(root: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(root)
}

/// Lets everybody read and nobody write, whatever the umask and the archives said.
fn open_to_readers(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let is_executable = metadata.is_dir() || metadata.mode() & 0o100 != 0;
    fs::set_permissions(path, fs::Permissions::from_mode(if is_executable { 0o755 } else { 0o644 }))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_readers(&entry?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// Does the work while another thread collects whatever nobody holds, without a pause.
    async fn beside_a_collector(work: impl FnOnce(&Environments)) {
        /// Ends the collector also when the work panics; else the scope would wait for it forever.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let test = testkit::TestEnv::with_files(&[]).await;
        let environments = Environments { root: folder.path().to_owned(), settings: test.settings() };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    environments.collect(&HashSet::new());
                }
            });
            let _ends = Ends(&done);
            work(&environments);
        });
        test.close().await;
    }

    #[tokio::test]
    async fn what_is_made_is_held_before_a_collection_can_remove_it() {
        beside_a_collector(|environments| {
            for number in 0..200 {
                let work = environments.work_folder().expect("a folder to build in");
                let target = work.path().join("site");
                fs::create_dir(&target).expect("makes");
                let held = environments.put_in_place(&target, &format!("{number}-tag")).expect("moves");
                assert!(held.path.is_dir(), "{number} was removed while it is held");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_folder_to_work_in_is_never_taken_for_left_over() {
        beside_a_collector(|environments| {
            for number in 0..2_000 {
                let work = environments.work_folder().expect("a folder to work in");
                fs::create_dir(work.path().join("site")).unwrap_or_else(|error| panic!("{number}: {error}"));
            }
        })
        .await;
    }
}
