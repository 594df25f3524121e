//! What the last indexing found wrong, file by file.

use serde::{Deserialize, Serialize};

use super::Index;
use crate::{Db, Result, SystemScope, SystemTx};

/// What is wrong with a workspace file.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Problem {
    /// `error` or `warning`.
    pub severity: String,
    /// Line, from 1.
    pub line: i32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A problem, and the file it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// Path relative to the workspace.
    pub path: String,
    /// `error` or `warning`.
    pub severity: String,
    /// Line, from 1.
    pub line: i32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What is wrong in the workspace, by path and line; at most `limit` problems.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list_problems(db: &Db, limit: i64) -> Result<Vec<FileProblem>> {
    let mut conn = db.system(&SystemScope::because("the workspace belongs to the platform")).await?;
    Ok(sqlx::query_as!(
        FileProblem,
        "SELECT path, line, severity, message, hint FROM workspace_problems
         ORDER BY path, line, message
         LIMIT $1",
        limit,
    )
    .fetch_all(&mut *conn)
    .await?)
}

/// Forgets what was wrong before.
pub(super) async fn replace(tx: &mut SystemTx, index: &Index) -> Result<usize> {
    let found: Vec<(&str, &Problem)> = index
        .files
        .iter()
        .flat_map(|file| file.problems.iter().map(|problem| (file.path.as_str(), problem)))
        .collect();
    sqlx::query!("DELETE FROM workspace_problems WHERE source = 'python'").execute(tx.conn()).await?;
    let paths: Vec<String> = found.iter().map(|(path, _)| (*path).to_owned()).collect();
    let lines: Vec<i32> = found.iter().map(|(_, problem)| problem.line).collect();
    let severities: Vec<String> = found.iter().map(|(_, problem)| problem.severity.clone()).collect();
    let messages: Vec<String> = found.iter().map(|(_, problem)| problem.message.clone()).collect();
    let hints: Vec<Option<String>> = found.iter().map(|(_, problem)| problem.hint.clone()).collect();
    sqlx::query!(
        "INSERT INTO workspace_problems (path, line, severity, message, hint)
         SELECT * FROM UNNEST($1::text[], $2::int[], $3::text[], $4::text[], $5::text[])",
        &paths,
        &lines,
        &severities,
        &messages,
        &hints as &[Option<String>],
    )
    .execute(tx.conn())
    .await?;
    Ok(found.len())
}
