//! The repository that the workspace is connected with: what administrators do with it.
//!
//! The program `git` does the work (ADR 42), and only in `program.rs` is it started. Looking is in `look.rs`; `change.rs`
//! has what stays within the repository (commit, push), `merge.rs` and `discard.rs` what changes files, `apply.rs` how they do
//! it: aside, and then all at once (ADR 43), and `paths.rs` which files cannot be there together. Connecting is in `connect.rs`, what
//! GitHub itself is asked in `github.rs`. Whose turn it is says `turn.rs`.
//!
//! The invariants: one operation at a time over all replicas; and no name, address, file or configuration of a
//! repository is ever read as an option or run as a program.

use chrono::{DateTime, Utc};

use crate::{Error, SystemScope};

mod apply;
pub mod change;
pub mod connect;
pub mod discard;
pub mod github;
pub mod look;
pub mod merge;
pub mod names;
mod paths;
mod program;
mod remote;
mod session;
pub mod store;
mod tame;
mod turn;

pub use program::version;
pub use turn::PATIENCE;

const SCOPE: SystemScope = SystemScope::because("the workspace belongs to the platform");

/// Why an operation of git has no result.
#[derive(Debug)]
pub enum Failed {
    /// For the person who asked; nothing was changed.
    Said(String),
    /// Something of the platform is away or broken.
    Broken(Error),
}

/// Result of an operation of git.
pub type Outcome<T> = Result<T, Failed>;

/// A commit as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its name.
    pub sha: String,
    /// Its message.
    pub message: String,
    /// Name of its author.
    pub author: String,
    /// When it was made.
    pub timestamp: DateTime<Utc>,
    /// Whether the repository on the server has it, as far as was seen at the last fetch or push.
    pub is_pushed: bool,
}

/// A file that both sides have changed, or whose place is a folder on one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where it is.
    pub path: String,
    /// As it is here; empty if it was deleted or is a folder.
    pub current: String,
    /// As it comes; empty if it was deleted there or is a folder.
    pub incoming: String,
    /// As it was when both began.
    pub base: Option<String>,
}

impl Failed {
    fn said(words: impl Into<String>) -> Self {
        Self::Said(words.into())
    }
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// What the disk says, as everybody else may hear it.
fn disk(source: std::io::Error) -> Failed {
    if source.kind() == std::io::ErrorKind::FileTooLarge {
        return Failed::said(source.to_string());
    }
    Failed::Broken(Error::Unavailable { service: "the disk of the workspace", source: source.into() })
}

/// Works on the disk on a thread that may wait for it.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Outcome<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?.map_err(disk)
}
