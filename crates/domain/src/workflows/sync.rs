//! Rows kept equal to what indexing the workspace found, in one transaction.
//!
//! A row is identified by (path, function), or by the UUID its decorator gives. It survives edits and moves, and comes
//! back with the same id when a removed file returns. A file that cannot be read keeps the rows it had.
//!
//! The invariant: what was read before something that is in the rows already changes nothing.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::problems::{self, Problem};
use super::{Parameter, RetryPolicy};
use crate::schedules;
use crate::{Db, Error, Result, SystemScope, SystemTx};

const SCOPE: SystemScope = SystemScope::because("the workspace belongs to the platform");

/// What indexing found in the whole workspace; the output of the Python side, file by file.
#[derive(Debug, Clone, Deserialize)]
pub struct Index {
    /// Every file looked at.
    pub files: Vec<IndexedFile>,
}

/// What indexing found in one file.
#[derive(Debug, Clone, Deserialize)]
pub struct IndexedFile {
    /// Path relative to the workspace.
    pub path: String,
    /// SHA-256 of the content, hexadecimal.
    pub sha256: String,
    /// Workflows, in order.
    pub workflows: Vec<Found>,
    /// Data providers, in order.
    pub data_providers: Vec<Found>,
    /// What is wrong with the file.
    pub problems: Vec<Problem>,
}

/// A decorated function. What has no column of its own stays in `rest`.
#[derive(Debug, Clone, Deserialize)]
pub struct Found {
    /// Python name of the function.
    pub function: String,
    /// Name that runs address it by.
    pub name: String,
    /// The UUID that `id=` gives.
    pub id: Option<Uuid>,
    /// First line of the docstring, or what the decorator says.
    pub description: Option<String>,
    /// Category.
    pub category: String,
    /// `sync` or `async`.
    #[serde(default = "asynchronous")]
    pub execution_mode: String,
    /// `process` or `pooled`.
    #[serde(default = "process")]
    pub isolation: String,
    /// Limit of one attempt.
    #[serde(default = "half_an_hour")]
    pub timeout_seconds: i32,
    /// Retry policy, if it asks for retries.
    pub retry_policy: Option<RetryPolicy>,
    /// Declared parameters, in order.
    pub parameters: Vec<Parameter>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The place of one reading of the workspace among all, over all replicas.
#[derive(Debug, Clone, Copy)]
pub struct Reading(i64);

/// What an indexing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// Active workflows and data providers now.
    pub active: i64,
    /// Rows that are active no more.
    pub deactivated: u64,
    /// Problems found.
    pub problems: usize,
}

impl Reading {
    /// Takes the next place. The files are read after it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL is away.
    pub async fn begin(db: &Db) -> Result<Self> {
        let mut conn = db.system(&SCOPE).await?;
        let number = sqlx::query_scalar!(r#"SELECT nextval('workspace_readings') AS "number!""#)
            .fetch_one(&mut *conn)
            .await?;
        Ok(Self(number))
    }

    /// Makes the rows equal to the index, which was read in this place, in one transaction. Files that do not parse keep their last
    /// good rows. `None`, and nothing has changed, when the rows are those of a later reading: somebody may have saved a file since
    /// this one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL is away.
    pub async fn sync(self, db: &Db, index: &Index) -> Result<Option<Synced>> {
        let mut tx = db.begin_system(&SCOPE).await?;
        // One indexing at a time. Of two, the one that was read later stays.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.workspace'))")
            .execute(tx.conn())
            .await?;
        let applied = sqlx::query!("UPDATE workspace_index SET reading = $1 WHERE reading < $1", self.0)
            .execute(tx.conn())
            .await?;
        if applied.rows_affected() == 0 {
            return Ok(None);
        }
        let synced = write(&mut tx, index).await?;
        tx.commit().await?;
        Ok(Some(synced))
    }
}

async fn write(tx: &mut SystemTx, index: &Index) -> Result<Synced> {
    let mut known = HashSet::new();
    // A statement cannot write one row twice, and then none would be written.
    let is_first =
        |row: &Row<'_>| known.insert((row.kind, row.path.to_owned(), row.function_name.to_owned()));
    let rows: Vec<Row<'_>> = index.files.iter().flat_map(rows_of).filter(is_first).collect();
    let rows = serde_json::to_value(&rows).map_err(Error::internal)?;
    place_by_id(tx, &rows).await?;
    follow_moves(tx, &rows, index).await?;
    sqlx::query!(
        "INSERT INTO workflows (id, kind, path, function_name, name, description, category, execution_mode, isolation,
             timeout_seconds, max_attempts, parameters, definition, content_hash)
         SELECT id, kind, path, function_name, name, description, category, execution_mode, isolation,
             timeout_seconds, max_attempts, parameters, definition, content_hash
         FROM jsonb_to_recordset($1) AS r (id uuid, kind text, path text, function_name text, name text, description text,
             category text, execution_mode text, isolation text, timeout_seconds int, max_attempts int,
             parameters jsonb, definition jsonb, content_hash text)
         ON CONFLICT (organization_id, kind, path, function_name) DO UPDATE
         SET name = EXCLUDED.name, description = EXCLUDED.description, category = EXCLUDED.category,
             execution_mode = EXCLUDED.execution_mode, isolation = EXCLUDED.isolation,
             timeout_seconds = EXCLUDED.timeout_seconds, max_attempts = EXCLUDED.max_attempts,
             parameters = EXCLUDED.parameters, definition = EXCLUDED.definition,
             content_hash = EXCLUDED.content_hash, is_active = TRUE, updated_at = now()
         WHERE NOT workflows.is_active
            -- Not the content alone: another release may read more of the same file.
            OR (workflows.content_hash, workflows.name, workflows.description, workflows.category, workflows.execution_mode,
                workflows.isolation, workflows.timeout_seconds, workflows.max_attempts, workflows.parameters,
                workflows.definition)
               IS DISTINCT FROM
               (EXCLUDED.content_hash, EXCLUDED.name, EXCLUDED.description, EXCLUDED.category, EXCLUDED.execution_mode,
                EXCLUDED.isolation, EXCLUDED.timeout_seconds, EXCLUDED.max_attempts, EXCLUDED.parameters,
                EXCLUDED.definition)",
        rows,
    )
    .execute(tx.conn())
    .await?;
    let broken: Vec<String> =
        index.files.iter().filter(|file| file.is_broken()).map(|file| file.path.clone()).collect();
    let deactivated = sqlx::query!(
        "UPDATE workflows w
         SET is_active = FALSE, updated_at = now()
         WHERE w.is_active AND w.organization_id IS NULL AND w.path <> ALL ($2)
           AND NOT EXISTS (
               SELECT FROM jsonb_to_recordset($1) AS r (kind text, path text, function_name text)
               WHERE (r.kind, r.path, r.function_name) = (w.kind, w.path, w.function_name))",
        rows,
        &broken,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    schedules::follow::follow(tx).await?;
    let problem_count = problems::replace(tx, index).await?;
    let active = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM workflows WHERE is_active"#)
        .fetch_one(tx.conn())
        .await?;
    Ok(Synced { active, deactivated, problems: problem_count })
}

/// Puts rows that a decorator names by UUID where the function is now, whatever was there before.
async fn place_by_id(tx: &mut SystemTx, rows: &Value) -> Result<()> {
    // Functions may have exchanged their ids, so whoever is in the way steps aside first. A row that loses its place to
    // another id is retired under a name that no function can have: what refers to it still finds it.
    sqlx::query!(
        "UPDATE workflows w
         SET function_name = '#' || w.id, updated_at = now(),
             is_active = w.is_active
                 AND w.id IN (SELECT r.id FROM jsonb_to_recordset($1) AS r (id uuid, explicit_id boolean) WHERE r.explicit_id)
         WHERE w.id IN (
             WITH r AS (
                 SELECT * FROM jsonb_to_recordset($1) AS r (id uuid, explicit_id boolean, kind text, path text, function_name text)
                 WHERE r.explicit_id)
             SELECT moved.id FROM r JOIN workflows moved ON moved.id = r.id
             WHERE (moved.kind, moved.path, moved.function_name) <> (r.kind, r.path, r.function_name)
             UNION
             SELECT there.id FROM r JOIN workflows there
                 ON (there.kind, there.path, there.function_name) = (r.kind, r.path, r.function_name)
             WHERE there.organization_id IS NULL AND there.id <> r.id)",
        rows,
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "UPDATE workflows w
         SET kind = r.kind, path = r.path, function_name = r.function_name
         FROM jsonb_to_recordset($1) AS r (id uuid, explicit_id boolean, kind text, path text, function_name text)
         WHERE r.explicit_id AND w.id = r.id
           AND (w.kind, w.path, w.function_name) <> (r.kind, r.path, r.function_name)",
        rows,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A file that is gone while another with the same content has come was moved: its rows follow it.
async fn follow_moves(tx: &mut SystemTx, rows: &Value, index: &Index) -> Result<()> {
    let present: Vec<&str> = index.files.iter().map(|file| file.path.as_str()).collect();
    sqlx::query!(
        "WITH gone AS (
             SELECT DISTINCT ON (kind, function_name, content_hash) id, kind, function_name, content_hash
             FROM workflows
             WHERE is_active AND organization_id IS NULL AND path <> ALL ($2)
             ORDER BY kind, function_name, content_hash, id
         ), came AS (
             SELECT DISTINCT ON (r.kind, r.function_name, r.content_hash) r.kind, r.path, r.function_name, r.content_hash
             FROM jsonb_to_recordset($1) AS r (kind text, path text, function_name text, content_hash text)
             WHERE NOT EXISTS (
                 SELECT FROM workflows w
                 WHERE w.organization_id IS NULL
                   AND (w.kind, w.path, w.function_name) = (r.kind, r.path, r.function_name))
             ORDER BY r.kind, r.function_name, r.content_hash, r.path
         )
         UPDATE workflows w
         SET path = came.path, updated_at = now()
         FROM gone JOIN came USING (kind, function_name, content_hash)
         WHERE w.id = gone.id",
        rows,
        &present as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

impl IndexedFile {
    fn is_broken(&self) -> bool {
        self.workflows.is_empty()
            && self.data_providers.is_empty()
            && self.problems.iter().any(|p| p.severity == "error")
    }
}

#[derive(Serialize)]
struct Row<'a> {
    id: Uuid,
    explicit_id: bool,
    kind: &'static str,
    path: &'a str,
    function_name: &'a str,
    name: &'a str,
    description: Option<&'a str>,
    category: &'a str,
    execution_mode: &'a str,
    isolation: &'a str,
    timeout_seconds: i32,
    max_attempts: i32,
    parameters: &'a [Parameter],
    definition: Value,
    content_hash: &'a str,
}

fn rows_of(file: &IndexedFile) -> impl Iterator<Item = Row<'_>> {
    let workflows = file.workflows.iter().map(|found| (found, "workflow"));
    workflows.chain(file.data_providers.iter().map(|found| (found, "data_provider"))).map(|(found, kind)| {
        let mut definition = found.rest.clone();
        definition
            .insert("retry_policy".into(), serde_json::to_value(&found.retry_policy).unwrap_or_default());
        Row {
            id: found.id.unwrap_or_else(Uuid::now_v7),
            explicit_id: found.id.is_some(),
            kind,
            path: &file.path,
            function_name: &found.function,
            name: &found.name,
            description: found.description.as_deref(),
            category: &found.category,
            execution_mode: &found.execution_mode,
            isolation: &found.isolation,
            timeout_seconds: found.timeout_seconds,
            max_attempts: found.retry_policy.as_ref().map_or(1, |policy| policy.max_attempts),
            parameters: &found.parameters,
            definition: Value::Object(definition),
            content_hash: &file.sha256,
        }
    })
}

fn asynchronous() -> String {
    "async".into()
}

fn process() -> String {
    "process".into()
}

fn half_an_hour() -> i32 {
    1800
}
