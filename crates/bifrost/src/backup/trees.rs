//! The trees of a workspace in an archive (ADR 43): the link to the one in use, and whether it leads to a tree.
//!
//! The invariant: what the link names in an archive is in that archive, whatever is exchanged while it is written.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use domain::workspace_trees::TREES;
use flate2::read::GzDecoder;
use uuid::Uuid;

/// The link to the tree in use.
const CURRENT: &str = "current";
/// Begins the name of what is being built.
const BUILDING: &[u8] = b"building-";

/// The link to the tree in use, as it was at one moment.
#[derive(Debug)]
pub(super) struct Link {
    target: PathBuf,
    metadata: Metadata,
}

impl Link {
    /// Reads it, if there is one. What it names stays: trees are kept for longer than a backup takes.
    pub(super) fn read(workspace: &Path) -> io::Result<Option<Self>> {
        let trees = workspace.join(TREES);
        let path = trees.join(CURRENT);
        let looked = || -> io::Result<Option<Self>> {
            // Trees that lie elsewhere, behind a link, are not packed, and neither is what leads to one of them.
            let is_folder = trees.symlink_metadata()?.is_dir();
            let link = Self { target: std::fs::read_link(&path)?, metadata: path.symlink_metadata()? };
            Ok(is_folder.then_some(link))
        };
        let link = match looked() {
            Ok(link) => link,
            Err(error) => match error.kind() {
                // Nothing is there, or something that is no link, which Bifrost does not look at either.
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput => None,
                _ => return Err(error),
            },
        };
        let files = link.as_ref().and_then(|link| files_of(&link.target));
        match files {
            Some(files) if !workspace.join(&files).is_dir() => Err(io::Error::other(format!(
                "{} names a tree that is not there; point it at one that is, or remove it",
                path.display()
            ))),
            _ => Ok(link),
        }
    }

    /// Writes it as it was.
    pub(super) fn append<W: Write>(&self, builder: &mut tar::Builder<W>) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&self.metadata);
        builder.append_link(&mut header, Path::new(TREES).join(CURRENT), &self.target)
    }
}

/// Whether the walk through a workspace passes over this: the link, which is written as it was before the walk, and what
/// is not finished.
pub(super) fn is_passed_over(name: &Path) -> bool {
    let is_in_trees = name.parent() == Some(Path::new(TREES));
    is_in_trees
        && name
            .file_name()
            .is_some_and(|name| name == CURRENT || name.as_encoded_bytes().starts_with(BUILDING))
}

/// What is wrong with the trees in an archive of a workspace.
pub(super) fn fault(archive: &Path) -> Option<String> {
    match missing(archive) {
        Ok(None) => None,
        Ok(Some(tree)) => Some(format!(
            "its {TREES}/{CURRENT} names the tree {tree}, which is not in it: nothing would run; take another backup"
        )),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

/// The tree that the link in an archive names, if it is not in the archive.
fn missing(archive: &Path) -> io::Result<Option<String>> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive)?));
    let (link, mut trees, mut target) = (Path::new(TREES).join(CURRENT), BTreeSet::new(), None);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?;
        if *path == link {
            target = entry.link_name()?.map(|target| target.into_owned());
        } else if path.starts_with(TREES) && path.components().count() == 3 {
            trees.insert(path.into_owned());
        }
    }
    // The link may come before the tree.
    let Some(target) = target else { return Ok(None) };
    let is_missing = files_of(&target).is_some_and(|files| !trees.contains(&files));
    Ok(is_missing.then(|| target.display().to_string()))
}

/// Where the files of the tree are that a link with this target names, in the workspace. Bifrost follows no other target.
fn files_of(target: &Path) -> Option<PathBuf> {
    let id = Uuid::parse_str(target.to_str()?).ok()?;
    Some(Path::new(TREES).join(id.to_string()).join("files"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::folders::{pack, pack_with, pack_workspace, unpack};
    use super::*;

    const OLD: &str = "01990000-0000-7000-8000-000000000001";
    const NEW: &str = "01990000-0000-7000-8000-000000000002";

    fn workspace(trees: &[&str]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        for tree in trees {
            add(scratch.path(), tree);
        }
        scratch
    }

    fn add(workspace: &Path, tree: &str) {
        let files = workspace.join("from").join(TREES).join(tree).join("files");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("workflows.py"), tree).unwrap();
    }

    /// Puts a tree in use, as Bifrost does.
    fn switch(workspace: &Path, tree: &str) {
        let trees = workspace.join("from").join(TREES);
        symlink(tree, trees.join("building-link")).unwrap();
        std::fs::rename(trees.join("building-link"), trees.join(CURRENT)).unwrap();
    }

    #[test]
    fn a_tree_that_comes_into_use_while_a_workspace_is_packed_is_not_the_one_in_use_in_the_archive() {
        let scratch = workspace(&[OLD, "building-it"]);
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        let archive = scratch.path().join("archive");
        switch(scratch.path(), OLD);

        let link = Link::read(&from).unwrap();
        // That the new tree is gone again stands for one that is not in the list.
        add(scratch.path(), NEW);
        switch(scratch.path(), NEW);
        std::fs::remove_dir_all(from.join(TREES).join(NEW)).unwrap();
        pack_with(&from, &archive, link.as_ref()).unwrap();

        assert_eq!(fault(&archive), None);
        unpack(&archive, &to).unwrap();
        let trees = to.join(TREES);
        assert_eq!(std::fs::read_link(trees.join(CURRENT)).unwrap(), Path::new(OLD));
        assert_eq!(std::fs::read_to_string(trees.join("current/files/workflows.py")).unwrap(), OLD);
        assert!(!trees.join("building-it").exists(), "what was not finished came along");
    }

    #[test]
    fn a_first_tree_that_comes_while_a_workspace_is_packed_is_not_in_use_in_the_archive() {
        let scratch = workspace(&[]);
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        let archive = scratch.path().join("archive");
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("workflows.py"), "mine").unwrap();

        let link = Link::read(&from).unwrap();
        add(scratch.path(), NEW);
        switch(scratch.path(), NEW);
        pack_with(&from, &archive, link.as_ref()).unwrap();

        assert_eq!(fault(&archive), None);
        unpack(&archive, &to).unwrap();
        assert!(to.join(TREES).join(CURRENT).symlink_metadata().is_err());
        assert_eq!(std::fs::read_to_string(to.join("workflows.py")).unwrap(), "mine");
    }

    #[test]
    fn a_link_to_a_tree_that_is_not_there_is_neither_packed_nor_passed() {
        let scratch = workspace(&[OLD]);
        let (from, archive) = (scratch.path().join("from"), scratch.path().join("archive"));
        switch(scratch.path(), NEW);

        let refused = pack_workspace(&from, &scratch.path().join("none")).unwrap_err().to_string();
        assert!(refused.contains("names a tree that is not there"), "{refused}");

        // As a folder that is no workspace it is packed as it is.
        pack(&from, &archive).unwrap();
        let fault = fault(&archive).unwrap();
        assert!(fault.contains(NEW) && fault.contains("not in it"), "{fault}");
        switch(scratch.path(), OLD);
        std::fs::remove_file(&archive).unwrap();
        pack(&from, &archive).unwrap();
        assert_eq!(super::fault(&archive), None);
    }
}
