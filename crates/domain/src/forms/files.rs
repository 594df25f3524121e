//! Forms as files of the workspace, in both directions (ADR 31).
//!
//! A row that has changed is written to its file; a file that somebody else has changed is read into its row. The row says
//! which of the two is newer: `file_is_due` means that the file has yet to follow, and `file_hash` is what the file held
//! when both were the same. So neither direction answers the other's writing.
//!
//! The invariant: both directions hold one lock from the look at the rows to the last file, and a due row is never
//! overwritten by its file.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::id::FormId;
use crate::workspace_files::on_disk;
use crate::{Db, Platform, Result, SystemScope, SystemTx};

mod export;
mod import;
mod parse;

use import::{Imported, Plan};
use parse::Fault;

const SCOPE: SystemScope = SystemScope::because("the workspace belongs to the platform");

/// What a look at the files did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Files written or renamed.
    pub written: usize,
    /// Files read into rows.
    pub imported: usize,
    /// Files that cannot be read into rows.
    pub problems: usize,
}

/// Writes the file of one form, if it has to follow; gives the path of the file.
///
/// # Errors
/// [`crate::Error::Unavailable`] when the workspace or PostgreSQL is away; the file still has to follow then.
pub async fn write(platform: &Platform, id: FormId) -> Result<Option<String>> {
    let mut tx = begin(&platform.db).await?;
    export::write_due(&mut tx, platform.settings.workspace_path.clone(), Some(id)).await?;
    let path = sqlx::query_scalar!("SELECT file_path FROM forms WHERE id = $1", id as _)
        .fetch_optional(tx.conn())
        .await?;
    tx.commit().await?;
    Ok(path.flatten())
}

/// Whether a row waits for its file.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn is_any_due(db: &Db) -> Result<bool> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM forms WHERE file_is_due) AS "is!""#)
        .fetch_one(&mut *conn)
        .await?)
}

/// Makes rows and files equal. A file that cannot be read is a problem of the workspace and holds no other up; one that
/// is gone comes back, since a lost file must not lose a form.
///
/// # Errors
/// [`crate::Error::Unavailable`] when the workspace or PostgreSQL is away.
pub async fn sync(platform: &Platform) -> Result<Synced> {
    let root = platform.settings.workspace_path.clone();
    let mut tx = begin(&platform.db).await?;
    let mut synced =
        Synced { written: export::write_due(&mut tx, root.clone(), None).await?, ..Synced::default() };
    // The rows first: whatever is due from here on is none of the files read after it.
    let rows = import::known(&mut tx).await?;
    let files = on_disk(&root, import::read_all).await?;
    let (mut problems, mut imported) = (Vec::new(), Vec::<Imported>::new());
    let mut plan = Plan::new(rows, &files);
    for file in &files {
        match plan.import(&mut tx, file).await? {
            Ok(changed) => imported.extend(changed),
            Err(fault) => problems.push((file.path.to_string(), fault)),
        }
    }
    let lost: Vec<Uuid> = plan.lost();
    if !lost.is_empty() {
        sqlx::query!("UPDATE forms SET file_is_due = TRUE WHERE id = ANY ($1)", &lost)
            .execute(tx.conn())
            .await?;
    }
    let misnamed: Vec<_> = imported.iter_mut().filter_map(|one| one.misnamed.take()).collect();
    // Also those that say less or something else than their rows.
    if !lost.is_empty() || !imported.is_empty() {
        synced.written += export::write_due(&mut tx, root.clone(), None).await?;
    }
    if !misnamed.is_empty() {
        synced.written += export::rename(&mut tx, root, misnamed).await?;
    }
    (synced.imported, synced.problems) = (imported.len(), problems.len());
    replace_problems(&mut tx, problems).await?;
    // Last: whoever changes a form through the API holds its row while they wait for the log.
    import::record(&mut tx, imported).await?;
    tx.commit().await?;
    Ok(synced)
}

async fn begin(db: &Db) -> Result<SystemTx> {
    let mut tx = db.begin_system(&SCOPE).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.form_files'))").execute(tx.conn()).await?;
    Ok(tx)
}

async fn replace_problems(tx: &mut SystemTx, problems: Vec<(String, Fault)>) -> Result<()> {
    let (mut paths, mut lines, mut messages) = (vec![], vec![], vec![]);
    for (path, fault) in problems {
        paths.push(path);
        lines.push(i32::try_from(fault.line).unwrap_or(i32::MAX));
        messages.push(fault.message);
    }
    sqlx::query!("DELETE FROM workspace_problems WHERE source = 'form'").execute(tx.conn()).await?;
    sqlx::query!(
        "INSERT INTO workspace_problems (path, line, severity, message, hint, source)
         SELECT path, line, 'error', message, 'the form stays as it was until the file can be read', 'form'
         FROM UNNEST($1::text[], $2::int[], $3::text[]) AS p (path, line, message)",
        &paths,
        &lines,
        &messages,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
