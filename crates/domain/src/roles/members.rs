//! Who has a role. A role of an organization takes only its users; all of an assignment holds, or none.

use uuid::Uuid;

use super::{Role, get, lock_own};
use crate::id::{OrgId, RoleId, UserId};
use crate::page::Cursor;
use crate::users::directory::UserKey;
use crate::{Error, FieldError, OrgTx, Result};

/// The active users who have a role, as far as the scope sees them, by id, at most `limit`, after `after`.
///
/// # Errors
/// [`Error::NotFound`] for the role.
pub async fn list(tx: &mut OrgTx, role: RoleId, limit: i64, after: Option<Cursor>) -> Result<Vec<UserId>> {
    get(tx, role).await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT ur.user_id AS "user_id: UserId"
           FROM user_roles ur
           JOIN users u ON u.id = ur.user_id
           WHERE ur.role_id = $1 AND ur.user_id > $2 AND u.is_active
           ORDER BY ur.user_id
           LIMIT $3"#,
        role as _,
        after.map_or(Uuid::nil(), |cursor| cursor.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Gives a role to these users, and answers which. Whoever has it already keeps it.
///
/// # Errors
/// [`Error::NotFound`] for the role or any of the users; [`Error::Invalid`] for users of another organization than the
/// role's, each with its pointer; [`Error::Forbidden`] for what is beyond the actor.
pub async fn assign(tx: &mut OrgTx, role: RoleId, keys: &[UserKey]) -> Result<Role> {
    let role = lock_own(tx, role).await?;
    let users = find_all(tx, keys).await?;
    if let Some(organization) = role.organization_id {
        let foreign: Vec<FieldError> = users
            .iter()
            .enumerate()
            .filter(|(_, user)| user.organization_id != Some(organization))
            .map(|(index, _)| FieldError {
                pointer: format!("/user_ids/{index}"),
                detail: "belongs to another organization than the role".into(),
            })
            .collect();
        if !foreign.is_empty() {
            return Err(Error::Invalid(foreign));
        }
    }
    let assigned_by = tx.scope().actor().email.clone();
    let ids: Vec<Uuid> = users.iter().map(|user| user.id.0).collect();
    let organizations: Vec<Option<Uuid>> =
        users.iter().map(|user| user.organization_id.map(|id| id.0)).collect();
    sqlx::query!(
        "INSERT INTO user_roles (user_id, role_id, organization_id, assigned_by)
         SELECT user_id, $1, organization_id, $2
         FROM UNNEST($3::uuid[], $4::uuid[]) AS given (user_id, organization_id)
         ON CONFLICT DO NOTHING",
        role.id as _,
        assigned_by,
        &ids,
        &organizations as &[Option<Uuid>],
    )
    .execute(tx.conn())
    .await?;
    Ok(role)
}

/// Takes a role from a user, and answers which and whom. Taking it twice is fine.
///
/// # Errors
/// [`Error::NotFound`] for the role or the user; [`Error::Forbidden`] for what is beyond the actor.
pub async fn unassign(tx: &mut OrgTx, role: RoleId, key: &UserKey) -> Result<(Role, UserId)> {
    let role = lock_own(tx, role).await?;
    let user = crate::users::directory::get(tx, key).await?;
    sqlx::query!("DELETE FROM user_roles WHERE role_id = $1 AND user_id = $2", role.id as _, user.id as _)
        .execute(tx.conn())
        .await?;
    Ok((role, user.id))
}

struct Found {
    id: UserId,
    organization_id: Option<OrgId>,
    email: String,
}

/// The active users of the scope that the keys name, in their order. They are held where they are, so that none moves
/// to another organization meanwhile.
async fn find_all(tx: &mut OrgTx, keys: &[UserKey]) -> Result<Vec<Found>> {
    let ids: Vec<Uuid> = keys.iter().filter_map(|key| key.id().map(|id| id.0)).collect();
    let emails: Vec<String> = keys.iter().filter_map(|key| key.email().map(str::to_owned)).collect();
    let found = sqlx::query_as!(
        Found,
        r#"SELECT id AS "id: UserId", organization_id AS "organization_id: OrgId", email
           FROM users
           WHERE (id = ANY($1) OR email = ANY($2)) AND is_active AND user_type <> 'SYSTEM'
           ORDER BY id
           FOR SHARE"#,
        &ids,
        &emails,
    )
    .fetch_all(tx.conn())
    .await?;
    let named = |key: &UserKey| {
        let user =
            found.iter().find(|user| key.means(user.id, &user.email)).ok_or(Error::NotFound("user"))?;
        Ok(Found { id: user.id, organization_id: user.organization_id, email: user.email.clone() })
    };
    keys.iter().map(named).collect()
}
