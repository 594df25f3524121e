//! Workflows and data providers: rows kept equal to what indexing the workspace found.
//!
//! A row is identified by (path, function), or by the UUID its decorator gives; it survives edits, and comes
//! back with the same id when a removed file returns. User code is never imported to index it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::FieldError;
use crate::id::{OrgId, WorkflowId};
use crate::{Db, Error, OrgScope, OrgTx, Reach, Result, SystemScope};

/// How long a process may act on a definition that has changed since.
const CATALOG_TTL: Duration = Duration::from_secs(1);

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

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, 1 to 10.
    pub max_attempts: i32,
    /// Pause after the first attempt; doubles with each.
    pub backoff_seconds: f64,
    /// Longest pause.
    pub max_backoff_seconds: f64,
    /// Exception classes that are retried; `None`: all but `UserError` and timeouts.
    pub retry_on: Option<Vec<String>>,
}

/// A declared parameter.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Parameter {
    /// Name.
    pub name: String,
    /// `string`, `int`, `float`, `bool`, `list`, `json` or `email`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a run must give it.
    pub required: bool,
    /// What people read.
    pub label: Option<String>,
    /// Value when it is not given.
    pub default_value: Option<Value>,
    /// Help text.
    pub description: Option<String>,
    /// For the form that asks for it; the server does not enforce it.
    #[serde(default)]
    pub validation: Option<Value>,
    /// The provider of its options.
    #[serde(default)]
    pub data_provider: Option<String>,
    /// Fixed options.
    #[serde(default)]
    pub options: Option<Value>,
}

/// A workflow or data provider that can run.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// Id.
    pub id: WorkflowId,
    /// `None`: for everybody.
    pub organization_id: Option<OrgId>,
    /// Path relative to the workspace.
    pub path: String,
    /// Name that runs address it by.
    pub name: String,
    /// Description.
    pub description: Option<String>,
    /// Category.
    pub category: String,
    /// `sync` or `async`.
    pub execution_mode: String,
    /// Limit of one attempt, in seconds.
    pub timeout_seconds: i32,
    /// Attempts in all.
    pub max_attempts: i32,
    /// Declared parameters.
    pub parameters: Json<Vec<Parameter>>,
    /// Everything else the decorator said.
    pub definition: Json<Value>,
}

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

/// Makes the rows equal to the index, in one transaction. Files that do not parse keep their last good rows.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn sync(db: &Db, index: &Index) -> Result<Synced> {
    let mut tx = db.begin_system(&SystemScope::because("the workspace belongs to the platform")).await?;
    // One indexing at a time; replicas that see the same change queue up here and then find nothing to do.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.workspace'))").execute(tx.conn()).await?;
    let rows: Vec<Row<'_>> = index.files.iter().flat_map(rows_of).collect();
    let rows = serde_json::to_value(&rows).map_err(Error::internal)?;
    sqlx::query!(
        "UPDATE workflows w
         SET path = r.path, function_name = r.function_name
         FROM jsonb_to_recordset($1) AS r (id uuid, explicit_id boolean, path text, function_name text)
         WHERE r.explicit_id AND w.id = r.id AND (w.path, w.function_name) <> (r.path, r.function_name)",
        rows,
    )
    .execute(tx.conn())
    .await?;
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
         WHERE workflows.content_hash <> EXCLUDED.content_hash OR NOT workflows.is_active",
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
    let problems = replace_problems(&mut tx, index).await?;
    let active = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM workflows WHERE is_active"#)
        .fetch_one(tx.conn())
        .await?;
    tx.commit().await?;
    Ok(Synced { active, deactivated, problems })
}

/// What is wrong in the workspace, by path and line.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list_problems(db: &Db) -> Result<Vec<(String, Problem)>> {
    let mut conn = db.system(&SystemScope::because("the workspace belongs to the platform")).await?;
    let rows = sqlx::query!(
        "SELECT path, line, severity, message, hint FROM workspace_problems ORDER BY path, line"
    )
    .fetch_all(&mut *conn)
    .await?;
    let problem = |row: (String, i32, String, Option<String>)| Problem {
        severity: row.0,
        line: row.1,
        message: row.2,
        hint: row.3,
    };
    Ok(rows.into_iter().map(|r| (r.path, problem((r.severity, r.line, r.message, r.hint)))).collect())
}

/// The active workflows in reach, by name.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx) -> Result<Vec<Workflow>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    Ok(sqlx::query_as!(
        Workflow,
        r#"SELECT id AS "id: WorkflowId", organization_id AS "organization_id: OrgId", path, name, description, category,
               execution_mode, timeout_seconds, max_attempts, parameters AS "parameters: Json<Vec<Parameter>>",
               definition AS "definition: Json<Value>"
           FROM workflows
           WHERE is_active AND kind = 'workflow' AND ($1 OR organization_id IS NULL OR organization_id = $2)
           ORDER BY name, path, function_name"#,
        spans_all,
        org as _,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Definitions by id or name, remembered for a second: a submit does not read the same row again and again.
#[derive(Debug, Clone)]
pub struct Catalog {
    known: moka::future::Cache<(String, Option<OrgId>), Arc<Workflow>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { known: moka::future::Cache::builder().max_capacity(10_000).time_to_live(CATALOG_TTL).build() }
    }
}

impl Catalog {
    /// The active workflow with this id or name: the organization's own first, then a global one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when several active ones bear the name.
    pub async fn get(&self, db: &Db, scope: &OrgScope, id_or_name: &str) -> Result<Arc<Workflow>> {
        let org = match scope.reach() {
            Reach::Org(org) => Some(org),
            Reach::Global | Reach::Platform => None,
            Reach::Nothing => return Err(Error::NotFound("workflow")),
        };
        self.known.try_get_with((id_or_name.to_owned(), org), find(db, scope, id_or_name)).await.map_err(
            |error| match &*error {
                Error::NotFound(what) => Error::NotFound(what),
                Error::Conflict(text) => Error::Conflict(text.clone()),
                Error::Unavailable { service, .. } => {
                    Error::Unavailable { service, source: error.to_string().into() }
                }
                _ => Error::internal(error.to_string()),
            },
        )
    }
}

async fn find(db: &Db, scope: &OrgScope, id_or_name: &str) -> Result<Arc<Workflow>> {
    let scope = scope.clone().narrowed();
    let id = id_or_name.parse::<Uuid>().ok();
    let mut tx = db.begin(&scope).await?;
    let mut rows = sqlx::query_as!(
        Workflow,
        r#"SELECT id AS "id: WorkflowId", organization_id AS "organization_id: OrgId", path, name, description, category,
               execution_mode, timeout_seconds, max_attempts, parameters AS "parameters: Json<Vec<Parameter>>",
               definition AS "definition: Json<Value>"
           FROM workflows
           WHERE is_active AND kind = 'workflow' AND (organization_id IS NULL OR organization_id = $1)
             AND (id = $2 OR ($2 IS NULL AND name = $3))
           ORDER BY organization_id NULLS LAST
           LIMIT 2"#,
        scope.org() as _,
        id,
        id_or_name,
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    match rows.as_slice() {
        [] => Err(Error::NotFound("workflow")),
        [first, second] if first.organization_id == second.organization_id => {
            Err(Error::Conflict(format!("several workflows are called {id_or_name}; address one by its id")))
        }
        _ => Ok(Arc::new(rows.remove(0))),
    }
}

/// Checks and converts the input of a run: required parameters are there, numbers and booleans readable,
/// `list` and `json` also from their JSON text. What is not declared passes through.
///
/// # Errors
/// [`Error::Invalid`] with one entry per parameter, pointing below `/input_data`.
pub fn check_parameters(declared: &[Parameter], mut input: Map<String, Value>) -> Result<Map<String, Value>> {
    let mut faults = Vec::new();
    for parameter in declared {
        let fault = match input.get_mut(&parameter.name) {
            None | Some(Value::Null) if parameter.required => Some("is required".to_owned()),
            None | Some(Value::Null) => None,
            Some(value) => convert(&parameter.kind, value).err(),
        };
        if let Some(detail) = fault {
            let name = parameter.name.replace('~', "~0").replace('/', "~1");
            faults.push(FieldError { pointer: format!("/input_data/{name}"), detail });
        }
    }
    if faults.is_empty() { Ok(input) } else { Err(Error::Invalid(faults)) }
}

fn convert(kind: &str, value: &mut Value) -> Result<(), String> {
    match (kind, &*value) {
        ("int", Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        ("int", Value::Number(number))
            if number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9e15) =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53, checked above")]
            let whole = number.as_f64().unwrap_or_default() as i64;
            *value = Value::from(whole);
        }
        ("int", Value::String(text)) => {
            *value =
                text.trim().parse::<i64>().map(Value::from).map_err(|_| "must be an integer".to_owned())?;
        }
        ("int", _) => return Err("must be an integer".into()),
        ("float", Value::Number(_)) => {}
        ("float", Value::String(text)) => {
            let number =
                text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).ok_or("must be a number")?;
            *value = Value::from(number);
        }
        ("float", _) => return Err("must be a number".into()),
        ("bool", Value::Bool(_)) => {}
        ("bool", Value::Number(number)) if matches!(number.as_i64(), Some(0 | 1)) => {
            *value = Value::Bool(number.as_i64() == Some(1));
        }
        ("bool", Value::String(text)) => {
            *value = match text.trim().to_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::Bool(true),
                "false" | "0" | "no" | "off" => Value::Bool(false),
                _ => return Err("must be true or false".into()),
            };
        }
        ("bool", _) => return Err("must be true or false".into()),
        ("list", Value::String(text)) => {
            if let Ok(list @ Value::Array(_)) = serde_json::from_str(text) {
                *value = list;
            }
        }
        ("json", Value::String(text)) => {
            if let Ok(parsed) = serde_json::from_str(text) {
                *value = parsed;
            }
        }
        _ => {}
    }
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

async fn replace_problems(tx: &mut crate::SystemTx, index: &Index) -> Result<usize> {
    let found: Vec<(&str, &Problem)> = index
        .files
        .iter()
        .flat_map(|file| file.problems.iter().map(|problem| (file.path.as_str(), problem)))
        .collect();
    sqlx::query!("DELETE FROM workspace_problems").execute(tx.conn()).await?;
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

fn asynchronous() -> String {
    "async".into()
}

fn process() -> String {
    "process".into()
}

fn half_an_hour() -> i32 {
    1800
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(name: &str, kind: &str, required: bool) -> Parameter {
        Parameter {
            name: name.into(),
            kind: kind.into(),
            required,
            label: None,
            default_value: None,
            description: None,
            validation: None,
            data_provider: None,
            options: None,
        }
    }

    fn check(kind: &str, value: Value) -> Result<Value, String> {
        let input = Map::from_iter([("p".to_owned(), value)]);
        match check_parameters(&[parameter("p", kind, true)], input) {
            Ok(mut checked) => Ok(checked.remove("p").unwrap_or_default()),
            Err(Error::Invalid(faults)) => Err(format!("{}: {}", faults[0].pointer, faults[0].detail)),
            Err(other) => Err(other.to_string()),
        }
    }

    #[test]
    fn values_are_converted_to_their_declared_type() {
        assert_eq!(check("int", json!("42")), Ok(json!(42)));
        assert_eq!(check("int", json!(42.0)), Ok(json!(42)));
        assert_eq!(check("float", json!("2.5")), Ok(json!(2.5)));
        assert_eq!(check("bool", json!("yes")), Ok(json!(true)));
        assert_eq!(check("list", json!("[1, 2]")), Ok(json!([1, 2])));
        assert_eq!(check("json", json!("{\"a\": 1}")), Ok(json!({"a": 1})));
        assert_eq!(check("string", json!("42")), Ok(json!("42")));
    }

    #[test]
    fn unreadable_and_missing_values_are_named_by_pointer() {
        assert_eq!(check("int", json!("many")), Err("/input_data/p: must be an integer".into()));
        assert_eq!(check("int", json!(1.5)), Err("/input_data/p: must be an integer".into()));
        assert_eq!(check("float", json!("NaN")), Err("/input_data/p: must be a number".into()));
        assert_eq!(check("bool", json!("perhaps")), Err("/input_data/p: must be true or false".into()));
        assert_eq!(check("int", Value::Null), Err("/input_data/p: is required".into()));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let declared =
            [parameter("a", "int", true), parameter("b/c", "bool", true), parameter("d", "int", false)];

        let Err(Error::Invalid(faults)) = check_parameters(&declared, Map::new()) else {
            panic!("must be refused")
        };

        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/input_data/a", "/input_data/b~1c"]);
    }
}
