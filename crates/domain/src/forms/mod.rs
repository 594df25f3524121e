//! Forms: what users fill in to run a workflow. What a field may say is in `fields.rs`, which roles reach a form in
//! `access.rs`, and how forms and files of the workspace follow each other in `files.rs`.
//!
//! The invariant: a user reaches a form only through [`access`], which holds the organization, the state and the access
//! level together, whatever the operation.

use chrono::{DateTime, Utc};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::types::Json;

use crate::executions::RawJson;
use crate::id::{FormId, OrgId};
use crate::page::NameCursor;
use crate::permissions::Permission;
use crate::{Error, OrgTx, Result};

pub mod access;
pub mod fields;
pub mod files;

const MAX_NAME: usize = 255;
const MAX_DESCRIPTION: usize = 10_000;

/// Who in reach may use a form. No form is open to anybody who is not signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AccessLevel {
    /// Every user in reach.
    Public,
    /// Every user in reach.
    Authenticated,
    /// Who holds an active role that the form is assigned to.
    RoleBased,
}

/// A form as stored.
#[derive(Debug, Clone)]
pub struct Form {
    /// Id.
    pub id: FormId,
    /// Organization; `None` for a global form.
    pub organization_id: Option<OrgId>,
    /// Display name, 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The workflow it runs.
    pub workflow_id: Option<String>,
    /// The workflow that prepares it.
    pub launch_workflow_id: Option<String>,
    /// Parameters that both workflows get unless something else is said.
    pub default_launch_params: Option<Json<RawJson>>,
    /// Names of query parameters that reach the launch workflow.
    pub allowed_query_params: Option<Json<Vec<String>>>,
    /// Its fields, as they were given.
    pub form_schema: Json<RawJson>,
    /// Who may use it; `None` counts as role-based.
    pub access_level: Option<AccessLevel>,
    /// Whether users see it.
    pub is_active: bool,
    /// Where the workspace mirrors it; `None`: not yet.
    pub file_path: Option<String>,
    /// E-mail of the creator.
    pub created_by: String,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// What it takes to create one. The schema is checked by [`fields::check`] before.
#[derive(Debug)]
#[expect(missing_docs, reason = "the members of a form")]
pub struct NewForm {
    pub name: String,
    pub description: Option<String>,
    pub workflow_id: Option<String>,
    pub launch_workflow_id: Option<String>,
    pub default_launch_params: Option<RawJson>,
    pub allowed_query_params: Option<Vec<String>>,
    pub form_schema: RawJson,
    pub access_level: Option<AccessLevel>,
}

/// A partial update: `None` leaves a member as it is, an empty text or list clears it.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the members of a form")]
pub struct Changes {
    pub name: Option<String>,
    pub description: Option<String>,
    pub workflow_id: Option<String>,
    pub launch_workflow_id: Option<String>,
    pub default_launch_params: Option<RawJson>,
    pub allowed_query_params: Option<Vec<String>>,
    pub form_schema: Option<RawJson>,
    pub access_level: Option<AccessLevel>,
    pub is_active: Option<bool>,
}

macro_rules! query_forms {
    ($rest:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::forms::Form,
            r#"SELECT id AS "id!: FormId", organization_id AS "organization_id: OrgId", name AS "name!", description, workflow_id,
                   launch_workflow_id, default_launch_params AS "default_launch_params: Json<RawJson>",
                   allowed_query_params AS "allowed_query_params: Json<Vec<String>>",
                   form_schema AS "form_schema!: Json<RawJson>", access_level AS "access_level: AccessLevel",
                   is_active AS "is_active!", file_path, created_by AS "created_by!", created_at AS "created_at!",
                   updated_at AS "updated_at!"
               FROM "# + $rest
            $(, $argument)*
        )
    };
}
pub(crate) use query_forms;

/// Adds a form to the current scope. JSON goes as text: anything else would lose the order of its members.
///
/// # Errors
/// [`Error::Invalid`] for a bad name or description.
pub async fn insert(tx: &mut OrgTx, new: NewForm) -> Result<Form> {
    let name = valid_name(&new.name)?;
    check_description(new.description.as_deref())?;
    let owner = tx.scope().owner()?;
    let created_by = tx.scope().actor().email.clone();
    let id = FormId::generate();
    sqlx::query!(
        "INSERT INTO forms (id, organization_id, name, description, workflow_id, launch_workflow_id, default_launch_params,
             allowed_query_params, form_schema, access_level, created_by)
         VALUES ($1, $2, $3, NULLIF($4, ''), NULLIF($5, ''), NULLIF($6, ''), $7::text::json, $8::text::json, $9::text::json, $10, $11)",
        id as _,
        owner as _,
        name,
        new.description,
        new.workflow_id,
        new.launch_workflow_id,
        new.default_launch_params.as_deref().map(RawValue::get),
        new.allowed_query_params.map(|names| json!(names).to_string()),
        new.form_schema.get(),
        new.access_level.map(access_name),
        created_by,
    )
    .execute(tx.conn())
    .await?;
    get(tx, id).await
}

/// One form of the scope, active or not, whoever may use it.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(tx: &mut OrgTx, id: FormId) -> Result<Form> {
    query_forms!("forms WHERE id = $1", id as _)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("form"))
}

/// Changes a form of the scope's own; a global one only for who acts globally.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Invalid`].
pub async fn update(tx: &mut OrgTx, id: FormId, changes: Changes) -> Result<Form> {
    let name = changes.name.as_deref().map(valid_name).transpose()?;
    check_description(changes.description.as_deref())?;
    let changed = sqlx::query!(
        "UPDATE forms
         SET name = COALESCE($2, name),
             description = CASE WHEN $3::text IS NULL THEN description ELSE NULLIF($3, '') END,
             workflow_id = CASE WHEN $4::text IS NULL THEN workflow_id ELSE NULLIF($4, '') END,
             launch_workflow_id = CASE WHEN $5::text IS NULL THEN launch_workflow_id ELSE NULLIF($5, '') END,
             default_launch_params = COALESCE($6::text::json, default_launch_params),
             allowed_query_params = COALESCE($7::text::json, allowed_query_params),
             form_schema = COALESCE($8::text::json, form_schema),
             access_level = COALESCE($9, access_level),
             is_active = COALESCE($10, is_active),
             file_is_due = TRUE,
             updated_at = now()
         WHERE id = $1",
        id as _,
        name,
        changes.description,
        changes.workflow_id,
        changes.launch_workflow_id,
        changes.default_launch_params.as_deref().map(RawValue::get),
        changes.allowed_query_params.map(|names| json!(names).to_string()),
        changes.form_schema.as_deref().map(RawValue::get),
        changes.access_level.map(access_name),
        changes.is_active,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if changed == 0 {
        return Err(Error::NotFound("form"));
    }
    get(tx, id).await
}

/// Forms by name, at most `limit`, after `after`: all of the scope's own and the global ones for who manages forms, else
/// those the actor may use.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, limit: i64, after: &NameCursor) -> Result<Vec<Form>> {
    let scope = tx.scope().clone();
    if scope.spans_all() {
        return Ok(query_forms!(
            r#"forms
               WHERE (name COLLATE "C", id) > ($1, $2)
               ORDER BY name COLLATE "C", id
               LIMIT $3"#,
            after.name,
            after.id,
            limit,
        )
        .fetch_all(tx.conn())
        .await?);
    }
    let (organization, actor) = (scope.org(), scope.actor().clone());
    let manages = scope.permits(Permission::FormsManage);
    // Two ordered runs through one index, merged: a condition with OR would have to sort all of both.
    Ok(query_forms!(
        r#"(
               (SELECT f.* FROM forms f
                WHERE f.organization_id = $1 AND (f.name COLLATE "C", f.id) > ($2, $3)
                  AND ($5 OR (f.is_active AND (f.access_level IN ('public', 'authenticated')
                      OR EXISTS (SELECT FROM form_roles fr JOIN roles r ON r.id = fr.role_id AND r.is_active
                                 JOIN user_roles ur ON ur.role_id = r.id WHERE fr.form_id = f.id AND ur.user_id = $7))))
                ORDER BY f.name COLLATE "C", f.id
                LIMIT $4)
               UNION ALL
               (SELECT f.* FROM forms f
                WHERE f.organization_id IS NULL AND (f.name COLLATE "C", f.id) > ($2, $3)
                  AND ($6 OR (f.is_active AND (f.access_level IN ('public', 'authenticated')
                      OR EXISTS (SELECT FROM form_roles fr JOIN roles r ON r.id = fr.role_id AND r.is_active
                                 JOIN user_roles ur ON ur.role_id = r.id WHERE fr.form_id = f.id AND ur.user_id = $7))))
                ORDER BY f.name COLLATE "C", f.id
                LIMIT $4)
           ) AS reachable
           ORDER BY name COLLATE "C", id
           LIMIT $4"#,
        organization as _,
        after.name,
        after.id,
        limit,
        manages,
        actor.is_platform_admin,
        actor.id as _,
    )
    .fetch_all(tx.conn())
    .await?)
}

fn access_name(level: AccessLevel) -> &'static str {
    match level {
        AccessLevel::Public => "public",
        AccessLevel::Authenticated => "authenticated",
        AccessLevel::RoleBased => "role_based",
    }
}

fn valid_name(name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err(Error::invalid("/name", format!("must have 1 to {MAX_NAME} characters")));
    }
    Ok(name.to_owned())
}

fn check_description(description: Option<&str>) -> Result<()> {
    if description.is_some_and(|text| text.chars().count() > MAX_DESCRIPTION) {
        return Err(Error::invalid("/description", format!("may have at most {MAX_DESCRIPTION} characters")));
    }
    Ok(())
}
