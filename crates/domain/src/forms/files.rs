//! Forms as files of the workspace, in both directions (ADR 31).
//!
//! A row that has changed is written to its file; a file that somebody else has changed is read into its row. The row says
//! which of the two is newer: `file_is_due` means that the file has yet to follow, and `file_hash` is what the file held
//! when both were the same. So neither direction answers the other's writing.
//!
//! The invariant: both directions hold one lock from the look at the rows to the last file, and a due row is never
//! overwritten by its file.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use uuid::Uuid;

use super::{AccessLevel, access_name, check_description, fields, valid_name};
use crate::audit::{self, Action};
use crate::executions::RawJson;
use crate::id::{FormId, OrgId};
use crate::json::Tree;
use crate::workspace_files::{FilePath, Files, on_disk};
use crate::{Db, Error, Platform, Result, SystemScope, SystemTx};

/// Ends the name of a file that mirrors a form.
const SUFFIX: &str = ".form.json";
const FOLDER: &str = "forms/";
/// Longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;
const MAX_SLUG: usize = 60;
/// Files that one look writes; the next one writes more.
const MOST_DUE: i64 = 500;
const SCOPE: SystemScope = SystemScope::because("the workspace belongs to the platform");
/// Who changes a form by changing its file, in the audit log.
const ACTOR: &str = "workspace";

/// Other names that members of a file may have.
const FORM_MEMBERS: [(&str, &str); 11] = [
    ("linked_workflow", "workflow_id"),
    ("linkedWorkflow", "workflow_id"),
    ("workflowId", "workflow_id"),
    ("launchWorkflowId", "launch_workflow_id"),
    ("launch_workflow", "launch_workflow_id"),
    ("defaultLaunchParams", "default_launch_params"),
    ("allowedQueryParams", "allowed_query_params"),
    ("formSchema", "form_schema"),
    ("accessLevel", "access_level"),
    ("isActive", "is_active"),
    ("organizationId", "organization_id"),
];
const FIELD_MEMBERS: [(&str, &str); 8] = [
    ("defaultValue", "default_value"),
    ("helpText", "help_text"),
    ("visibilityExpression", "visibility_expression"),
    ("dataProvider", "data_provider"),
    ("dataProviderInputs", "data_provider_inputs"),
    ("allowedTypes", "allowed_types"),
    ("maxSizeMb", "max_size_mb"),
    ("allowAsQueryParam", "allow_as_query_param"),
];
const INPUT_MEMBERS: [(&str, &str); 1] = [("fieldName", "field_name")];

/// What a look at the files did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Files written.
    pub written: usize,
    /// Files read into rows.
    pub imported: usize,
    /// Files that cannot be read into rows.
    pub problems: usize,
}

/// A row whose file has to follow.
struct Due {
    id: FormId,
    organization_id: Option<OrgId>,
    name: String,
    description: Option<String>,
    workflow_id: Option<String>,
    launch_workflow_id: Option<String>,
    default_launch_params: Option<Json<RawJson>>,
    allowed_query_params: Option<Json<RawJson>>,
    form_schema: Json<RawJson>,
    access_level: Option<AccessLevel>,
    is_active: bool,
    file_path: Option<String>,
    updated_at: chrono::DateTime<chrono::Utc>,
}

/// A form as its file says it, in the order of its members.
#[derive(Serialize)]
struct Document<'a> {
    id: FormId,
    name: &'a str,
    description: Option<&'a str>,
    organization_id: Option<OrgId>,
    workflow_id: Option<&'a str>,
    launch_workflow_id: Option<&'a str>,
    default_launch_params: Option<&'a RawJson>,
    allowed_query_params: Option<&'a RawJson>,
    form_schema: &'a RawJson,
    access_level: Option<AccessLevel>,
    is_active: bool,
}

/// What is known of a row's file.
struct Known {
    id: FormId,
    path: Option<String>,
    hash: Option<String>,
    is_due: bool,
}

/// A file as found.
struct Found {
    path: FilePath,
    hash: String,
    /// Or why it cannot be read.
    text: Result<String, String>,
}

/// A file as understood.
struct Parsed {
    id: Option<Uuid>,
    organization_id: Option<Uuid>,
    name: String,
    description: Option<String>,
    workflow_id: Option<String>,
    launch_workflow_id: Option<String>,
    default_launch_params: Option<RawJson>,
    allowed_query_params: Option<RawJson>,
    form_schema: RawJson,
    access_level: Option<AccessLevel>,
    is_active: Option<bool>,
}

/// What is wrong with a file, and in which line.
struct Fault {
    line: usize,
    message: String,
}

/// Whether a file of this name holds a form.
pub fn is_form_file(name: &str) -> bool {
    name == "form.json" || (name.ends_with(SUFFIX) && !name.starts_with('.'))
}

/// Writes the file of one form, if it has to follow; gives the path of the file.
///
/// # Errors
/// [`Error::Unavailable`] when the workspace or PostgreSQL is away; the file still has to follow then.
pub async fn write(platform: &Platform, id: FormId) -> Result<Option<String>> {
    let mut tx = begin(&platform.db).await?;
    write_due(&mut tx, platform.settings.workspace_path.clone(), Some(id)).await?;
    let path = sqlx::query_scalar!("SELECT file_path FROM forms WHERE id = $1", id as _)
        .fetch_optional(tx.conn())
        .await?;
    tx.commit().await?;
    Ok(path.flatten())
}

/// Whether a row waits for its file.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
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
/// [`Error::Unavailable`] when the workspace or PostgreSQL is away.
pub async fn sync(platform: &Platform) -> Result<Synced> {
    let root = platform.settings.workspace_path.clone();
    let mut tx = begin(&platform.db).await?;
    let mut synced = Synced { written: write_due(&mut tx, root.clone(), None).await?, ..Synced::default() };
    // The rows first: whatever is due from here on is none of the files read after it.
    let rows = known(&mut tx).await?;
    let files = on_disk(&root, read_all).await?;
    let mut problems = Vec::new();
    let mut plan = Plan::new(rows, &files);
    for file in &files {
        match plan.import(&mut tx, file).await? {
            Ok(changed) => synced.imported += usize::from(changed),
            Err(fault) => problems.push((file.path.to_string(), fault)),
        }
    }
    let lost: Vec<Uuid> = plan.lost();
    if !lost.is_empty() {
        sqlx::query!("UPDATE forms SET file_is_due = TRUE WHERE id = ANY ($1)", &lost)
            .execute(tx.conn())
            .await?;
        synced.written += write_due(&mut tx, root, None).await?;
    }
    synced.problems = problems.len();
    replace_problems(&mut tx, problems).await?;
    tx.commit().await?;
    Ok(synced)
}

async fn begin(db: &Db) -> Result<SystemTx> {
    let mut tx = db.begin_system(&SCOPE).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.form_files'))").execute(tx.conn()).await?;
    Ok(tx)
}

/// Writes the files of rows that have changed, or of this one.
async fn write_due(tx: &mut SystemTx, root: PathBuf, only: Option<FormId>) -> Result<usize> {
    let due = sqlx::query_as!(
        Due,
        r#"SELECT id AS "id: FormId", organization_id AS "organization_id: OrgId", name, description, workflow_id, launch_workflow_id,
               default_launch_params AS "default_launch_params: Json<RawJson>",
               allowed_query_params AS "allowed_query_params: Json<RawJson>", form_schema AS "form_schema: Json<RawJson>",
               access_level AS "access_level: AccessLevel", is_active, file_path, updated_at
           FROM forms
           WHERE file_is_due AND ($1::uuid IS NULL OR id = $1)
           ORDER BY id
           LIMIT $2"#,
        only as _,
        MOST_DUE,
    )
    .fetch_all(tx.conn())
    .await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut candidates = Vec::new();
    for form in &due {
        candidates.extend(paths_of(form));
    }
    let taken = sqlx::query!(
        r#"SELECT id AS "id: FormId", file_path AS "path!" FROM forms WHERE file_path = ANY ($1)"#,
        &candidates,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut taken: HashMap<String, FormId> = taken.into_iter().map(|row| (row.path, row.id)).collect();
    let (mut ids, mut paths, mut hashes, mut times, mut work) = (vec![], vec![], vec![], vec![], vec![]);
    for form in &due {
        // Ids of one minute begin alike, so the short name may be somebody else's.
        let path = paths_of(form)
            .into_iter()
            .find(|path| taken.get(path).is_none_or(|owner| *owner == form.id))
            .ok_or_else(|| Error::internal("no file name is free for a form"))?;
        taken.insert(path.clone(), form.id);
        let text = document(form)?;
        ids.push(form.id.0);
        hashes.push(hash(text.as_bytes()));
        times.push(form.updated_at);
        let old = form.file_path.clone().filter(|old| *old != path);
        paths.push(path.clone());
        work.push((path, text, old));
    }
    let written = on_disk(&root, move |files| {
        Ok(work
            .into_iter()
            .map(|(path, text, old)| replace(files, &path, &text, old.as_deref()))
            .collect::<Vec<_>>())
    })
    .await?;
    // One that cannot be written stays due, and holds no other up.
    let mut is_written = Vec::new();
    for (form, outcome) in due.iter().zip(written) {
        is_written.push(outcome.is_ok());
        match outcome {
            Err(error) if only.is_some() => return Err(error),
            Err(error) => tracing::warn!(%error, form.id = %form.id, "the file of a form cannot be written"),
            Ok(()) => {}
        }
    }
    sqlx::query!(
        "UPDATE forms f
         SET file_path = w.path, file_hash = w.hash, file_is_due = f.updated_at <> w.updated_at
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::bool[])
             AS w (id, path, hash, updated_at, is_written)
         WHERE f.id = w.id AND w.is_written",
        &ids,
        &paths,
        &hashes,
        &times,
        &is_written,
    )
    .execute(tx.conn())
    .await?;
    Ok(is_written.into_iter().filter(|is_written| *is_written).count())
}

/// Writes a form's file, and removes the one it had before.
fn replace(files: &Files, path: &str, text: &str, old: Option<&str>) -> Result<()> {
    files.write(&FilePath::parse(path)?, text.as_bytes())?;
    match old.map(|old| files.remove(&FilePath::parse(old)?)) {
        None | Some(Ok(()) | Err(Error::NotFound(_))) => Ok(()),
        Some(Err(error)) => Err(error),
    }
}

/// Where a form's file may be, the best first: where it is, if somebody put it there; else named after the form.
fn paths_of(form: &Due) -> Vec<String> {
    let id = form.id.to_string();
    let slug = slug(&form.name);
    let endings = [format!("-{}{SUFFIX}", &id[..8]), format!("-{id}{SUFFIX}")];
    let is_given = |path: &&String| {
        !path
            .strip_prefix(FOLDER)
            .is_some_and(|name| endings.iter().any(|ending| name.ends_with(ending.as_str())))
    };
    let given = form.file_path.iter().filter(is_given).cloned();
    given.chain(endings.iter().map(|ending| format!("{FOLDER}{slug}{ending}"))).collect()
}

fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if slug.len() >= MAX_SLUG {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "form".to_owned() } else { slug.to_owned() }
}

fn document(form: &Due) -> Result<String> {
    let document = Document {
        id: form.id,
        name: &form.name,
        description: form.description.as_deref(),
        organization_id: form.organization_id,
        workflow_id: form.workflow_id.as_deref(),
        launch_workflow_id: form.launch_workflow_id.as_deref(),
        default_launch_params: form.default_launch_params.as_ref().map(|params| &params.0),
        allowed_query_params: form.allowed_query_params.as_ref().map(|params| &params.0),
        form_schema: &form.form_schema.0,
        access_level: form.access_level,
        is_active: form.is_active,
    };
    // What was given compactly is written for people, and for the differences that git shows.
    let compact = serde_json::to_string(&document).map_err(Error::internal)?;
    let tree = Tree::parse(&compact).map_err(Error::internal)?;
    Ok(serde_json::to_string_pretty(&tree).map_err(Error::internal)? + "\n")
}

async fn known(tx: &mut SystemTx) -> Result<Vec<Known>> {
    Ok(sqlx::query_as!(
        Known,
        r#"SELECT id AS "id: FormId", file_path AS path, file_hash AS hash, file_is_due AS is_due FROM forms"#
    )
    .fetch_all(tx.conn())
    .await?)
}

fn read_all(files: &Files) -> Result<Vec<Found>> {
    let found = files.find(is_form_file)?;
    Ok(found
        .into_iter()
        .map(|entry| match files.read(&entry.path, MAX_FILE) {
            Ok(content) => Found {
                hash: hash(&content.bytes),
                path: entry.path,
                text: String::from_utf8(content.bytes).map_err(|_| "is not UTF-8".into()),
            },
            Err(error) => Found { hash: String::new(), path: entry.path, text: Err(error.to_string()) },
        })
        .collect())
}

/// Which row each file belongs to.
struct Plan {
    by_id: HashMap<FormId, Known>,
    by_path: HashMap<String, FormId>,
    present: HashSet<String>,
    /// Rows whose file was found.
    met: HashSet<FormId>,
}

impl Plan {
    fn new(rows: Vec<Known>, files: &[Found]) -> Self {
        let by_path = rows.iter().filter_map(|row| Some((row.path.clone()?, row.id))).collect();
        Self {
            by_path,
            by_id: rows.into_iter().map(|row| (row.id, row)).collect(),
            present: files.iter().map(|file| file.path.to_string()).collect(),
            met: HashSet::new(),
        }
    }

    /// Rows whose file is gone.
    fn lost(&self) -> Vec<Uuid> {
        let has_file = |row: &&Known| row.path.is_some() && !row.is_due && !self.met.contains(&row.id);
        let is_gone = |row: &&Known| row.path.as_deref().is_some_and(|path| !self.present.contains(path));
        self.by_id.values().filter(has_file).filter(is_gone).map(|row| row.id.0).collect()
    }

    /// Reads a file into its row; `false`: nothing has changed.
    async fn import(&mut self, tx: &mut SystemTx, file: &Found) -> Result<Result<bool, Fault>> {
        let path = file.path.as_str();
        let there = self.by_path.get(path).copied();
        let is_same = |row: &Known| row.is_due || row.hash.as_ref() == Some(&file.hash);
        if let Some(id) = there.filter(|id| self.by_id.get(id).is_some_and(is_same)) {
            self.met.insert(id);
            return Ok(Ok(false));
        }
        let parsed = match file.text.as_deref().map_err(|text| Fault::of(text)).and_then(parse) {
            Ok(parsed) => parsed,
            Err(fault) => return Ok(Err(fault)),
        };
        let id = match parsed.id {
            Some(id) => FormId(id),
            None => there.unwrap_or_else(FormId::generate),
        };
        if let Some(row) = self.by_id.get(&id) {
            let elsewhere =
                row.path.as_deref().filter(|other| *other != path && self.present.contains(*other));
            if let Some(other) = elsewhere.filter(|_| there != Some(id)) {
                return Ok(Err(Fault::of(&format!(
                    "has the id of the form in {other}; give it none, or another"
                ))));
            }
            if row.is_due {
                return Ok(Ok(false));
            }
        }
        if !self.met.insert(id) {
            return Ok(Err(Fault::of("has the id of the form in another file; give it none, or another")));
        }
        // The row that was at this path, if it is another one, has lost its file.
        if let Some(other) = there.filter(|other| *other != id) {
            sqlx::query!("UPDATE forms SET file_path = NULL, file_is_due = TRUE WHERE id = $1", other as _)
                .execute(tx.conn())
                .await?;
        }
        store(tx, id, file, &parsed, self.by_id.contains_key(&id)).await
    }
}

async fn store(
    tx: &mut SystemTx,
    id: FormId,
    file: &Found,
    parsed: &Parsed,
    exists: bool,
) -> Result<Result<bool, Fault>> {
    if !exists && let Some(organization) = parsed.organization_id {
        let known = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM organizations WHERE id = $1) AS "known!""#,
            organization
        )
        .fetch_one(tx.conn())
        .await?;
        if !known {
            return Ok(Err(Fault::of("organization_id names no organization")));
        }
    }
    let text = |raw: &Option<RawJson>| raw.as_ref().map(|raw| raw.get().to_owned());
    // A savepoint: what PostgreSQL refuses for a reason not thought of here must not hold the other files up.
    sqlx::raw_sql("SAVEPOINT form").execute(tx.conn()).await?;
    let stored = sqlx::query!(
        "INSERT INTO forms AS f (id, organization_id, name, description, workflow_id, launch_workflow_id, default_launch_params,
             allowed_query_params, form_schema, access_level, is_active, created_by, file_path, file_hash, file_is_due)
         SELECT $1, $2, $3, $4, COALESCE(w.id::text, $5), COALESCE(l.id::text, $6), $7::text::json, $8::text::json, $9::text::json,
             COALESCE($10, 'role_based'), COALESCE($11, TRUE), $12, $13, $14, FALSE
         FROM (SELECT) AS one
         -- A name that one workflow bears becomes its id; any other stays, since files arrive in any order.
         LEFT JOIN (SELECT (array_agg(id))[1] AS id FROM workflows
                    WHERE is_active AND kind = 'workflow' AND organization_id IS NULL AND name = $5 HAVING count(*) = 1) AS w ON TRUE
         LEFT JOIN (SELECT (array_agg(id))[1] AS id FROM workflows
                    WHERE is_active AND kind = 'workflow' AND organization_id IS NULL AND name = $6 HAVING count(*) = 1) AS l ON TRUE
         ON CONFLICT (id) DO UPDATE
         SET name = EXCLUDED.name, description = EXCLUDED.description, workflow_id = EXCLUDED.workflow_id,
             launch_workflow_id = EXCLUDED.launch_workflow_id, default_launch_params = EXCLUDED.default_launch_params,
             allowed_query_params = EXCLUDED.allowed_query_params, form_schema = EXCLUDED.form_schema,
             access_level = COALESCE($10, f.access_level), is_active = COALESCE($11, f.is_active),
             file_path = EXCLUDED.file_path, file_hash = EXCLUDED.file_hash, updated_at = now()
         WHERE NOT f.file_is_due",
        id as _,
        parsed.organization_id,
        parsed.name,
        parsed.description,
        parsed.workflow_id,
        parsed.launch_workflow_id,
        text(&parsed.default_launch_params),
        text(&parsed.allowed_query_params),
        parsed.form_schema.get(),
        parsed.access_level.map(access_name),
        parsed.is_active,
        ACTOR,
        file.path.as_str(),
        file.hash,
    )
    .execute(tx.conn())
    .await;
    match stored {
        Ok(done) => {
            sqlx::raw_sql("RELEASE SAVEPOINT form").execute(tx.conn()).await?;
            if done.rows_affected() > 0 {
                let action = if exists { Action::FormUpdated } else { Action::FormCreated };
                audit::record_system(tx, action, ACTOR, id, None).await?;
            }
            Ok(Ok(done.rows_affected() > 0))
        }
        Err(error) => {
            let error = Error::from(error);
            if error.is_unavailable() {
                return Err(error);
            }
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT form").execute(tx.conn()).await?;
            tracing::warn!(?error, path = %file.path, "a form's file was refused");
            Ok(Err(Fault::of("cannot be stored")))
        }
    }
}

fn parse(text: &str) -> Result<Parsed, Fault> {
    let mut tree = Tree::parse(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Fault { line: error.line().max(1), message: format!("malformed JSON: {error}") })?;
    if !matches!(tree, Tree::Object(_)) {
        return Err(Fault::of("must be an object"));
    }
    if text.contains("\\u0000") {
        return Err(Fault::of("must not contain NUL"));
    }
    tree.rename(&FORM_MEMBERS);
    let schema = match tree.get_mut("form_schema") {
        Some(schema) => {
            rename_fields(schema);
            schema.to_raw()
        }
        // Older files have the fields beside the rest.
        None => {
            let fields =
                tree.find(&["fields"]).cloned().ok_or_else(|| Fault::of("form_schema is required"))?;
            let mut schema = Tree::Object(vec![("fields".to_owned(), fields)]);
            rename_fields(&mut schema);
            schema.to_raw()
        }
    };
    let checked: Value = serde_json::from_str(schema.get()).map_err(|error| Fault::of(&error.to_string()))?;
    fields::check(&checked)?;
    let id = |name: &str| -> Result<Option<Uuid>, Fault> {
        let given = member::<String>(&tree, name)?.filter(|id| !id.is_empty());
        given.map(|id| id.parse().map_err(|_| Fault::of(&format!("{name} must be a UUID")))).transpose()
    };
    let name: String = member(&tree, "name")?.ok_or_else(|| Fault::of("name is required"))?;
    let description: Option<String> = member(&tree, "description")?;
    check_description(description.as_deref())?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let object = |name: &str| match tree.find(&[name]) {
        None => Ok(None),
        Some(value @ Tree::Object(_)) => Ok(Some(value.to_raw())),
        Some(_) => Err(Fault::of(&format!("{name} must be an object"))),
    };
    let names: Option<Vec<String>> = member(&tree, "allowed_query_params")?;
    Ok(Parsed {
        id: id("id")?,
        organization_id: id("organization_id")?,
        name: valid_name(&name)?,
        description: filled(description),
        workflow_id: filled(member(&tree, "workflow_id")?),
        launch_workflow_id: filled(member(&tree, "launch_workflow_id")?),
        default_launch_params: object("default_launch_params")?,
        allowed_query_params: names
            .map(|names| serde_json::value::to_raw_value(&names))
            .transpose()
            .map_err(|error| Fault::of(&error.to_string()))?,
        form_schema: schema,
        access_level: member(&tree, "access_level")?,
        is_active: member(&tree, "is_active")?,
    })
}

fn rename_fields(schema: &mut Tree) {
    let Some(Tree::List(fields)) = schema.get_mut("fields") else { return };
    for field in fields {
        field.rename(&FIELD_MEMBERS);
        if let Some(Tree::Object(inputs)) = field.get_mut("data_provider_inputs") {
            inputs.iter_mut().for_each(|(_, input)| input.rename(&INPUT_MEMBERS));
        }
    }
}

fn member<T: serde::de::DeserializeOwned>(tree: &Tree, name: &str) -> Result<Option<T>, Fault> {
    let Some(value) = tree.find(&[name]) else { return Ok(None) };
    serde_json::from_str(value.to_raw().get()).map(Some).map_err(|error| {
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        Fault::of(&format!("{name}: {text}"))
    })
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

impl Fault {
    fn of(message: &str) -> Self {
        Self { line: 1, message: message.to_owned() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let Error::Invalid(faults) = &error else { return Self::of(&error.to_string()) };
        let texts: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
        Self::of(&texts.join("; "))
    }
}
