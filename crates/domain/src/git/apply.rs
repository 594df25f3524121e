//! How files change: a new tree is built beside the one in use, and takes its place at once (ADR 43).
//!
//! The invariant: whatever fails, fails before the exchange, and then nothing has changed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::look::Version;
use super::paths::{Paths, upwards};
use super::program::Git;
use super::session::Session;
use super::{Failed, Outcome, disk, on_thread, store};
use crate::audit::{self, Action};
use crate::workspace_trees::{self, Building, Tree};

/// How often somebody may save a file meanwhile before we give up.
const TRIES: usize = 5;
/// Names of files that a refusal lists.
const NAMED: usize = 5;

/// A folder of what the interpreter makes of code: it comes again by itself.
const COMPILED: &str = "__pycache__";

/// A merge to begin.
#[derive(Debug)]
pub(super) struct Begun {
    /// The commit that comes.
    pub(super) theirs: String,
    /// Files that are written, so that somebody can decide on them.
    pub(super) brought: Vec<(String, Version)>,
}

/// What is to become of the files and the branch.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The commit that the files are of; `None`: of none yet.
    pub(super) from: Option<String>,
    /// The commit whose files they become; `None`: those they are of.
    pub(super) to: Option<String>,
    /// Files whose present state is part of `to`, as git has their paths.
    pub(super) taken: Vec<Vec<u8>>,
    /// Files that become what the last commit has, or go.
    pub(super) restored: Vec<String>,
    /// A merge that begins.
    pub(super) begins: Option<Begun>,
    /// Whether a merge in progress ends.
    pub(super) ends_merge: bool,
}

/// Carries a step out, and writes it down.
pub(super) async fn apply(
    session: &Session,
    step: &Step,
    action: Action,
    details: &(impl Serialize + Sync),
) -> Outcome<Tree> {
    let root = &session.platform.settings.workspace_path;
    for _ in 0..TRIES {
        let (folder, old) = (root.clone(), session.tree.clone());
        let (seen, building) = on_thread(move || {
            let building = Building::begin(&folder)?;
            let seen = old.look()?;
            building.copy_files(&old)?;
            building.copy_repository(&old)?;
            Ok((seen, building))
        })
        .await?;
        let git = Git::open(&building.tree(), Some(&session.turn)).await?.of(session.scope.actor());
        carry_out(&git, &building.tree(), session, step).await?;
        let old = session.tree.clone();
        let ready = on_thread(move || {
            building.finish()?;
            building.lock(&old, Some(&seen))
        })
        .await?;
        let Some(ready) = ready else { continue };
        let mut tx = session.record().await?;
        if matches!(action, Action::GitPulled | Action::GitMergeBegun) {
            store::set_synced(&mut tx).await?;
        }
        audit::record(&mut tx, action, "git", details).await?;
        let tree = ready.switch().map_err(disk)?;
        tx.commit().await?;
        collect(session).await;
        return Ok(tree);
    }
    Err(Failed::said("files of the workspace are being saved all the time; try again"))
}

async fn carry_out(git: &Git, tree: &Tree, session: &Session, step: &Step) -> Outcome<()> {
    // Copies have other inodes than the index knows. What really differs is not an error here.
    git.call(["update-index", "-q", "--ignore-submodules", "--refresh"]).run().await?;
    let mut from = step.from.clone();
    if !step.taken.is_empty() {
        take(git, tree, None, &step.taken).await?;
        // From here on: in the last commit a folder may be where a file was taken, which would be in its way.
        from = Some(git.ask(["write-tree"]).await?);
    }
    if !step.restored.is_empty() {
        restore(git, tree, &step.restored).await?;
    }
    if let Some(to) = &step.to {
        let empty = git.ask(["hash-object", "-t", "tree", "--stdin"]).await?;
        let from = from.as_ref().unwrap_or(&empty);
        refuse_overwriting(unknown_in_the_way(git, tree, from, to).await?)?;
        let answer = git.call(["read-tree", "-m", "-u", from, to]).run().await?;
        if answer.code != 0 {
            return Err(in_the_way(&answer.errors).unwrap_or_else(|| answer.failed(git, None)));
        }
        git.ask(["update-ref", &session.branch.local(), to]).await?;
    }
    if let Some(begun) = &step.begins {
        begin_merge(git, begun).await?;
    }
    if step.ends_merge {
        let head = git.folder().join("MERGE_HEAD");
        on_thread(move || std::fs::remove_file(head)).await?;
    }
    Ok(())
}

/// Takes the present state of files into an index; `None`: that of the tree. Where the index has no such file but a folder is, there
/// is nothing to take.
pub(super) async fn take(git: &Git, tree: &Tree, index: Option<&Path>, paths: &[Vec<u8>]) -> Outcome<()> {
    let index = index.map(Path::to_owned);
    let known = git.call(["ls-files", "-z", "--cached"]).index(index.clone()).done().await?.output;
    let (files, mut paths) = (tree.files.clone(), paths.to_vec());
    let paths = on_thread(move || {
        let known: HashSet<&[u8]> = known.split(|byte| *byte == 0).collect();
        let is_folder = |path: &[u8]| {
            let place = files.join(OsStr::from_bytes(path));
            place.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
        };
        paths.retain(|path| known.contains(path.as_slice()) || !is_folder(path));
        Ok(paths)
    })
    .await?;
    git.call(["update-index", "--add", "--remove", "--replace", "-z", "--stdin"])
        .index(index)
        .paths(&paths)
        .done()
        .await?;
    Ok(())
}

/// Puts versions of files into an index.
pub(super) async fn put(git: &Git, index: &Path, versions: &[(String, Version)]) -> Outcome<()> {
    let line = |(path, version): &(String, Version)| format!("{} {}\t{path}\0", version.mode, version.blob);
    let lines: String = versions.iter().map(line).collect();
    git.call(["update-index", "-z", "--index-info"]).index(index.to_owned()).input(lines).done().await?;
    Ok(())
}

async fn begin_merge(git: &Git, begun: &Begun) -> Outcome<()> {
    let index = git.folder().join("merge.index");
    if !begun.brought.is_empty() {
        git.call(["read-tree", "--empty"]).index(index.clone()).done().await?;
        put(git, &index, &begun.brought).await?;
        git.call(["checkout-index", "--all"]).index(index.clone()).done().await?;
        on_thread(move || std::fs::remove_file(index)).await?;
    }
    let (head, line) = (git.folder().join("MERGE_HEAD"), format!("{}\n", begun.theirs));
    // After the files: what is no newer than this was not saved since.
    on_thread(move || std::fs::write(head, line)).await
}

async fn restore(git: &Git, tree: &Tree, paths: &[String]) -> Outcome<()> {
    let known: HashSet<String> = git.list(["ls-files", "-z", "--cached"]).await?.into_iter().collect();
    let (known, strange): (Vec<String>, Vec<String>) =
        paths.iter().cloned().partition(|path| known.contains(path));
    let files = tree.files.clone();
    // First, since they may be where a file or its folder belongs.
    on_thread(move || {
        let files = cap_std::fs::Dir::open_ambient_dir(files, cap_std::ambient_authority())?;
        strange.iter().try_for_each(|path| remove(&files, path))
    })
    .await?;
    git.call(["checkout-index", "--force", "-z", "--stdin"]).paths(&known).done().await?;
    Ok(())
}

/// Removes a file, and the folders that hold nothing any more.
fn remove(files: &cap_std::fs::Dir, path: &str) -> io::Result<()> {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};

    match files.remove_file(path) {
        Ok(()) => {
            let is_empty = |folder: &str| files.remove_dir(folder).is_ok();
            upwards(path).skip(1).take_while(|folder| is_empty(folder)).for_each(drop);
            Ok(())
        }
        Err(error) if matches!(error.kind(), IsADirectory | NotADirectory | NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Files that git does not know, where the change from one tree of git to another puts others. It asks for those that are not ignored
/// itself, but takes those that `.gitignore` names for worthless.
pub(super) async fn unknown_in_the_way(git: &Git, tree: &Tree, from: &str, to: &str) -> Outcome<Vec<String>> {
    let added =
        git.list(["diff", "--name-only", "-z", "--no-renames", "--diff-filter=A", from, to, "--"]).await?;
    let known: Paths = git.list(["ls-files", "-z", "--cached"]).await?.into_iter().collect();
    let files = tree.files.clone();
    on_thread(move || {
        let mut found = Vec::new();
        for path in &added {
            add_unknown(&files, path, &known, &mut found)?;
        }
        found.retain(|path| !path.split('/').any(|part| part == COMPILED));
        Ok(found)
    })
    .await
}

/// Adds the files that have to go for one at `path`: what is there, or in the place of one of its folders, or in the folder there.
fn add_unknown(files: &Path, path: &str, known: &Paths, found: &mut Vec<String>) -> io::Result<()> {
    let mut way: Vec<&str> = upwards(path).collect();
    way.reverse();
    for part in way {
        match files.join(part).symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                if !known.has(part) {
                    found.push(part.to_owned());
                }
                return Ok(());
            }
            // What is not there is in nobody's way; where nobody can look, git cannot write either.
            Err(_) => return Ok(()),
        }
    }
    let here = files_in(&files.join(path))?;
    let here = here.iter().filter_map(|file| file.strip_prefix(files).ok());
    found.extend(here.map(|path| path.to_string_lossy().into_owned()).filter(|path| !known.has(path)));
    Ok(())
}

/// Whether nothing is at a place but folders without files.
pub(super) fn is_free(place: &Path) -> io::Result<bool> {
    match place.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(files_in(place)?.is_empty()),
        Ok(_) => Ok(false),
        Err(_) => Ok(true),
    }
}

/// All files in a folder, those of its folders too.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
}

/// Names the files that git will not overwrite; `None` when it is about something else.
fn in_the_way(errors: &str) -> Option<Failed> {
    let quoted = |line: &str| {
        let is_it = ["not uptodate", "would be overwritten", "would be removed", "would lose untracked"];
        is_it
            .iter()
            .any(|sign| line.contains(sign))
            .then(|| line.split('\'').nth(1).map(ToOwned::to_owned))?
    };
    let names: Vec<String> = errors.lines().filter_map(quoted).collect();
    (!names.is_empty()).then(|| overwrites(&names))
}

/// Refuses what would overwrite files, if there are any.
pub(super) fn refuse_overwriting(mut names: Vec<String>) -> Outcome<()> {
    names.sort();
    names.dedup();
    if names.is_empty() { Ok(()) } else { Err(overwrites(&names)) }
}

/// The refusal that names them.
fn overwrites(names: &[String]) -> Failed {
    let shown: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Failed::said(format!(
        "this would overwrite uncommitted changes of {}{more}; commit them or undo them first",
        shown.join(", ")
    ))
}

/// Removes trees that nobody needs any more. What cannot be removed is removed the next time.
async fn collect(session: &Session) {
    let root = session.platform.settings.workspace_path.clone();
    let backup = session.connection.backup.clone();
    if let Err(error) = on_thread(move || workspace_trees::collect(&root, backup.as_deref())).await {
        tracing::warn!(?error, "cannot remove old trees of the workspace");
    }
}
