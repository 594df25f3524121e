//! Roles: named groups of users, with what these may do. Deleted softly; an inactive role grants nothing.
//!
//! The invariant: whoever is no platform administrator changes roles of their own organization only, and none that
//! allows more than they may themselves.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use crate::error::OnConstraint;
use crate::id::{OrgId, RoleId};
use crate::page::NameCursor;
use crate::permissions::{self, Permission, PermissionSet};
use crate::{Error, OrgTx, Result};

pub mod members;

/// Names that tokens use for other things (§2.1 of the contract): a role of that name would pose as one of them.
const RESERVED: [&str; 3] = ["authenticated", "platformadmin", "orguser"];

const MAX_DESCRIPTION: usize = 10_000;

/// A role as stored.
#[derive(Debug, Clone)]
pub struct Role {
    /// Id.
    pub id: RoleId,
    /// Organization; `None` for a global role.
    pub organization_id: Option<OrgId>,
    /// Display name, 1 to 100 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Names of permissions.
    pub permissions: Json<Vec<String>>,
    /// Whether it grants anything.
    pub is_active: bool,
    /// E-mail of the creator.
    pub created_by: String,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// What it takes to create one.
#[derive(Debug)]
pub struct NewRole {
    /// Display name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What it allows.
    pub permissions: Vec<Permission>,
    /// Whether it starts active.
    pub is_active: bool,
    /// Organization; `None` for a global role.
    pub organization: Option<OrgId>,
}

/// A partial update: `None` leaves a member as it is.
#[derive(Debug, Default)]
pub struct Changes {
    /// New name.
    pub name: Option<String>,
    /// New description; empty clears it.
    pub description: Option<String>,
    /// New permissions, replacing all.
    pub permissions: Option<Vec<Permission>>,
    /// New state.
    pub is_active: Option<bool>,
}

macro_rules! query_roles {
    ($rest:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Role,
            r#"SELECT id AS "id!: RoleId", organization_id AS "organization_id: OrgId", name AS "name!",
                   description AS "description!", permissions AS "permissions!: Json<Vec<String>>",
                   is_active AS "is_active!", created_by AS "created_by!", created_at AS "created_at!",
                   updated_at AS "updated_at!"
               FROM "# + $rest
            $(, $argument)*
        )
    };
}

/// Adds a role.
///
/// # Errors
/// [`Error::Invalid`] for a bad name or an unknown organization, [`Error::Forbidden`] for what is beyond the actor.
pub async fn insert(tx: &mut OrgTx, new: NewRole) -> Result<Role> {
    let name = valid_name(&new.name)?;
    check_description(&new.description)?;
    check_reach(tx, new.organization, new.permissions.iter().copied().collect())?;
    let created_by = tx.scope().actor().email.clone();
    sqlx::query_as!(
        Role,
        r#"INSERT INTO roles (id, organization_id, name, description, permissions, is_active, created_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7)
           RETURNING id AS "id: RoleId", organization_id AS "organization_id: OrgId", name, description,
               permissions AS "permissions: Json<Vec<String>>", is_active, created_by, created_at, updated_at"#,
        RoleId::generate() as _,
        new.organization as _,
        name,
        new.description,
        Json(permissions::names_of(&new.permissions)) as _,
        new.is_active,
        created_by,
    )
    .fetch_one(tx.conn())
    .await
    .on_constraint("roles_organization_id_fkey", || Error::invalid("/organization_id", "names no organization"))
}

/// The active roles of the scope and the global ones, by name, at most `limit`, after `after`.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, limit: i64, after: &NameCursor) -> Result<Vec<Role>> {
    if tx.scope().spans_all() {
        return Ok(query_roles!(
            r#"roles
               WHERE is_active AND (name COLLATE "C", id) > ($1, $2)
               ORDER BY name COLLATE "C", id
               LIMIT $3"#,
            after.name,
            after.id,
            limit,
        )
        .fetch_all(tx.conn())
        .await?);
    }
    let organization = tx.scope().org();
    // Two ordered runs through one index, merged: a condition with OR would have to sort all of both.
    Ok(query_roles!(
        r#"(
               (SELECT * FROM roles
                WHERE organization_id = $1 AND is_active AND (name COLLATE "C", id) > ($2, $3)
                ORDER BY name COLLATE "C", id
                LIMIT $4)
               UNION ALL
               (SELECT * FROM roles
                WHERE organization_id IS NULL AND is_active AND (name COLLATE "C", id) > ($2, $3)
                ORDER BY name COLLATE "C", id
                LIMIT $4)
           ) AS reachable
           ORDER BY name COLLATE "C", id
           LIMIT $4"#,
        organization as _,
        after.name,
        after.id,
        limit,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// One role of the scope or a global one, active or not.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(tx: &mut OrgTx, id: RoleId) -> Result<Role> {
    query_roles!("roles WHERE id = $1", id as _)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("role"))
}

/// Changes a role.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`] for a bad name; [`Error::Forbidden`] for what is beyond the actor, the role
/// as it is included.
pub async fn update(tx: &mut OrgTx, id: RoleId, changes: Changes) -> Result<Role> {
    let name = changes.name.as_deref().map(valid_name).transpose()?;
    changes.description.as_deref().map_or(Ok(()), check_description)?;
    lock_own(tx, id).await?;
    if let Some(permissions) = &changes.permissions {
        check_holds(tx, permissions.iter().copied().collect())?;
    }
    sqlx::query_as!(
        Role,
        r#"UPDATE roles
           SET name = COALESCE($2, name),
               description = COALESCE($3, description),
               permissions = COALESCE($4, permissions),
               is_active = COALESCE($5, is_active),
               updated_at = now()
           WHERE id = $1
           RETURNING id AS "id: RoleId", organization_id AS "organization_id: OrgId", name, description,
               permissions AS "permissions: Json<Vec<String>>", is_active, created_by, created_at, updated_at"#,
        id as _,
        name,
        changes.description,
        changes.permissions.as_deref().map(permissions::names_of).map(Json) as _,
        changes.is_active,
    )
    .fetch_one(tx.conn())
    .await
    .map_err(Into::into)
}

/// The role, held until the transaction ends, if the actor may change it or who has it.
pub(crate) async fn lock_own(tx: &mut OrgTx, id: RoleId) -> Result<Role> {
    let role = get(tx, id).await?;
    check_reach(tx, role.organization_id, role.grants())?;
    // Row-level security lets a scope lock only what it may change.
    query_roles!("roles WHERE id = $1 FOR UPDATE", id as _)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("role"))
        .and_then(|now| check_holds(tx, now.grants()).map(|()| now))
}

/// Whether the actor may have to do with roles of this organization that allow this.
fn check_reach(tx: &OrgTx, organization: Option<OrgId>, allowed: PermissionSet) -> Result<()> {
    let scope = tx.scope();
    if !scope.actor().is_platform_admin && organization != scope.owner()? {
        return Err(Error::Forbidden(match organization {
            Some(_) => "Access denied to organization".into(),
            None => "Superuser privileges required".into(),
        }));
    }
    check_holds(tx, allowed)
}

/// Nobody grants, or takes a hand in, what they do not hold.
fn check_holds(tx: &OrgTx, allowed: PermissionSet) -> Result<()> {
    if tx.scope().holds_all(allowed) {
        return Ok(());
    }
    Err(Error::Forbidden("this role allows more than you may yourself; ask a platform administrator".into()))
}

impl Role {
    /// What it allows while it is active.
    pub fn grants(&self) -> PermissionSet {
        PermissionSet::from_names(&self.permissions.0)
    }
}

fn valid_name(name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 {
        return Err(Error::invalid("/name", "must have 1 to 100 characters"));
    }
    if RESERVED.contains(&name.to_lowercase().as_str()) {
        return Err(Error::invalid("/name", "is a name that every account has; choose another"));
    }
    Ok(name.to_owned())
}

fn check_description(description: &str) -> Result<()> {
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(Error::invalid(
            "/description",
            format!("must have at most {MAX_DESCRIPTION} characters"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_cannot_pose_as_the_platform() {
        assert_eq!(valid_name(" Technicians ").ok().as_deref(), Some("Technicians"));
        for wrong in
            ["", "  ", "PlatformAdmin", "platformadmin ", "authenticated", "ORGUSER", &"n".repeat(101)]
        {
            assert!(matches!(valid_name(wrong), Err(Error::Invalid(_))), "{wrong}");
        }
    }
}
