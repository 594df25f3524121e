//! Rows to files: what has changed is written where the form's file is or should be.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;
use sqlx::types::Json;
use uuid::Uuid;

use super::hash;
use crate::executions::RawJson;
use crate::forms::AccessLevel;
use crate::id::{FormId, OrgId};
use crate::json::Tree;
use crate::workspace_files::{FORM_SUFFIX, FilePath, Files, on_disk};
use crate::{Error, Result, SystemTx};

const FOLDER: &str = "forms/";
const MAX_SLUG: usize = 60;
/// Files that one look writes; the next one writes more.
const MOST_DUE: i64 = 500;

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

/// A form whose file says all that its row says, and is called after another name.
pub(super) struct Misnamed {
    pub(super) form: FormId,
    pub(super) name: String,
    pub(super) path: FilePath,
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

/// Writes the files of rows that have changed, or of this one.
pub(super) async fn write_due(tx: &mut SystemTx, root: PathBuf, only: Option<FormId>) -> Result<usize> {
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
    let forms = due.iter().map(|form| (form.id, form.name.as_str(), form.file_path.as_deref()));
    let paths = free_paths(tx, forms.collect()).await?;
    let (mut ids, mut hashes, mut times, mut work) = (vec![], vec![], vec![], vec![]);
    for (form, path) in due.iter().zip(&paths) {
        let text = document(form)?;
        ids.push(form.id.0);
        hashes.push(hash(text.as_bytes()));
        times.push(form.updated_at);
        let old = form.file_path.clone().filter(|old| old != path);
        work.push((path.clone(), text, old));
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

/// Gives files the names of their forms, with whatever is in them by now: somebody may have saved one since it was read.
pub(super) async fn rename(tx: &mut SystemTx, root: PathBuf, misnamed: Vec<Misnamed>) -> Result<usize> {
    let forms = misnamed.iter().map(|one| (one.form, one.name.as_str(), Some(one.path.as_str())));
    let paths = free_paths(tx, forms.collect()).await?;
    let work: Vec<_> = misnamed.into_iter().zip(paths).collect();
    let (ids, paths): (Vec<Uuid>, Vec<String>) = on_disk(&root, move |files| {
        let is_renamed = |(one, path): &(Misnamed, String)| {
            let renamed = FilePath::parse(path).and_then(|new| files.rename(&one.path, &new));
            if let Err(error) = &renamed {
                // It stays the form's file under the name that it has.
                tracing::warn!(%error, form.id = %one.form, "the file of a form cannot be renamed");
            }
            renamed.is_ok()
        };
        Ok(work.into_iter().filter(is_renamed).map(|(one, path)| (one.form.0, path)).unzip())
    })
    .await?;
    sqlx::query!(
        "UPDATE forms f SET file_path = w.path
         FROM UNNEST($1::uuid[], $2::text[]) AS w (id, path)
         WHERE f.id = w.id",
        &ids,
        &paths,
    )
    .execute(tx.conn())
    .await?;
    Ok(ids.len())
}

/// Where the file of each of these forms belongs, given its name and where it is.
async fn free_paths(tx: &mut SystemTx, forms: Vec<(FormId, &str, Option<&str>)>) -> Result<Vec<String>> {
    let candidates: Vec<String> =
        forms.iter().flat_map(|(id, name, current)| paths_of(*id, name, *current)).collect();
    let taken = sqlx::query!(
        r#"SELECT id AS "id: FormId", file_path AS "path!" FROM forms WHERE file_path = ANY ($1)"#,
        &candidates,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut taken: HashMap<String, FormId> = taken.into_iter().map(|row| (row.path, row.id)).collect();
    let mut paths = Vec::new();
    for (id, name, current) in forms {
        // Ids of one minute begin alike, so the short name may be somebody else's.
        let path = paths_of(id, name, current)
            .into_iter()
            .find(|path| taken.get(path).is_none_or(|owner| *owner == id))
            .ok_or_else(|| Error::internal("no file name is free for a form"))?;
        taken.insert(path.clone(), id);
        paths.push(path);
    }
    Ok(paths)
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
fn paths_of(id: FormId, name: &str, current: Option<&str>) -> Vec<String> {
    let id = id.to_string();
    let slug = slug(name);
    let endings = [format!("-{}{FORM_SUFFIX}", &id[..8]), format!("-{id}{FORM_SUFFIX}")];
    let is_given = |path: &&str| {
        !path
            .strip_prefix(FOLDER)
            .is_some_and(|name| endings.iter().any(|ending| name.ends_with(ending.as_str())))
    };
    let given = current.filter(is_given).map(str::to_owned);
    given.into_iter().chain(endings.iter().map(|ending| format!("{FOLDER}{slug}{ending}"))).collect()
}

/// Whether the file of a form of this name may stay where it is.
pub(super) fn may_stay(path: &str, id: FormId, name: &str) -> bool {
    paths_of(id, name, Some(path)).iter().any(|one| one == path)
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
