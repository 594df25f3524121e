//! Folders as archives: files, folders and links, with their modes and without their owners.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::trees::{self, Link};

type Builder = tar::Builder<GzEncoder<File>>;

/// Writes everything in `folder` into `archive`. Files may come and go meanwhile; one that gets shorter while it is
/// read fails the whole.
pub(super) fn pack(folder: &Path, archive: &Path) -> io::Result<()> {
    let mut builder = begin(archive)?;
    append(&mut builder, folder, Path::new(""), &|_: &Path| false)?;
    finish(builder)
}

/// The same for a workspace: the tree in use is the one that was when it began, and trees that are being built are
/// left out.
pub(super) fn pack_workspace(workspace: &Path, archive: &Path) -> io::Result<()> {
    // Before the trees are listed: a pull that exchanges the tree meanwhile would name one that is not in the list.
    let link = Link::read(workspace)?;
    pack_with(workspace, archive, link.as_ref())
}

/// [`pack_workspace`] with the link as it was read before.
pub(super) fn pack_with(workspace: &Path, archive: &Path, link: Option<&Link>) -> io::Result<()> {
    let mut builder = begin(archive)?;
    append(&mut builder, workspace, Path::new(""), &trees::is_passed_over)?;
    if let Some(link) = link {
        link.append(&mut builder)?;
    }
    finish(builder)
}

fn begin(archive: &Path) -> io::Result<Builder> {
    let encoder = GzEncoder::new(File::create_new(archive)?, Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    builder.follow_symlinks(false);
    Ok(builder)
}

fn finish(builder: Builder) -> io::Result<()> {
    builder.into_inner()?.finish()?.sync_all()
}

/// Says of a name below the root whether it is passed over.
type PassOver<'a> = &'a dyn Fn(&Path) -> bool;

fn append(builder: &mut Builder, root: &Path, below: &Path, pass_over: PassOver<'_>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(root.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        if pass_over(&name) {
            continue;
        }
        match append_one(builder, root, &name, pass_over) {
            // It went away since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn append_one(builder: &mut Builder, root: &Path, name: &Path, pass_over: PassOver<'_>) -> io::Result<()> {
    let path = root.join(name);
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_dir() {
        builder.append_dir(name, path)?;
        append(builder, root, name, pass_over)
    } else if kind.is_symlink() {
        builder.append_path_with_name(path, name)
    } else if kind.is_file() {
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        let mut content = file.take(metadata.len());
        builder.append_data(&mut header, name, &mut content)?;
        if content.limit() > 0 {
            let changed = format!("{} got shorter while it was read; try again", path.display());
            return Err(io::Error::other(changed));
        }
        Ok(())
    } else {
        Ok(()) // sockets and pipes are of processes, not of files
    }
}

/// Whether nothing would be lost if files were put there.
pub(super) fn is_free(folder: &Path) -> io::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Puts the content of `archive` into `folder`. No entry of it gets out of the folder.
pub(super) fn unpack(archive: &Path, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive)?));
    archive.set_preserve_permissions(true);
    archive.unpack(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        let long = format!("deep/{}/{}", "a".repeat(120), "b".repeat(120));
        std::fs::create_dir_all(from.join(&long)).unwrap();
        std::fs::create_dir(from.join("empty")).unwrap();
        std::fs::write(from.join(&long).join("grüße.py"), "print('hello')\n").unwrap();
        std::fs::set_permissions(from.join("empty"), std::fs::Permissions::from_mode(0o750)).unwrap();
        symlink("../elsewhere", from.join("link")).unwrap();
        std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();

        pack(&from, &scratch.path().join("archive")).unwrap();
        assert!(is_free(&to).unwrap() && !is_free(&from).unwrap());
        unpack(&scratch.path().join("archive"), &to).unwrap();

        let text = std::fs::read_to_string(to.join(&long).join("grüße.py")).unwrap();
        assert_eq!(text, "print('hello')\n");
        assert_eq!(std::fs::metadata(to.join("empty")).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("../elsewhere"));
        assert!(!to.join("socket").exists());
    }
}
