//! The trees of the workspace, and how one takes the place of another (ADR 43).
//!
//! Until a repository is connected the workspace is what lies in `WORKSPACE_PATH`. From then on it is the tree that the
//! link `.trees/current` names; beside the files a tree holds its git directory. A tree is built where nobody looks, and
//! the exchange of the link is the one moment at which everything changes. What was in use stays where it is: whoever has
//! opened it, or was told its path, goes on in it, and it is the backup.
//!
//! The invariant: a tree that the link names is complete, and no file is saved between the last look at the old tree
//! and the exchange. What git does in a tree is in `git`. All of this blocks: call it on a thread that may.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Folder of the workspace that the trees are in.
pub const TREES: &str = ".trees";
/// Where each organization's own files are.
pub const OVERLAYS: &str = ".overlays";
/// Folders of the root that are not files of the workspace: what belongs to single organizations, and what git keeps.
pub const RESERVED: [&str; 4] = [OVERLAYS, ".uploads", ".git", TREES];
/// The link to the tree in use.
const CURRENT: &str = "current";
const FILES: &str = "files";
const REPOSITORY: &str = "git";
/// Begins the name of a tree that is not complete.
const BUILDING: &str = "building-";
/// Files and folders that a tree may have.
const MAX_ENTRIES: usize = 200_000;
/// How long an exchange waits for those who are saving files.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(5);
/// Replaced trees that are kept however old they are.
const KEPT: usize = 10;
/// No run lasts longer, so that nobody is in a tree that was replaced before.
const IN_USE: Duration = Duration::from_secs(26 * 3_600);

/// One state of the workspace: its files and its git directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// `None`: what lies in `WORKSPACE_PATH` itself.
    pub id: Option<Uuid>,
    /// The files.
    pub files: PathBuf,
    /// The git directory, if there is one.
    pub git: PathBuf,
}

/// What a tree looked like: any change of any file makes it another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look([u8; 32]);

/// A tree under construction; gone when it is dropped.
#[derive(Debug)]
pub struct Building {
    root: PathBuf,
    id: Uuid,
    is_in_use: bool,
}

/// A finished tree whose turn it is: nobody can save a file until it is switched to or dropped.
#[derive(Debug)]
pub struct Ready {
    building: Building,
    _lock: File,
}

/// The folder of the files in use.
pub fn current(root: &Path) -> PathBuf {
    Tree::current(root).files
}

/// Keeps the tree in use from being exchanged as long as the answer is held.
pub(crate) fn lock_shared(root: &Path) -> io::Result<File> {
    let lock = File::open(root)?;
    match rustix::fs::flock(&lock, FlockOperation::LockShared) {
        // A disk without locks: the look at the old tree before the exchange has to do.
        Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK) => Ok(lock),
        Err(error) => Err(error.into()),
    }
}

impl Tree {
    /// The tree in use.
    pub fn current(root: &Path) -> Self {
        let link = fs::read_link(root.join(TREES).join(CURRENT)).ok();
        let id = link.and_then(|link| Uuid::parse_str(link.to_str()?).ok());
        Self::at(root, id)
    }

    fn at(root: &Path, id: Option<Uuid>) -> Self {
        match id {
            Some(id) => Self::in_folder(Some(id), &root.join(TREES).join(id.to_string())),
            // Without trees there is no repository of ours; what people keep in `.git` is theirs.
            None => Self { id, files: root.to_owned(), git: root.join(TREES).join("none") },
        }
    }

    fn in_folder(id: Option<Uuid>, folder: &Path) -> Self {
        Self { id, files: folder.join(FILES), git: folder.join(REPOSITORY) }
    }

    /// The path of the files below `WORKSPACE_PATH`; `None`: the same.
    pub(crate) fn inside(&self) -> Option<PathBuf> {
        self.id.map(|id| Path::new(TREES).join(id.to_string()).join(FILES))
    }

    /// The same as text, `.` for `WORKSPACE_PATH` itself.
    pub fn place(&self) -> String {
        self.inside().map_or_else(|| ".".into(), |inside| inside.display().to_string())
    }

    /// Whether there is a git directory.
    pub fn has_repository(&self) -> bool {
        self.git.join("HEAD").is_file()
    }

    /// What it looks like now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(&self) -> io::Result<Look> {
        let mut digest = Sha256::new();
        walk(&self.files, &mut |path, metadata| {
            digest.update(path.as_os_str().as_encoded_bytes());
            for number in [metadata.ctime(), metadata.ctime_nsec(), i64::from(metadata.mode())] {
                digest.update(number.to_le_bytes());
            }
            for number in [metadata.size(), metadata.ino()] {
                // The size of a folder says nothing that its entries do not.
                digest.update(if metadata.is_dir() { 0 } else { number }.to_le_bytes());
            }
            Ok(())
        })?;
        Ok(Look(digest.finalize().into()))
    }
}

impl Building {
    /// Begins an empty tree, and removes what others have left unfinished. One at a time: whoever calls this has the turn of git.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(root: &Path) -> io::Result<Self> {
        let trees = root.join(TREES);
        fs::create_dir_all(&trees)?;
        for entry in fs::read_dir(&trees)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(BUILDING.as_bytes()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let building = Self { root: root.to_owned(), id: Uuid::now_v7(), is_in_use: false };
        let tree = building.tree();
        fs::create_dir_all(&tree.files)?;
        fs::create_dir(&tree.git)?;
        let (old, new) = (Tree::current(root).files, &tree.files);
        copy_owner(&old.metadata()?, new)?;
        // Runs read the files as whoever they are; the repository is ours alone.
        fs::set_permissions(&tree.git, Permissions::from_mode(0o700))?;
        Ok(building)
    }

    /// The tree as it is so far.
    pub fn tree(&self) -> Tree {
        Tree::in_folder(None, &self.folder())
    }

    fn folder(&self) -> PathBuf {
        self.root.join(TREES).join(format!("{BUILDING}{}", self.id))
    }

    /// Copies all files of another tree, with their times.
    ///
    /// # Errors
    /// When something cannot be read or written, or there is too much.
    pub fn copy_files(&self, from: &Tree) -> io::Result<()> {
        let to = self.tree().files;
        walk(&from.files, &mut |path, metadata| {
            let (source, target) = (from.files.join(path), to.join(path));
            if metadata.is_dir() {
                fs::create_dir(&target)?;
                copy_owner(metadata, &target)
            } else if metadata.is_symlink() {
                there(fs::read_link(source))?.map_or(Ok(()), |link| symlink(link, target))
            } else if metadata.is_file() {
                // Whoever is saving it right now lets the exchange begin anew.
                let Some(_) = there(fs::copy(source, &target))? else { return Ok(()) };
                copy_owner(metadata, &target)?;
                File::options().write(true).open(&target)?.set_modified(metadata.modified()?)
            } else {
                // Pipes and sockets belong to who made them.
                Ok(())
            }
        })
    }

    /// Takes over the repository of another tree. What never changes once it is written is shared.
    ///
    /// # Errors
    /// As [`Self::copy_files`].
    pub fn copy_repository(&self, from: &Tree) -> io::Result<()> {
        let to = self.tree().git;
        let mut entries = 0;
        copy_repository(&from.git, &to, Part::Top, &mut entries)
    }

    /// Completes the tree and makes it durable.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&self) -> io::Result<()> {
        let tree = self.tree();
        let overlays = tree.files.join(OVERLAYS);
        if !overlays.is_symlink() {
            // Runs look for the files of their organization in the tree they see; those are exchanged with none.
            symlink(Path::new("../../..").join(OVERLAYS), overlays)?;
        }
        rustix::fs::syncfs(File::open(&tree.files)?)?;
        Ok(())
    }

    /// Waits until nobody saves files, and makes sure that nobody has since `seen`; `None`: somebody has, or the tree in
    /// use is another one, so that this one is worth nothing.
    ///
    /// # Errors
    /// When the disk cannot be read, or saving never ends.
    pub fn lock(self, replaced: &Tree, seen: Option<&Look>) -> io::Result<Option<Ready>> {
        let lock = lock_exclusive(&self.root)?;
        if Tree::current(&self.root) != *replaced {
            return Ok(None);
        }
        if let Some(seen) = seen
            && replaced.look()? != *seen
        {
            return Ok(None);
        }
        Ok(Some(Ready { building: self, _lock: lock }))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.is_in_use {
            let _ = fs::remove_dir_all(self.folder());
        }
    }
}

impl Ready {
    /// Puts the tree in use. Two renames: quick enough for any thread.
    ///
    /// # Errors
    /// When the disk refuses; then the old tree stays in use.
    pub fn switch(mut self) -> io::Result<Tree> {
        let building = &mut self.building;
        let trees = building.root.join(TREES);
        let name = building.id.to_string();
        fs::rename(building.folder(), trees.join(&name))?;
        let next = trees.join(format!("{BUILDING}link-{name}"));
        symlink(&name, &next)?;
        fs::rename(&next, trees.join(CURRENT))?;
        building.is_in_use = true;
        File::open(&trees)?.sync_all()?;
        Ok(Tree::at(&building.root, Some(building.id)))
    }
}

/// Removes trees that were replaced so long ago that nobody is in them, but for the newest and `backup`.
///
/// # Errors
/// When the folder cannot be read.
pub fn collect(root: &Path, backup: Option<&str>) -> io::Result<usize> {
    let trees = root.join(TREES);
    let mut ids: Vec<Uuid> = fs::read_dir(&trees)?
        .flatten()
        .filter_map(|entry| Uuid::parse_str(entry.file_name().to_str()?).ok())
        .collect();
    ids.sort();
    let Some(current) = Tree::current(root).id else { return Ok(0) };
    let old: Vec<Uuid> = ids.iter().copied().filter(|id| *id < current).collect();
    let mut removed = 0;
    for (at, id) in old.iter().enumerate().take(old.len().saturating_sub(KEPT)) {
        // A tree was replaced when the next one was made, whose id says when that was.
        let replaced = ids.get(at + 1).and_then(made);
        let is_unused = replaced.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > IN_USE);
        if is_unused && Tree::at(root, Some(*id)).place() != backup.unwrap_or_default() {
            fs::remove_dir_all(trees.join(id.to_string()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn made(id: &Uuid) -> Option<SystemTime> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

fn lock_exclusive(root: &Path) -> io::Result<File> {
    let lock = File::open(root)?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if began.elapsed() < PATIENCE => {
                std::thread::sleep(RETRY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Calls `visit` for everything below a folder, folders before what they hold, in an order that depends on names alone.
fn walk(root: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let mut entries = 0;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let Some(found) = there(fs::read_dir(root.join(&folder)))? else { continue };
        let mut found: Vec<_> = found.collect::<Result<_, _>>()?;
        found.sort_by_key(fs::DirEntry::file_name);
        for entry in found {
            let name = entry.file_name();
            let is_ours = RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved));
            if folder.as_os_str().is_empty() && is_ours {
                continue;
            }
            let path = folder.join(name);
            // What vanishes between two looks was not there.
            let Ok(metadata) = entry.metadata() else { continue };
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the workspace has too many files"));
            }
            visit(&path, &metadata)?;
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(())
}

/// What is found, if it is there: files are saved and removed while others look at them.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Where in a git directory something is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Top,
    Objects,
    Rest,
}

fn copy_repository(from: &Path, to: &Path, part: Part, entries: &mut usize) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let (source, target) = (entry.path(), to.join(&name));
        let name = name.to_string_lossy();
        *entries += 1;
        if *entries > MAX_ENTRIES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the repository has too many files"));
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let below = match (part, &*name) {
                (Part::Top, "hooks" | "modules" | "worktrees") => continue,
                (Part::Top, "objects") => Part::Objects,
                (Part::Top, _) => Part::Rest,
                (part, _) => part,
            };
            fs::create_dir(&target)?;
            copy_repository(&source, &target, below, entries)?;
        } else if kind.is_file() && !name.ends_with(".lock") {
            let is_shared = part == Part::Objects;
            if is_shared && name.starts_with("tmp_") {
                continue;
            }
            if !is_shared || fs::hard_link(&source, &target).is_err() {
                fs::copy(&source, &target)?;
            }
        }
    }
    Ok(())
}

/// Gives a file the mode of another, and its owner where we may.
fn copy_owner(metadata: &fs::Metadata, to: &Path) -> io::Result<()> {
    let have = to.metadata()?;
    if (have.uid(), have.gid()) != (metadata.uid(), metadata.gid()) {
        let _ = chown(to, Some(metadata.uid()), Some(metadata.gid()));
    }
    fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o777))
}

#[cfg(test)]
mod tests;
