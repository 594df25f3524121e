//! What goes over the wire about the repository of the workspace.

use chrono::Utc;
use domain::git::look::{Change, Changed, History, Status};
use domain::git::store::Connection;
use domain::git::{Commit, Conflict};
use serde::Serialize;
use utoipa::ToSchema;

use crate::extract::time;

/// How a file differs from the last commit: modified, added, deleted, unknown to git (`U`), conflicting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(super) enum GitFileStatus {
    M,
    A,
    D,
    U,
    C,
}

/// A changed file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"path": "ops/cleanup.py", "status": "M", "additions": 3, "deletions": 1}))]
pub(super) struct FileChange {
    path: String,
    status: GitFileStatus,
    /// New lines, in text that git knows.
    additions: Option<i64>,
    /// Lines that are gone.
    deletions: Option<i64>,
}

/// A file that both sides have changed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "file_path": "ops/cleanup.py", "current_content": "DAYS = 7\n", "incoming_content": "DAYS = 14\n",
    "base_content": "DAYS = 30\n",
}))]
pub(super) struct ConflictInfo {
    file_path: String,
    /// As it is here; empty if it was deleted.
    current_content: String,
    /// As it is on the server; empty if it was deleted.
    incoming_content: String,
    /// As both began with it.
    base_content: Option<String>,
}

/// A commit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "sha": "1c002dd4b536e7479fe34593e72e6c6c1819e53b", "message": "Clean up weekly", "author": "Ada Lovelace",
    "timestamp": "2026-11-26T09:30:00Z", "is_pushed": true,
}))]
pub(super) struct CommitInfo {
    sha: String,
    message: String,
    author: String,
    timestamp: String,
    /// Whether the server has it, as far as was seen at the last fetch or push.
    is_pushed: bool,
}

/// The state of the repository.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GitRefreshStatusResponse {
    /// `false`: `error` says why.
    success: bool,
    /// Whether the workspace has the repository.
    initialized: bool,
    /// Whether a repository is connected.
    configured: bool,
    current_branch: Option<String>,
    changed_files: Vec<FileChange>,
    conflicts: Vec<ConflictInfo>,
    /// Whether a merge is in progress.
    #[schema(default = false, required = false)]
    merging: bool,
    /// Commits that the server does not have.
    #[schema(default = 0, required = false)]
    commits_ahead: i64,
    /// Commits of the server that are not here.
    #[schema(default = 0, required = false)]
    commits_behind: i64,
    /// The latest 20 commits.
    commit_history: Vec<CommitInfo>,
    /// When something was last fetched or pushed; if that never was, when this was asked.
    last_synced: String,
    error: Option<String>,
}

/// A part of the history.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommitHistoryResponse {
    commits: Vec<CommitInfo>,
    total_commits: i64,
    /// Whether there are older ones.
    has_more: bool,
}

/// The conflicts of a merge in progress.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Conflicts {
    conflicts: Vec<ConflictInfo>,
    count: usize,
}

/// What is connected.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "configured": true, "token_saved": true, "repo_url": "https://github.com/acme/flows.git", "branch": "main",
    "backup_path": ".",
}))]
pub(super) struct GitHubConfigResponse {
    /// Whether a repository is connected.
    configured: bool,
    /// Whether there is a token.
    #[schema(default = false, required = false)]
    token_saved: bool,
    repo_url: Option<String>,
    branch: Option<String>,
    /// Where the files are that were replaced, relative to the folder of the workspace on the server; `.`: the folder itself.
    backup_path: Option<String>,
}

impl From<Changed> for FileChange {
    fn from(changed: Changed) -> Self {
        Self {
            path: changed.path,
            status: match changed.change {
                Change::Modified => GitFileStatus::M,
                Change::Added => GitFileStatus::A,
                Change::Deleted => GitFileStatus::D,
                Change::Untracked => GitFileStatus::U,
                Change::Conflicted => GitFileStatus::C,
            },
            additions: changed.additions,
            deletions: changed.deletions,
        }
    }
}

impl From<Conflict> for ConflictInfo {
    fn from(conflict: Conflict) -> Self {
        Self {
            file_path: conflict.path,
            current_content: conflict.current,
            incoming_content: conflict.incoming,
            base_content: conflict.base,
        }
    }
}

impl From<Commit> for CommitInfo {
    fn from(commit: Commit) -> Self {
        Self {
            sha: commit.sha,
            message: commit.message,
            author: commit.author,
            timestamp: time::text(commit.timestamp),
            is_pushed: commit.is_pushed,
        }
    }
}

impl From<Vec<Conflict>> for Conflicts {
    fn from(conflicts: Vec<Conflict>) -> Self {
        let conflicts: Vec<ConflictInfo> = all(conflicts);
        Self { count: conflicts.len(), conflicts }
    }
}

impl From<Status> for GitRefreshStatusResponse {
    fn from(status: Status) -> Self {
        Self {
            success: true,
            initialized: status.is_initialized,
            configured: status.connection.repo_url.is_some(),
            current_branch: status.branch,
            changed_files: all(status.changes),
            conflicts: all(status.conflicts),
            merging: status.is_merging,
            commits_ahead: status.ahead,
            commits_behind: status.behind,
            commit_history: all(status.history),
            last_synced: time::text(status.connection.last_synced_at.unwrap_or_else(Utc::now)),
            error: None,
        }
    }
}

impl GitRefreshStatusResponse {
    /// Nothing but why there is nothing.
    pub(super) fn failed(words: String) -> Self {
        Self::from(Status::default()).because(words)
    }

    /// The same state, and why an operation has failed.
    pub(super) fn because(self, words: String) -> Self {
        Self { success: false, error: Some(words), ..self }
    }
}

impl CommitHistoryResponse {
    /// A page of the history that begins at `offset`.
    pub(super) fn new(history: History, offset: i64) -> Self {
        let until = offset.saturating_add(i64::try_from(history.commits.len()).unwrap_or(i64::MAX));
        Self { has_more: until < history.total, total_commits: history.total, commits: all(history.commits) }
    }
}

impl From<Connection> for GitHubConfigResponse {
    fn from(connection: Connection) -> Self {
        Self {
            configured: connection.repo_url.is_some(),
            token_saved: connection.has_token,
            repo_url: connection.repo_url,
            branch: connection.branch,
            backup_path: connection.backup,
        }
    }
}

pub(super) fn all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(Into::into).collect()
}
