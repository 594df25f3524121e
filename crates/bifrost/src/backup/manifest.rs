//! What a backup consists of: a folder with its pieces, and a manifest that is written last.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, USAGE};

/// The archive that PostgreSQL's own tools write and read.
pub(super) const DATABASE: &str = "database.dump";
/// The workflow files.
pub(super) const WORKSPACE: &str = "workspace.tar.gz";
/// What users uploaded for forms.
pub(super) const UPLOADS: &str = "uploads.tar.gz";

const FILE: &str = "manifest.json";
/// Rises when an older Bifrost could no longer restore what a newer one wrote.
const FORMAT: u32 = 1;

/// What is written beside the pieces.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Version of the Bifrost that made it.
    pub(super) bifrost: String,
    /// Newest migration of the database.
    pub(super) schema: i64,
    /// Version of the PostgreSQL it came from.
    pub(super) postgres: String,
    /// Executions that were answered for by then are in it.
    pub(super) created_at: DateTime<Utc>,
    pub(super) pieces: Vec<Piece>,
}

/// A file of a backup.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// In lower-case hexadecimal digits.
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn new(schema: i64, postgres: String, created_at: DateTime<Utc>, pieces: Vec<Piece>) -> Self {
        let bifrost = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, bifrost, schema, postgres, created_at, pieces }
    }

    pub(super) fn write(&self, backup: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        text.push('\n');
        std::fs::write(backup.join(FILE), text)
    }

    /// Reads it; the pieces are not looked at.
    pub(super) fn read(backup: &Path) -> Result<Self, Failure> {
        let file = backup.join(FILE);
        let no_backup = |why: &dyn std::fmt::Display| {
            Failure::new(format!("{} is no backup: {FILE}: {why}", backup.display()))
                .next("name the folder that `bifrost backup create` made")
                .code(USAGE)
        };
        let text = std::fs::read(&file).map_err(|error| no_backup(&error))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| no_backup(&error))?;
        if manifest.format > FORMAT {
            return Err(Failure::new(format!(
                "this backup was made by Bifrost {}, in a format that this one does not know",
                manifest.bifrost
            ))
            .next("use that Bifrost, or a newer one")
            .code(USAGE));
        }
        Ok(manifest)
    }

    /// The file of a piece, if the backup has it.
    pub(super) fn file(&self, backup: &Path, name: &str) -> Option<PathBuf> {
        self.pieces.iter().any(|piece| piece.name == name).then(|| backup.join(name))
    }

    /// What is wrong with each piece; `None` for one that is as it was written.
    pub(super) fn check(&self, backup: &Path) -> Vec<(&Piece, Option<String>)> {
        let fault = |piece: &Piece| match Piece::of(backup, &piece.name) {
            Err(error) => Some(error.to_string()),
            Ok(found) if found.bytes != piece.bytes => {
                Some(format!("has {} bytes and not {}", found.bytes, piece.bytes))
            }
            Ok(found) if found != *piece => Some("its content is not what was written".to_owned()),
            Ok(_) => None,
        };
        self.pieces.iter().map(|piece| (piece, fault(piece))).collect()
    }
}

impl Piece {
    /// Reads the file, which also tells that it can be read back.
    pub(super) fn of(backup: &Path, name: &str) -> std::io::Result<Self> {
        let mut file = File::open(backup.join(name))?;
        let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => {
                    digest.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        Ok(Self { name: name.to_owned(), bytes, sha256: hex::encode(digest.finalize()) })
    }
}
