//! What a platform administrator does with the files of the workspace: read, write, move, remove. Searching is in
//! `search.rs`; the disk itself in `workspace_files`.
//!
//! The invariant: one change at a time over all replicas, so what `expected_etag` was compared with is what is replaced.
//! The transaction that records a change ends after it, so whoever calls these must see them through.

use chrono::{DateTime, Utc};
use md5::{Digest, Md5};
use serde::Serialize;
use serde_json::json;

use crate::audit::{self, Action};
use crate::workspace_files::{Entry, FORM_SUFFIX, FilePath, is_form_file, on_disk};
use crate::{Db, Error, OrgScope, OrgTx, Platform, Result};

mod search;

pub use search::{Found, Match, Query, SEARCH_PATIENCE, search};

/// Largest file that is read or written.
pub const MAX_FILE: u64 = 10 * 1024 * 1024;

/// A file that was read or written.
#[derive(Debug)]
pub struct Stored {
    /// Where it is.
    pub path: FilePath,
    /// Its content.
    pub bytes: Vec<u8>,
    /// MD5 of the content, hexadecimal.
    pub etag: String,
    /// Last change.
    pub modified: DateTime<Utc>,
}

/// Why a file was not written: it is not what the writer has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// Somebody has changed it.
    ContentChanged,
    /// It is not there any more.
    PathNotFound,
}

/// Something in a folder, with what the workspace's index knows of it.
#[derive(Debug)]
pub struct Listed {
    /// What it is.
    pub entry: Entry,
    /// Whether workflows are declared in it.
    pub is_workflow: bool,
    /// Whether data providers are.
    pub is_data_provider: bool,
}

/// What is in a folder, folders first.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Impossible`] when it leads outside or is a file.
pub async fn list(platform: &Platform, path: FilePath) -> Result<Vec<Listed>> {
    let entries = on_disk(&platform.settings.workspace_path, move |files| files.list(&path)).await?;
    describe(&platform.db, entries).await
}

/// A file.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Impossible`] when it leads outside, is no file, or is too large.
pub async fn read(platform: &Platform, path: FilePath) -> Result<Stored> {
    on_disk(&platform.settings.workspace_path, move |files| {
        let content = files.read(&path, MAX_FILE)?;
        Ok(Stored { path, etag: etag(&content.bytes), bytes: content.bytes, modified: content.modified })
    })
    .await
}

/// Creates or replaces a file; with `expected` only if that is its etag.
///
/// # Errors
/// [`Error::Impossible`] when it leads outside or is a folder.
pub async fn write(
    platform: &Platform,
    scope: &OrgScope,
    path: FilePath,
    bytes: Vec<u8>,
    expected: Option<String>,
) -> Result<Result<Stored, Clash>> {
    let details = json!({"bytes": bytes.len()});
    let change = begin(platform, scope).await?;
    let resource = path.clone();
    let written = on_disk(&platform.settings.workspace_path, move |files| {
        if let Some(expected) = expected {
            match files.read(&path, MAX_FILE) {
                Ok(content) if etag(&content.bytes) == expected => {}
                Ok(_) => return Ok(Err(Clash::ContentChanged)),
                Err(Error::NotFound(_)) => return Ok(Err(Clash::PathNotFound)),
                Err(error) => return Err(error),
            }
        }
        let modified = files.write(&path, &bytes)?;
        Ok(Ok(Stored { etag: etag(&bytes), path, bytes, modified }))
    })
    .await?;
    if written.is_ok() {
        commit(change, Action::FileWritten, &resource, &details).await?;
    }
    Ok(written)
}

/// Makes a folder.
///
/// # Errors
/// [`Error::Conflict`] when something is there; [`Error::Impossible`] when it leads outside.
pub async fn create_folder(platform: &Platform, scope: &OrgScope, path: FilePath) -> Result<Listed> {
    let change = begin(platform, scope).await?;
    let resource = path.clone();
    let entry = on_disk(&platform.settings.workspace_path, move |files| {
        if !files.create_folder(&path)? {
            return Err(Error::Conflict(format!("{path} exists already")));
        }
        files.entry(&path)
    })
    .await?;
    commit(change, Action::FolderCreated, &resource, &()).await?;
    Ok(Listed { entry, is_workflow: false, is_data_provider: false })
}

/// Removes a file, or a folder with all it holds.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] when an active form has its file there, which would only come back.
pub async fn delete(platform: &Platform, scope: &OrgScope, path: FilePath) -> Result<()> {
    let mut tx = begin(platform, scope).await?;
    // Whoever makes forms and files equal waits until both have gone.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.form_files'))").execute(tx.conn()).await?;
    let of_form = sqlx::query_scalar!(
        r#"SELECT file_path AS "path!" FROM forms
           WHERE is_active AND (file_path = $1 OR starts_with(file_path, $1 || '/'))
           LIMIT 1"#,
        path.as_str(),
    )
    .fetch_optional(tx.conn())
    .await?;
    if let Some(file) = of_form {
        return Err(Error::Conflict(format!(
            "{file} is the file of a form, which would be written again; delete the form instead"
        )));
    }
    // A deleted form lets its file go, which would be written again like one that was lost.
    sqlx::query!(
        "UPDATE forms
         SET file_path = NULL, file_hash = NULL, file_is_due = FALSE
         WHERE NOT is_active AND (file_path = $1 OR starts_with(file_path, $1 || '/'))",
        path.as_str(),
    )
    .execute(tx.conn())
    .await?;
    let removed = path.clone();
    on_disk(&platform.settings.workspace_path, move |files| files.remove(&removed)).await?;
    commit(tx, Action::FileDeleted, &path, &()).await
}

/// Something in a folder as it was found, with what the index knows of it by now.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn described(platform: &Platform, entry: Entry) -> Result<Listed> {
    describe(&platform.db, vec![entry]).await?.pop().ok_or(Error::NotFound("file or folder"))
}

/// Gives a file or folder another path. Workflows, data providers and forms in it stay the same.
///
/// # Errors
/// [`Error::NotFound`], also for a link that leads nowhere; [`Error::Conflict`] when something is there; [`Error::Impossible`]
/// when it leads outside. Then nothing has changed.
pub async fn rename(platform: &Platform, scope: &OrgScope, old: FilePath, new: FilePath) -> Result<Entry> {
    let mut tx = begin(platform, scope).await?;
    // Whoever indexes the files waits until the rows have moved too.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtext('bifrost.form_files')), pg_advisory_xact_lock(hashtext('bifrost.workspace'))"
    )
    .execute(tx.conn())
    .await?;
    // What was at the new path before is gone, and only remembered: it makes room.
    sqlx::query!(
        "UPDATE workflows w
         SET function_name = '#' || w.id, is_active = FALSE, updated_at = now()
         WHERE w.organization_id IS NULL AND (w.path = $1 OR starts_with(w.path, $1 || '/'))",
        new.as_str(),
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "UPDATE workflows
         SET path = $2 || substr(path, length($1) + 1), updated_at = now()
         WHERE organization_id IS NULL AND (path = $1 OR starts_with(path, $1 || '/'))",
        old.as_str(),
        new.as_str(),
    )
    .execute(tx.conn())
    .await?;
    let forms = sqlx::query_scalar!(
        r#"UPDATE forms
           SET file_path = $2 || substr(file_path, length($1) + 1)
           WHERE file_path = $1 OR starts_with(file_path, $1 || '/')
           RETURNING file_path AS "file_path!""#,
        old.as_str(),
        new.as_str(),
    )
    .fetch_all(tx.conn())
    .await?;
    // Files of forms are known by their names, and kept from whom they are no business of.
    if !forms.iter().all(|path| path.rsplit('/').next().is_some_and(is_form_file)) {
        let text = format!("{old} is the file of a form, whose name must go on ending in {FORM_SUFFIX}");
        return Err(Error::Conflict(text));
    }
    // The rows first: what is refused there leaves the files as they are.
    let (from, to) = (old.clone(), new.clone());
    let entry = on_disk(&platform.settings.workspace_path, move |files| {
        // Before, since it may be refused: a link leads where it leads, and perhaps elsewhere from its new folder.
        let entry = files.entry(&from)?;
        files.rename(&from, &to)?;
        Ok(Entry { path: to, ..entry })
    })
    .await?;
    commit(tx, Action::FileRenamed, &old, &json!({"to": new.as_str()})).await?;
    Ok(entry)
}

/// Begins a change: alone over all replicas.
async fn begin(platform: &Platform, scope: &OrgScope) -> Result<OrgTx> {
    let mut tx = platform.db.begin(&scope.clone().widened()).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.editor'))").execute(tx.conn()).await?;
    Ok(tx)
}

/// Records a change and ends it. Only here: the disk is waited for while the tree in use is exchanged, and whoever exchanges it
/// records that too.
async fn commit(mut tx: OrgTx, action: Action, path: &FilePath, details: &impl Serialize) -> Result<()> {
    audit::record(&mut tx, action, format!("file/{path}"), details).await?;
    tx.commit().await
}

async fn describe(db: &Db, entries: Vec<Entry>) -> Result<Vec<Listed>> {
    let paths: Vec<String> =
        entries.iter().filter(|entry| !entry.is_folder).map(|entry| entry.path.to_string()).collect();
    let system = crate::SystemScope::because("the workspace belongs to the platform");
    let mut conn = db.system(&system).await?;
    let declared = sqlx::query!(
        "SELECT DISTINCT path, kind FROM workflows WHERE is_active AND organization_id IS NULL AND path = ANY ($1)",
        &paths,
    )
    .fetch_all(&mut *conn)
    .await?;
    let has = |entry: &Entry, kind: &str| {
        declared.iter().any(|row| row.path == entry.path.as_str() && row.kind == kind)
    };
    Ok(entries
        .into_iter()
        .map(|entry| Listed {
            is_workflow: has(&entry, "workflow"),
            is_data_provider: has(&entry, "data_provider"),
            entry,
        })
        .collect())
}

fn etag(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}
