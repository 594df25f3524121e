//! Who reaches a form: the one check that guards every operation of its users, and the roles it is assigned to.

use sqlx::types::Json;
use uuid::Uuid;

use super::{AccessLevel, Form, get, query_forms};
use crate::executions::RawJson;
use crate::id::{FormId, OrgId, RoleId, UserId};
use crate::permissions::Permission;
use crate::roles::Role;
use crate::{Error, OrgTx, Result, roles};

/// The form, if the actor may use it.
///
/// # Errors
/// [`Error::NotFound`] when there is none in reach, also for a user when it is inactive; [`Error::Forbidden`] without
/// access.
pub async fn get_usable(tx: &mut OrgTx, id: FormId) -> Result<Form> {
    let form = get(tx, id).await?;
    let scope = tx.scope().clone();
    let actor = scope.actor();
    let manages = scope.permits(Permission::FormsManage) && form.organization_id == scope.org();
    if actor.is_platform_admin || manages {
        return Ok(form);
    }
    if !form.is_active {
        return Err(Error::NotFound("form"));
    }
    match form.access_level.unwrap_or(AccessLevel::RoleBased) {
        AccessLevel::Public | AccessLevel::Authenticated => Ok(form),
        AccessLevel::RoleBased if has_role(tx, id, actor.id).await? => Ok(form),
        AccessLevel::RoleBased => Err(Error::Forbidden("Access denied to this form".into())),
    }
}

async fn has_role(tx: &mut OrgTx, form: FormId, user: UserId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM form_roles fr
               JOIN roles r ON r.id = fr.role_id AND r.is_active
               JOIN user_roles ur ON ur.role_id = r.id
               WHERE fr.form_id = $1 AND ur.user_id = $2
           ) AS "has!""#,
        form as _,
        user as _,
    )
    .fetch_one(tx.conn())
    .await?)
}

/// The forms that a user of this organization reaches, by id, at most a thousand.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn reachable(tx: &mut OrgTx, user: UserId, organization: Option<OrgId>) -> Result<Vec<FormId>> {
    let forms = query_forms!(
        r#"forms f
           WHERE f.is_active AND (f.organization_id = $1 OR f.organization_id IS NULL)
             AND (f.access_level IN ('public', 'authenticated')
                  OR EXISTS (SELECT FROM form_roles fr JOIN roles r ON r.id = fr.role_id AND r.is_active
                             JOIN user_roles ur ON ur.role_id = r.id WHERE fr.form_id = f.id AND ur.user_id = $2))
           ORDER BY f.id
           LIMIT 1000"#,
        organization as _,
        user as _,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(forms.into_iter().map(|form| form.id).collect())
}

/// How many active forms the actor of the scope may use.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn count_usable(tx: &mut OrgTx) -> Result<i64> {
    let scope = tx.scope().clone();
    let (actor, organization) = (scope.actor(), scope.org());
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM forms f
           WHERE f.is_active AND ($1 OR f.organization_id IS NULL OR f.organization_id = $2)
             AND ($3 OR ($4 AND f.organization_id = $2) OR f.access_level IN ('public', 'authenticated')
                  OR EXISTS (SELECT FROM form_roles fr JOIN roles r ON r.id = fr.role_id AND r.is_active
                             JOIN user_roles ur ON ur.role_id = r.id WHERE fr.form_id = f.id AND ur.user_id = $5))"#,
        scope.spans_all(),
        organization as _,
        actor.is_platform_admin,
        scope.permits(Permission::FormsManage),
        actor.id as _,
    )
    .fetch_one(tx.conn())
    .await?)
}

/// The active forms a role is assigned to, as far as the scope sees them, by id.
///
/// # Errors
/// [`Error::NotFound`] for the role.
pub async fn forms_of(tx: &mut OrgTx, role: RoleId) -> Result<Vec<FormId>> {
    roles::get(tx, role).await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT fr.form_id AS "form_id: FormId"
           FROM form_roles fr
           JOIN forms f ON f.id = fr.form_id
           WHERE fr.role_id = $1 AND f.is_active
           ORDER BY fr.form_id
           LIMIT 10000"#,
        role as _,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Assigns these forms to a role, all of them or none. One that is assigned already stays so.
///
/// # Errors
/// [`Error::NotFound`] for the role or any of the forms; [`Error::Invalid`] for a form of another organization than the
/// role's; [`Error::Forbidden`] for what is beyond the actor.
pub async fn assign(tx: &mut OrgTx, role: RoleId, forms: &[FormId]) -> Result<Role> {
    let role = roles::lock_own(tx, role).await?;
    let ids: Vec<Uuid> = forms.iter().map(|form| form.0).collect();
    let found = sqlx::query!(
        r#"SELECT id AS "id: FormId", organization_id AS "organization_id: OrgId"
           FROM forms
           WHERE id = ANY($1) AND is_active"#,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    for (index, form) in forms.iter().enumerate() {
        let row = found.iter().find(|row| row.id == *form).ok_or(Error::NotFound("form"))?;
        let fits = row.organization_id.is_none() || row.organization_id == role.organization_id;
        if role.organization_id.is_some() && !fits {
            let detail = "belongs to another organization than the role";
            return Err(Error::invalid(format!("/form_ids/{index}"), detail));
        }
    }
    let assigned_by = tx.scope().actor().email.clone();
    sqlx::query!(
        "INSERT INTO form_roles (form_id, role_id, organization_id, assigned_by)
         SELECT UNNEST($1::uuid[]), $2, $3, $4
         ON CONFLICT DO NOTHING",
        &ids,
        role.id as _,
        role.organization_id as _,
        assigned_by,
    )
    .execute(tx.conn())
    .await?;
    Ok(role)
}

/// Takes a form from a role, and answers which. Taking it twice is fine.
///
/// # Errors
/// [`Error::NotFound`] for the role or the form; [`Error::Forbidden`] for what is beyond the actor.
pub async fn unassign(tx: &mut OrgTx, role: RoleId, form: FormId) -> Result<Role> {
    let role = roles::lock_own(tx, role).await?;
    get(tx, form).await?;
    sqlx::query!("DELETE FROM form_roles WHERE role_id = $1 AND form_id = $2", role.id as _, form as _)
        .execute(tx.conn())
        .await?;
    Ok(role)
}
