//! Files to rows: which row each file belongs to, and storing what it says.
//!
//! A file that is wrong is a fault of that file alone.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::export::{Misnamed, may_stay};
use super::hash;
use super::parse::{Fault, Parsed, parse};
use crate::audit::{self, Action};
use crate::executions::RawJson;
use crate::forms::access_name;
use crate::id::{FormId, OrgId};
use crate::workspace_files::{FilePath, Files, is_form_file};
use crate::{Error, Result, SystemTx};

/// Longest file that is read: what the API takes, as readable as it is written here.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Who changes a form by changing its file, in the audit log.
const ACTOR: &str = "workspace";

/// What is known of a row's file.
pub(super) struct Known {
    id: FormId,
    path: Option<String>,
    hash: Option<String>,
    is_due: bool,
}

/// What a file changed.
pub(super) struct Imported {
    action: Action,
    form: FormId,
    owner: Option<OrgId>,
    /// The file, if that has to be renamed.
    pub(super) misnamed: Option<Misnamed>,
}

/// Records what files have changed.
pub(super) async fn record(tx: &mut SystemTx, imported: Vec<Imported>) -> Result<()> {
    let deeds = imported.into_iter().map(|one| (one.owner, one.action, one.form.to_string()));
    audit::record_system_all(tx, ACTOR, deeds).await
}

/// A file as found.
pub(super) struct Found {
    pub(super) path: FilePath,
    hash: String,
    /// Or why it cannot be read.
    text: Result<String, String>,
}

/// What the rows know of their files.
pub(super) async fn known(tx: &mut SystemTx) -> Result<Vec<Known>> {
    Ok(sqlx::query_as!(
        Known,
        r#"SELECT id AS "id: FormId", file_path AS path, file_hash AS hash, file_is_due AS is_due FROM forms"#
    )
    .fetch_all(tx.conn())
    .await?)
}

/// The files of forms, read.
pub(super) fn read_all(files: &Files) -> Result<Vec<Found>> {
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
pub(super) struct Plan {
    by_id: HashMap<FormId, Known>,
    by_path: HashMap<String, FormId>,
    present: HashSet<String>,
    /// Rows whose file was found.
    met: HashSet<FormId>,
}

impl Plan {
    pub(super) fn new(rows: Vec<Known>, files: &[Found]) -> Self {
        let by_path = rows.iter().filter_map(|row| Some((row.path.clone()?, row.id))).collect();
        Self {
            by_path,
            by_id: rows.into_iter().map(|row| (row.id, row)).collect(),
            present: files.iter().map(|file| file.path.to_string()).collect(),
            met: HashSet::new(),
        }
    }

    /// Rows whose file is gone.
    pub(super) fn lost(&self) -> Vec<Uuid> {
        let has_file = |row: &&Known| row.path.is_some() && !row.is_due && !self.met.contains(&row.id);
        let is_gone = |row: &&Known| row.path.as_deref().is_some_and(|path| !self.present.contains(path));
        self.by_id.values().filter(has_file).filter(is_gone).map(|row| row.id.0).collect()
    }

    /// Reads a file into its row; `None`: nothing has changed.
    pub(super) async fn import(
        &mut self,
        tx: &mut SystemTx,
        file: &Found,
    ) -> Result<Result<Option<Imported>, Fault>> {
        let path = file.path.as_str();
        let there = self.by_path.get(path).copied();
        let is_same = |row: &Known| row.is_due || row.hash.as_ref() == Some(&file.hash);
        if let Some(id) = there.filter(|id| self.by_id.get(id).is_some_and(is_same)) {
            self.met.insert(id);
            return Ok(Ok(None));
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
                return Ok(Ok(None));
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
) -> Result<Result<Option<Imported>, Fault>> {
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
    let is_misnamed = !may_stay(file.path.as_str(), id, &parsed.name);
    let text = |raw: &Option<RawJson>| raw.as_ref().map(|raw| raw.get().to_owned());
    // A savepoint: what PostgreSQL refuses for a reason not thought of here must not hold the other files up.
    sqlx::raw_sql("SAVEPOINT form").execute(tx.conn()).await?;
    let stored = sqlx::query_scalar!(
        "INSERT INTO forms AS f (id, organization_id, name, description, workflow_id, launch_workflow_id, default_launch_params,
             allowed_query_params, form_schema, access_level, is_active, created_by, file_path, file_hash, file_is_due)
         SELECT $1, $2, $3, $4, COALESCE(w.id::text, $5), COALESCE(l.id::text, $6), $7::text::json, $8::text::json, $9::text::json,
             COALESCE($10, 'role_based'), COALESCE($11, TRUE), $12, $13, $14, $15
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
             file_path = EXCLUDED.file_path, file_hash = EXCLUDED.file_hash, updated_at = now(),
             -- It is called after its form, and no file moves that to another organization.
             file_is_due = $15 OR ($2 IS NOT NULL AND f.organization_id IS DISTINCT FROM $2)
         WHERE NOT f.file_is_due
         RETURNING organization_id",
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
        // Only its path says whose it is, so it is written anew rather than renamed.
        is_misnamed && parsed.id.is_none(),
    )
    .fetch_optional(tx.conn())
    .await;
    match stored {
        Ok(stored) => {
            sqlx::raw_sql("RELEASE SAVEPOINT form").execute(tx.conn()).await?;
            let action = if exists { Action::FormUpdated } else { Action::FormCreated };
            Ok(Ok(stored.map(|owner| {
                let is_due = parsed.organization_id.is_some() && parsed.organization_id != owner;
                let misnamed = (is_misnamed && parsed.id.is_some() && !is_due).then(|| Misnamed {
                    form: id,
                    name: parsed.name.clone(),
                    path: file.path.clone(),
                });
                Imported { action, form: id, owner: owner.map(OrgId), misnamed }
            })))
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
