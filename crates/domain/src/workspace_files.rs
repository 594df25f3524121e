//! Files of the workspace: the only way the platform itself reads and writes them.
//!
//! Every path is opened relative to the folder it must stay in, step by step, by the kernel (`cap-std`): what leads out of
//! it, by `..` or by a link that somebody exchanges meanwhile, is refused where it happens. Who may do what is for the
//! callers; runs have their own way in Python. All of this blocks: call it on a thread that may.
//!
//! The invariant: no name given from outside reaches a file outside of the root, or one that is reserved: in [`RESERVED`], or
//! `.env`, which holds secrets of whoever runs the server.

use std::io::{self, Read, Write};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use chrono::{DateTime, Utc};
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::workspace_trees::{self, RESERVED, Tree};
use crate::{Error, Result};

/// Ends the name of a file that mirrors a form.
pub(crate) const FORM_SUFFIX: &str = ".form.json";
/// Name of a file that is being written; nothing shows it.
const WRITING: &str = ".writing-";
/// The file of the root with variables for programs; `.env.production` and the like are as secret.
const VARIABLES: &str = ".env";
/// How people may put the root in front of a path.
const ROOT: &str = "/workspace/";
const MAX_PATH: usize = 1_024;
const MAX_NAME: usize = 255;
/// Entries that one look at a folder, or at all of the workspace, gives at most.
const MAX_ENTRIES: usize = 100_000;
const MAX_DEPTH: usize = 64;

/// A path relative to the workspace, without `.` and `..`. The empty one is the workspace itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

/// A file that was read.
#[derive(Debug)]
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Last change.
    pub modified: DateTime<Utc>,
}

/// Something in a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is.
    pub path: FilePath,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Bytes of a file.
    pub size: u64,
    /// Last change.
    pub modified: DateTime<Utc>,
}

/// The workspace as it is now. Opened for one operation and not kept: the whole tree may be exchanged.
#[derive(Debug)]
pub struct Files {
    root: Dir,
    hides_forms: bool,
    /// Held by those who may write into a tree that is exchanged.
    _lock: Option<std::fs::File>,
}

impl FilePath {
    /// Reads a path as people give it: a leading `/` or `/workspace/` is ignored, `..` is resolved.
    ///
    /// # Errors
    /// [`Error::Impossible`] when it leads outside, or to what is no file of the workspace.
    pub fn parse(text: &str) -> Result<Self> {
        let impossible = |what: &str| Err(Error::Impossible(format!("the path {what}")));
        let text = if text == ROOT.trim_end_matches('/') { "" } else { text };
        let text = text.strip_prefix(ROOT).unwrap_or(text);
        if text.len() > MAX_PATH {
            return impossible("is too long");
        }
        if text.chars().any(char::is_control) {
            return impossible("must not contain control characters");
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return impossible("leads outside of the workspace");
                    }
                }
                part if part.len() > MAX_NAME => return impossible("has a name that is too long"),
                part => parts.push(part),
            }
        }
        let path = Self(parts.join("/"));
        if path.is_reserved() { impossible("is not one of the workspace's files") } else { Ok(path) }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The folder it is in.
    pub fn parent(&self) -> Self {
        Self(self.0.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default())
    }

    /// Whether it is the workspace itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is `folder` or lies in it.
    pub fn is_in(&self, folder: &Self) -> bool {
        folder.is_root()
            || self.0.strip_prefix(&folder.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The path of something in this folder.
    fn join(&self, name: &str) -> Self {
        if self.is_root() { Self(name.to_owned()) } else { Self(format!("{}/{name}", self.0)) }
    }

    fn is_reserved(&self) -> bool {
        let mut parts = self.0.split('/');
        let first = parts.next().unwrap_or_default();
        RESERVED.iter().any(|name| first.eq_ignore_ascii_case(name))
            || is_of_variables(first)
            || parts.any(|part| part.eq_ignore_ascii_case(".git"))
            || self.name().starts_with(WRITING)
    }

    fn as_path(&self) -> &Path {
        Path::new(if self.is_root() { "." } else { &self.0 })
    }
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Works with the files of the workspace at `root` on a thread that may wait for the disk.
///
/// # Errors
/// Those of `work`, and [`Error::Unavailable`] when there is no such folder.
pub async fn on_disk<T: Send + 'static>(
    root: &Path,
    work: impl FnOnce(&Files) -> Result<T> + Send + 'static,
) -> Result<T> {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || work(&Files::open_workspace(&root)?))
        .await
        .map_err(Error::internal)?
}

/// Makes a folder for the files of one organization, and the one it is in, which nobody but the platform may enter.
///
/// # Errors
/// [`Error::Unavailable`] when the disk refuses.
pub fn make_overlay(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::Unavailable { service: "the disk of the workspace", source: error.into() })
}

impl Files {
    /// Opens the tree of the workspace that is in use, which is not exchanged as long as this is held.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it is not there.
    pub fn open_workspace(root: &Path) -> Result<Self> {
        let away = |source: io::Error| Error::Unavailable { service: "the workspace", source: source.into() };
        let lock = workspace_trees::lock_shared(root).map_err(away)?;
        let base = Dir::open_ambient_dir(root, ambient_authority()).map_err(away)?;
        let root = match Tree::current(root).inside() {
            Some(inside) => base.open_dir(inside).map_err(away)?,
            None => base,
        };
        Ok(Self { root, hides_forms: false, _lock: Some(lock) })
    }

    /// Opens a folder that is never exchanged, such as an overlay.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it is not there.
    pub fn open(root: &Path) -> Result<Self> {
        let root = Dir::open_ambient_dir(root, ambient_authority())
            .map_err(|source| Error::Unavailable { service: "the workspace", source: source.into() })?;
        Ok(Self { root, hides_forms: false, _lock: None })
    }

    /// The same for those who read for one organization. The shared workspace holds the forms of all organizations: their
    /// files are not there, by whatever name.
    #[must_use]
    pub fn without_forms(self) -> Self {
        Self { hides_forms: true, ..self }
    }

    /// Reads a file of at most `most` bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Impossible`] when it leads outside, is no plain file, is larger, or is the same as a
    /// file somewhere else.
    pub fn read(&self, path: &FilePath, most: u64) -> Result<Content> {
        let (file, metadata) = self.open_file(path)?;
        if metadata.len() > most {
            return Err(too_large(path, most));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| fault(path, error))?;
        if bytes.len() as u64 > most {
            return Err(too_large(path, most));
        }
        Ok(Content { bytes, modified: modified(&metadata) })
    }

    /// Opens a plain file for reading.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn open_file(&self, path: &FilePath) -> Result<(File, Metadata)> {
        self.check_links(path)?;
        let mut options = OpenOptions::new();
        // A pipe would hold the opener until somebody writes into it.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        options.read(true).custom_flags(i32::try_from(flags).unwrap_or_default());
        let file = self.root.open_with(path.as_path(), &options).map_err(|error| fault(path, error))?;
        let metadata = file.metadata().map_err(|error| fault(path, error))?;
        if !metadata.is_file() {
            return Err(Error::Impossible(format!("{path} is not a file")));
        }
        if metadata.nlink() > 1 {
            // Its other name may be anywhere on the disk.
            return Err(Error::Impossible(format!("{path} is a hard link; copy the file instead")));
        }
        Ok((file, metadata))
    }

    /// Creates or replaces a file, and makes the folders it is in: readers see the old file or the new one, and what is
    /// there when this returns survives a loss of power.
    ///
    /// # Errors
    /// [`Error::Impossible`] when it leads outside or is a folder.
    pub fn write(&self, path: &FilePath, bytes: &[u8]) -> Result<DateTime<Utc>> {
        if path.is_root() {
            return Err(Error::Impossible("a path is needed".into()));
        }
        let folder = self.make_folder(&path.parent())?;
        // A link is replaced, and never followed; one that leads outside is refused as it is for reading.
        self.check_links(path)?;
        let temporary = format!("{WRITING}{}", Uuid::now_v7().simple());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        let write = || -> io::Result<DateTime<Utc>> {
            let mut file = folder.open_with(&temporary, &options)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            let modified = modified(&file.metadata()?);
            folder.rename(&temporary, &folder, path.name())?;
            sync(&folder)?;
            Ok(modified)
        };
        write().map_err(|error| {
            let _ = folder.remove_file(&temporary);
            fault(path, error)
        })
    }

    /// Makes a folder and those it is in; `false`: it was there.
    ///
    /// # Errors
    /// [`Error::Impossible`] when it leads outside; [`Error::Conflict`] when a file has the name.
    pub fn create_folder(&self, path: &FilePath) -> Result<bool> {
        if path.is_root() {
            return Ok(false);
        }
        let parent = self.make_folder(&path.parent())?;
        match parent.create_dir(path.name()) {
            Ok(()) => {
                sync(&parent).map_err(|error| fault(path, error))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let metadata = parent.symlink_metadata(path.name()).map_err(|error| fault(path, error))?;
                if metadata.is_dir() { Ok(false) } else { Err(Error::Conflict(format!("{path} is a file"))) }
            }
            Err(error) => Err(fault(path, error)),
        }
    }

    /// Gives a file or folder another path, and makes the folders on the way there.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when something is there; [`Error::Impossible`] when it leads outside or
    /// into itself.
    pub fn rename(&self, old: &FilePath, new: &FilePath) -> Result<()> {
        if old.is_root() || new.is_root() {
            return Err(Error::Impossible("the workspace itself cannot be renamed".into()));
        }
        if old != new && new.is_in(old) {
            return Err(Error::Impossible(format!("{old} cannot be moved into itself")));
        }
        self.check_links(&old.parent())?;
        let from = self.root.open_dir(old.parent().as_path()).map_err(|error| fault(old, error))?;
        from.symlink_metadata(old.name()).map_err(|error| fault(old, error))?;
        let to = self.make_folder(&new.parent())?;
        let renamed = rustix::fs::renameat_with(&from, old.name(), &to, new.name(), RenameFlags::NOREPLACE)
            .map_err(io::Error::from);
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Conflict(format!("{new} exists already")));
            }
            Err(error) => return Err(fault(new, error)),
        }
        sync(&from).and_then(|()| sync(&to)).map_err(|error| fault(new, error))
    }

    /// Removes a file, or a folder with all it holds; a link goes, not what it leads to.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Impossible`] when it leads outside.
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        if path.is_root() {
            return Err(Error::Impossible("the workspace itself cannot be deleted".into()));
        }
        self.check_links(&path.parent())?;
        let remove = || -> io::Result<()> {
            let parent = self.root.open_dir(path.parent().as_path())?;
            if parent.symlink_metadata(path.name())?.is_dir() {
                parent.remove_dir_all(path.name())?;
            } else {
                parent.remove_file(path.name())?;
            }
            sync(&parent)
        };
        remove().map_err(|error| fault(path, error))
    }

    /// What is at a path.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Impossible`] when it leads outside.
    pub fn entry(&self, path: &FilePath) -> Result<Entry> {
        self.check_links(path)?;
        let metadata = self.root.metadata(path.as_path()).map_err(|error| fault(path, error))?;
        Ok(entry(path.clone(), &metadata))
    }

    /// What is in a folder: folders first, then by name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Impossible`] when it leads outside or is a file.
    pub fn list(&self, path: &FilePath) -> Result<Vec<Entry>> {
        self.check_links(path)?;
        let read =
            || -> io::Result<Vec<Entry>> { self.entries_of(&self.root.open_dir(path.as_path())?, path) };
        let mut entries = read().map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory if self.root.exists(path.as_path()) => {
                Error::Impossible(format!("{path} is not a folder"))
            }
            _ => fault(path, error),
        })?;
        entries.sort_by(|a, b| (!a.is_folder, &a.path).cmp(&(!b.is_folder, &b.path)));
        Ok(entries)
    }

    /// The files of the workspace whose name `wanted` accepts, by path; folders that begin with a dot are passed by, and no
    /// link is followed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the workspace cannot be read.
    pub fn find(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut folders = vec![(FilePath(String::new()), 0)];
        while let Some((path, depth)) = folders.pop() {
            // A folder that vanishes meanwhile has nothing in it.
            let Ok(folder) = self.root.open_dir(path.as_path()) else { continue };
            for entry in self.entries_of(&folder, &path).unwrap_or_default() {
                let name = entry.path.name();
                if entry.is_folder && !name.starts_with('.') && name != "__pycache__" && depth < MAX_DEPTH {
                    folders.push((entry.path, depth + 1));
                } else if !entry.is_folder && wanted(name) && found.len() < MAX_ENTRIES {
                    found.push(entry);
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The folder, made if it is missing.
    fn make_folder(&self, path: &FilePath) -> Result<Dir> {
        self.check_links(path)?;
        let make = || -> io::Result<Dir> {
            self.root.create_dir_all(path.as_path())?;
            self.root.open_dir(path.as_path())
        };
        make().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                Error::Impossible(format!("{path} is not a folder"))
            }
            _ => fault(path, error),
        })
    }

    /// A link within the workspace may be followed, but not to what is reserved or hidden. Who exchanges links at the right
    /// moment gets past this; nobody gets past the root.
    fn check_links(&self, path: &FilePath) -> Result<()> {
        let mut at = path.clone();
        // What does not exist yet leads where its folder does.
        loop {
            match self.root.canonicalize(at.as_path()) {
                Ok(real) => {
                    let real = real.to_str().unwrap_or(RESERVED[0]);
                    let is_hidden = self.hides(&FilePath::parse(real)?);
                    return if is_hidden { Err(Error::NotFound("file or folder")) } else { Ok(()) };
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !at.is_root() => at = at.parent(),
                Err(error) => return Err(fault(path, error)),
            }
        }
    }

    fn entries_of(&self, folder: &Dir, path: &FilePath) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in folder.entries()?.take(MAX_ENTRIES) {
            let found = found?;
            // Names that are no text cannot be asked for either.
            let Ok(name) = found.file_name().into_string() else { continue };
            let here = path.join(&name);
            if here.is_reserved() || self.hides(&here) || name.chars().any(char::is_control) {
                continue;
            }
            // Not the target of a link: it may be anywhere.
            let Ok(metadata) = found.metadata() else { continue };
            if metadata.is_dir() || metadata.is_file() {
                entries.push(entry(here, &metadata));
            }
        }
        Ok(entries)
    }

    fn hides(&self, path: &FilePath) -> bool {
        // On some disks capitals and small letters are the same.
        self.hides_forms && is_form_file(&path.name().to_ascii_lowercase())
    }
}

fn entry(path: FilePath, metadata: &Metadata) -> Entry {
    let is_folder = metadata.is_dir();
    Entry { path, is_folder, size: if is_folder { 0 } else { metadata.len() }, modified: modified(metadata) }
}

fn modified(metadata: &Metadata) -> DateTime<Utc> {
    metadata.modified().map_or(DateTime::UNIX_EPOCH, |time| time.into_std().into())
}

/// Makes what was done in a folder durable.
fn sync(folder: &Dir) -> io::Result<()> {
    folder.open(".")?.sync_all()
}

fn too_large(path: &FilePath, most: u64) -> Error {
    Error::Impossible(format!("{path} is larger than {} MiB", most / (1024 * 1024)))
}

fn is_of_variables(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_prefix(VARIABLES).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What went wrong, for a person; never a path of the disk.
fn fault(path: &FilePath, error: io::Error) -> Error {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound | Kind::NotADirectory => Error::NotFound("file or folder"),
        // What the kernel says has a number; without one it is the path that was refused.
        Kind::PermissionDenied if error.raw_os_error().is_none() => {
            Error::Impossible(format!("{path} leads outside of the workspace"))
        }
        Kind::CrossesDevices => Error::Impossible(format!("{path} leads outside of the workspace")),
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Error::Impossible(format!("{path} is a link that leads back to itself"))
        }
        Kind::IsADirectory => Error::Impossible(format!("{path} is a folder")),
        Kind::InvalidInput | Kind::InvalidFilename => {
            Error::Impossible(format!("{path} is no possible name"))
        }
        Kind::StorageFull | Kind::QuotaExceeded | Kind::ReadOnlyFilesystem | Kind::PermissionDenied => {
            Error::Unavailable { service: "the disk of the workspace", source: error.into() }
        }
        _ => Error::internal(error),
    }
}

/// Whether a file of this name holds a form.
pub fn is_form_file(name: &str) -> bool {
    name == "form.json" || (name.ends_with(FORM_SUFFIX) && !name.starts_with('.'))
}
