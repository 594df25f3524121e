//! `files.*` in the workspace: read and written here, for no run can open what belongs to single organizations.
//!
//! A run of an organization reads its organization's overlay in front of the shared files, and writes only there; of the shared
//! files it does not have those of forms, which are of all organizations. One of no organization uses the shared files, where
//! code and forms are for platform administrators to change. It reads them in the tree that it is made of, so that all it reads is
//! of one state; only what it has itself changed since another tree took that one's place, it reads where it wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::Error;
use domain::editor::MAX_FILE;
use domain::id::OrgId;
use domain::workspace_files::{Entry, FilePath, Files, is_form_file, make_overlay};
use domain::workspace_trees::{self, OVERLAYS};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Caller, Refusal};

/// What one answer holds of a file.
const PIECE: u64 = 4 * 1024 * 1024;

#[derive(Deserialize)]
pub(super) struct Read {
    path: String,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
pub(super) struct Write {
    path: String,
    /// Base64.
    data: String,
}

#[derive(Deserialize)]
pub(super) struct One {
    path: String,
}

#[derive(Deserialize)]
pub(super) struct Folder {
    directory: String,
}

/// A piece of a file, how long the whole is, and a name for its state: pieces of two states make no file.
pub(super) async fn read(caller: &Caller, args: Read) -> Answer {
    on_disk(caller, &args.path, move |places, path| {
        let (piece, size, state) = places.first(path, |files| {
            let (mut file, metadata) = files.open_file(path)?;
            file.seek(SeekFrom::Start(args.offset)).map_err(Error::internal)?;
            let mut piece = Vec::new();
            file.take(PIECE).read_to_end(&mut piece).map_err(Error::internal)?;
            let changed = metadata.modified().map_err(Error::internal)?.into_std();
            let since = changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Ok((piece, metadata.len(), format!("{}-{}", metadata.len(), since.as_nanos())))
        })?;
        Ok(json!({ "data": STANDARD.encode(&piece), "size": size, "state": state }))
    })
    .await
}

pub(super) async fn write(caller: &Caller, args: Write) -> Answer {
    let bytes = STANDARD.decode(&args.data).map_err(|_| Refusal::value("data is not base64"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Refusal::value(&format!(
            "a file of the workspace may have {} MiB; use the location `temp` for more",
            MAX_FILE / 1024 / 1024
        )));
    }
    check_may_change(caller, &FilePath::parse(&args.path)?)?;
    on_disk(caller, &args.path, move |places, path| {
        places.writable()?.write(path, &bytes)?;
        places.remember_change(path);
        Ok(Value::Null)
    })
    .await
}

pub(super) async fn delete(caller: &Caller, args: One) -> Answer {
    check_may_change(caller, &FilePath::parse(&args.path)?)?;
    on_disk(caller, &args.path, |places, path| {
        let files = places.changeable()?;
        if files.entry(path)?.is_folder {
            return Err(Error::Impossible(format!("{path} is a folder")));
        }
        files.remove(path)?;
        drop(files);
        places.remember_change(path);
        Ok(Value::Null)
    })
    .await
}

/// Whether there is a file or a folder.
pub(super) async fn exists(caller: &Caller, args: One) -> Answer {
    on_disk(caller, &args.path, |places, path| match places.first(path, |files| files.entry(path)) {
        Ok(_) => Ok(true.into()),
        Err(Error::NotFound(_)) => Ok(false.into()),
        Err(error) => Err(error),
    })
    .await
}

/// Names in a folder, folders with a trailing `/`; what is hidden is left out. Of a name in several places the first counts, as
/// it does for who reads it.
pub(super) async fn list(caller: &Caller, args: Folder) -> Answer {
    on_disk(caller, &args.directory, |places, folder| {
        // Each with whether it is a folder.
        let mut names: BTreeMap<String, bool> = BTreeMap::new();
        let mut found = folder.is_root();
        let shown = |entry: &Entry| {
            let name = entry.path.name();
            (!name.starts_with('.')).then(|| (name.to_owned(), entry.is_folder))
        };
        for root in places.existing() {
            match places.open(root)?.list(folder) {
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
                Ok(entries) => {
                    found = true;
                    for (name, is_folder) in entries.iter().filter_map(shown) {
                        names.entry(name).or_insert(is_folder);
                    }
                }
            }
        }
        for changed in places.changed_in(folder).iter().filter(|changed| *changed != folder) {
            let entry = child_of(folder, changed);
            match Files::open_workspace(&places.workspace)?.entry(&entry) {
                Ok(entry) => {
                    found = true;
                    names.extend(shown(&entry));
                }
                // It was a file, and this run has removed it.
                Err(Error::NotFound(_)) => names.retain(|name, is_folder| *is_folder || name != entry.name()),
                Err(error) => return Err(error),
            }
        }
        if !found {
            return Err(Error::NotFound("folder"));
        }
        let shown = names.into_iter().map(|(name, is_folder)| if is_folder { name + "/" } else { name });
        Ok(shown.collect::<BTreeSet<_>>().into_iter().collect())
    })
    .await
}

/// Where a run's files are: read in this order. What is written goes to the organization's overlay, or to the workspace
/// in use, which may be another tree by now than the one the run is made of.
struct Places {
    roots: Vec<PathBuf>,
    /// `None`: the workspace itself.
    overlay: Option<PathBuf>,
    workspace: PathBuf,
    /// What the run has changed in another tree than the one it reads.
    changed: Arc<Mutex<BTreeSet<FilePath>>>,
}

impl Places {
    fn of(caller: &Caller) -> Result<Self, Refusal> {
        let workspace = caller.platform.settings.workspace_path.clone();
        let shared = caller.workspace.get().cloned().unwrap_or_else(|| workspace_trees::current(&workspace));
        let own: Option<OrgId> = caller.scope.owner()?;
        let overlay = own.map(|org| workspace.join(OVERLAYS).join(org.to_string()));
        let roots = overlay.iter().cloned().chain([shared]).collect();
        Ok(Self { roots, overlay, workspace, changed: caller.changed_elsewhere.clone() })
    }

    fn existing(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().filter(|root| root.is_dir())
    }

    /// Opens one of the roots.
    fn open(&self, root: &Path) -> Result<Files, Error> {
        let files = Files::open(root)?;
        let is_shared_by_all = self.overlay.as_deref().is_some_and(|overlay| overlay != root);
        Ok(if is_shared_by_all { files.without_forms() } else { files })
    }

    /// What the first place that has it gives.
    fn first<T>(&self, path: &FilePath, ask: impl Fn(&Files) -> Result<T, Error>) -> Result<T, Error> {
        let changed = self.changed_in(path);
        if !changed.contains(path) {
            for root in self.existing() {
                match ask(&self.open(root)?) {
                    Err(Error::NotFound(_)) => {}
                    other => return other,
                }
            }
        }
        // It, or something in it.
        if changed.is_empty() {
            return Err(Error::NotFound("file"));
        }
        ask(&Files::open_workspace(&self.workspace)?)
    }

    /// What is at this path or below, and was changed by the run in another tree than the one it reads.
    fn changed_in(&self, path: &FilePath) -> BTreeSet<FilePath> {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.iter().filter(|changed| changed.is_in(path)).cloned().collect()
    }

    /// Remembers what was just changed, if that was in another tree than the one the run reads. Asked for afterwards: a tree takes
    /// over what was changed in the one before it.
    fn remember_change(&self, path: &FilePath) {
        if self.overlay.is_none() && !self.roots.contains(&workspace_trees::current(&self.workspace)) {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        }
    }

    /// The place to write to. The overlay comes with its first file; nobody but us may enter the folder of overlays.
    fn writable(&self) -> Result<Files, Error> {
        if let Some(overlay) = &self.overlay {
            make_overlay(overlay)?;
        }
        self.changeable()
    }

    /// The same without making it.
    fn changeable(&self) -> Result<Files, Error> {
        match &self.overlay {
            Some(overlay) if overlay.is_dir() => Files::open(overlay),
            Some(_) => Err(Error::NotFound("file")),
            None => Files::open_workspace(&self.workspace),
        }
    }
}

/// The entry of `folder` that leads to `path`, which is below it.
fn child_of(folder: &FilePath, path: &FilePath) -> FilePath {
    let mut child = path.clone();
    while child.parent() != *folder {
        child = child.parent();
    }
    child
}

/// Code and forms of the shared workspace are for platform administrators. A path as it was read, not as it was given: `x.py/.`
/// is `x.py`.
fn check_may_change(caller: &Caller, path: &FilePath) -> Result<(), Refusal> {
    let name = path.name();
    let is_code = name.ends_with(".py") || is_form_file(name) || name == "requirements.txt";
    if is_code && caller.scope.owner()?.is_none() && !caller.scope.actor().is_platform_admin {
        return Err(Refusal {
            kind: "PermissionError",
            message: format!("only platform admins may change {name} in the shared workspace"),
        });
    }
    Ok(())
}

async fn on_disk(
    caller: &Caller,
    path: &str,
    work: impl FnOnce(&Places, &FilePath) -> Result<Value, Error> + Send + 'static,
) -> Answer {
    let (places, parsed) = (Places::of(caller)?, FilePath::parse(path)?);
    let done = tokio::task::spawn_blocking(move || work(&places, &parsed)).await.map_err(Error::internal)?;
    done.map_err(|error| match error {
        Error::NotFound(what) => {
            Refusal { kind: "FileNotFoundError", message: format!("there is no {what} {path} in workspace") }
        }
        other => other.into(),
    })
}
