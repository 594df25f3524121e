//! Inviting, changing and removing users.
//!
//! The invariants: the last active platform administrator stays one; a user without platform rights, whatever their
//! roles, changes only users of their own organization who may do no more than they themselves, and gives none an address
//! of another organization's domain; a new address leaves nothing to whoever had the old one.

use super::directory::{UserKey, lock};
use super::{User, links, valid_email};
use crate::error::{OnConstraint, Refusal};
use crate::id::{OrgId, SessionId, UserId};
use crate::permissions::PermissionSet;
use crate::{Db, Error, OrgScope, OrgTx, Result, SystemScope, organizations, sdk_keys};

const DOMAINS: SystemScope =
    SystemScope::because("whose domain an address is of, no organization sees of another");

/// Somebody who is to register later.
#[derive(Debug)]
pub struct Invitation {
    /// E-mail address as typed.
    pub email: String,
    /// Display name; without one the first part of the e-mail address.
    pub name: Option<String>,
    /// Whether they may sign in once registered.
    pub is_active: bool,
    /// Platform administrator.
    pub is_superuser: bool,
    /// Organization; a platform administrator gets none.
    pub organization: Option<OrgId>,
}

/// A partial update: `None` leaves a member as it is.
#[derive(Debug, Default)]
pub struct Changes {
    /// New e-mail address as typed. It ends the links that were mailed to the old one. Where nobody had proved that, the
    /// password goes with it, and so do all sessions.
    pub email: Option<String>,
    /// New display name.
    pub name: Option<String>,
    /// Hash of a new password. Setting one completes an invitation, and ends all sessions of the user and the links that were
    /// mailed.
    pub password_hash: Option<String>,
    /// Whether the user may sign in.
    pub is_active: Option<bool>,
    /// Promotes to platform administrator, or demotes.
    pub is_superuser: Option<bool>,
    /// Whether the e-mail address counts as proven: what platform administrators say. A new address that anybody else typed is
    /// not, and neither is that of an invitation that anybody else completes.
    pub is_verified: Option<bool>,
    /// Moves into this organization; a demotion needs one. A move from another ends all sessions and SDK keys: whoever acts
    /// with one of them was let in by the organization that is left. The password stays, since nobody else is to know it.
    pub organization: Option<OrgId>,
}

/// A user as changed, and the sessions that the change ended.
#[derive(Debug)]
pub struct Changed {
    /// The user now.
    pub user: User,
    /// What to forget at once.
    pub ended: Vec<SessionId>,
}

/// Adds a user who has not registered yet.
///
/// # Errors
/// [`Error::Invalid`] for a bad e-mail, name or organization, [`Error::Conflict`] for an e-mail in use or of another
/// organization's domain, [`Error::Forbidden`] for what only platform administrators may.
pub async fn invite(tx: &mut OrgTx, db: &Db, new: Invitation) -> Result<User> {
    let email = valid_email(&new.email)?;
    let name = match new.name.as_deref().map(str::trim) {
        None | Some("") => email.split('@').next().unwrap_or_default().to_owned(),
        Some(name) => valid_name(name)?,
    };
    check_right(tx.scope(), new.is_superuser, new.organization)?;
    if is_of_another(db, tx.scope(), &email).await? {
        return Err(address_taken());
    }
    let organization = new.organization.filter(|_| !new.is_superuser);
    sqlx::query_as!(
        User,
        r#"INSERT INTO users (id, organization_id, email, name, user_type, is_superuser, is_active, is_verified, is_registered)
           VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN 'PLATFORM' ELSE 'ORG' END, $5, $6, TRUE, FALSE)
           RETURNING id AS "id: UserId", organization_id AS "organization_id: OrgId", email, name, user_type, is_active,
               is_superuser, is_verified, is_registered, mfa_enabled, last_login, created_at, updated_at"#,
        UserId::generate() as _,
        organization as _,
        email,
        name,
        new.is_superuser,
        new.is_active,
    )
    .fetch_one(tx.conn())
    .await
    .on_constraints(REFUSALS)
}

/// Changes a user of the scope.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`] and [`Error::Conflict`] as for [`invite`], and for a demotion that names no
/// organization; [`Error::Impossible`] when nobody would be left to administer the platform; [`Error::Forbidden`] for
/// what is beyond the actor.
pub async fn update(tx: &mut OrgTx, db: &Db, key: &UserKey, changes: Changes) -> Result<Changed> {
    let (email, fault) = match changes.email.as_deref().map(valid_email).transpose() {
        Ok(email) => (email, None),
        Err(fault) => (None, Some(fault)),
    };
    let name = changes.name.as_deref().map(valid_name).transpose()?;
    check_right(tx.scope(), changes.is_superuser == Some(true), changes.organization)?;
    // Before anything is held: nobody who holds a connection of the platform's waits for it.
    let is_foreign = match &email {
        Some(email) => is_of_another(db, tx.scope(), email).await?,
        None => false,
    };
    let user = lock(tx, key).await?;
    check_reach(tx, &user).await?;
    // An address that was taken under other rules may stay.
    if let Some(fault) = fault
        && changes.email.as_deref().is_none_or(|new| new.trim().to_lowercase() != user.email)
    {
        return Err(fault);
    }

    let is_superuser = changes.is_superuser.unwrap_or(user.is_superuser);
    let organization = organization_after(&user, is_superuser, &changes)?;
    let is_active = changes.is_active.unwrap_or(user.is_active);
    if !(is_superuser && is_active) {
        keep_an_administrator(tx, &user).await?;
    }
    let has_password = changes.password_hash.is_some();
    let has_new_address = email.as_ref().is_some_and(|new| *new != user.email);
    let is_admin = tx.scope().actor().is_platform_admin;
    // An invitation counts as proven until somebody completes it; whoever sets the password has not read that mailbox.
    let needs_proof = has_new_address || (has_password && !user.is_registered);
    if changes.is_verified == Some(true) && !is_admin && (needs_proof || !user.is_verified) {
        return Err(Error::Forbidden("an address is proven by the link that is mailed to it".into()));
    }
    if has_new_address && is_foreign {
        return Err(address_taken());
    }
    // Nobody proved the old address, so the password may be anybody's who knew it.
    let loses_password = has_new_address && !user.is_verified && !has_password;
    // Else whoever signs in with it through a provider would get this account, and its password be somebody else's.
    let is_verified = changes.is_verified.or((needs_proof && !is_admin).then_some(false));
    let changed = sqlx::query_as!(
        User,
        r#"UPDATE users
           SET email = COALESCE($2, email),
               name = COALESCE($3, name),
               password_hash = CASE WHEN $9 THEN $4 ELSE password_hash END,
               credentials_version = credentials_version + CASE WHEN $9 THEN 1 ELSE 0 END,
               is_active = $5,
               is_superuser = $6,
               user_type = CASE WHEN $6 THEN 'PLATFORM' ELSE 'ORG' END,
               organization_id = $7,
               is_verified = COALESCE($8, is_verified),
               is_registered = is_registered OR $10,
               updated_at = now()
           WHERE id = $1
           RETURNING id AS "id: UserId", organization_id AS "organization_id: OrgId", email, name, user_type, is_active,
               is_superuser, is_verified, is_registered, mfa_enabled, last_login, created_at, updated_at"#,
        user.id as _,
        email,
        name,
        changes.password_hash,
        is_active,
        is_superuser,
        organization as _,
        is_verified,
        has_password || loses_password,
        has_password,
    )
    .fetch_one(tx.conn())
    .await
    .on_constraints(REFUSALS)?;
    if changed.organization_id != user.organization_id {
        leave_roles(tx, &changed).await?;
    }
    if has_password || has_new_address {
        links::forget(tx.conn(), user.id).await?;
    }
    let is_shut_out = user.is_active && !changed.is_active;
    let has_moved = user.organization_id.is_some()
        && changed.organization_id.is_some()
        && changed.organization_id != user.organization_id;
    if has_moved {
        sdk_keys::revoke_all(tx, user.id).await?;
    }
    let why = [
        (has_password, "password set"),
        (loses_password, "unproven address changed"),
        (is_shut_out, "user deactivated"),
        (has_moved, "moved to another organization"),
    ];
    let ended = match why.iter().find(|(holds, _)| *holds) {
        Some((_, why)) => end_sessions(tx, user.id, why).await?,
        None => Vec::new(),
    };
    Ok(Changed { user: changed, ended })
}

/// Deactivates a user of the scope for good and ends their sessions and SDK keys; the row stays. Deleting twice is fine.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Impossible`] for the actor themselves and the last platform administrator;
/// [`Error::Forbidden`] for what is beyond the actor.
pub async fn delete(tx: &mut OrgTx, db: &Db, key: &UserKey) -> Result<Changed> {
    let actor = tx.scope().actor();
    if key.means(actor.id, &actor.email) {
        return Err(Error::Impossible("Cannot delete yourself".into()));
    }
    let changed = update(tx, db, key, Changes { is_active: Some(false), ..Changes::default() }).await?;
    sdk_keys::revoke_all(tx, changed.user.id).await?;
    Ok(changed)
}

/// What only a platform administrator may ask for.
fn check_right(scope: &OrgScope, is_promotion: bool, organization: Option<OrgId>) -> Result<()> {
    if scope.actor().is_platform_admin {
        return Ok(());
    }
    if is_promotion {
        return Err(Error::Forbidden("Superuser privileges required".into()));
    }
    match organization {
        Some(other) if Some(other) != scope.owner()? => {
            Err(Error::Forbidden("Access denied to organization".into()))
        }
        _ => Ok(()),
    }
}

/// Whether an address is of the domain of another active organization than the actor's, whose people alone have it. Platform
/// administrators say who is who, so to them it is of none.
async fn is_of_another(db: &Db, scope: &OrgScope, email: &str) -> Result<bool> {
    if scope.actor().is_platform_admin {
        return Ok(false);
    }
    let mut conn = db.system(&DOMAINS).await?;
    let owner = organizations::of_address(&mut conn, email).await?;
    Ok(owner.is_some() && owner != scope.org())
}

/// Whether the actor may act on this user: row-level security has seen to the organization, this sees to it that
/// nobody gets at rights by way of somebody who has more.
async fn check_reach(tx: &mut OrgTx, user: &User) -> Result<()> {
    if tx.scope().actor().is_platform_admin {
        return Ok(());
    }
    let names = sqlx::query_scalar!(
        r#"SELECT p.name AS "name!"
           FROM user_roles ur
           JOIN roles r ON r.id = ur.role_id AND r.is_active
           CROSS JOIN LATERAL jsonb_array_elements_text(r.permissions) AS p (name)
           WHERE ur.user_id = $1"#,
        user.id as _,
    )
    .fetch_all(tx.conn())
    .await?;
    if user.is_superuser || !tx.scope().holds_all(PermissionSet::from_names(names)) {
        return Err(Error::Forbidden("this user may do more than you; ask a platform administrator".into()));
    }
    Ok(())
}

fn organization_after(user: &User, is_superuser: bool, changes: &Changes) -> Result<Option<OrgId>> {
    match (user.is_superuser, is_superuser) {
        // A platform administrator belongs to no organization.
        (false, true) => Ok(None),
        (true, true) if changes.organization.is_some() => Err(Error::invalid(
            "/organization_id",
            "a platform administrator belongs to none; demote them first",
        )),
        (true, true) => Ok(None),
        (true, false) if changes.organization.is_none() => Err(Error::invalid(
            "/organization_id",
            "is required: whoever is no platform administrator needs one",
        )),
        (_, false) => Ok(changes.organization.or(user.organization_id)),
    }
}

/// Refuses to lose the last platform administrator who can sign in. One such change at a time, so that two racing ones
/// cannot each count on the other.
async fn keep_an_administrator(tx: &mut OrgTx, leaving: &User) -> Result<()> {
    if !(leaving.is_superuser && leaving.is_active && leaving.is_registered) {
        return Ok(());
    }
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.administrators'))")
        .execute(tx.conn())
        .await?;
    let others = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM users
               WHERE user_type = 'PLATFORM' AND is_superuser AND is_active AND is_registered AND id <> $1
           ) AS "others!""#,
        leaving.id as _,
    )
    .fetch_one(tx.conn())
    .await?;
    if others {
        Ok(())
    } else {
        Err(Error::Impossible("the last active platform administrator must stay".into()))
    }
}

/// Takes the roles of organizations that the user does not belong to any more; global ones come along.
async fn leave_roles(tx: &mut OrgTx, user: &User) -> Result<()> {
    sqlx::query!(
        "DELETE FROM user_roles ur
         USING roles r
         WHERE ur.user_id = $1 AND r.id = ur.role_id AND r.organization_id IS NOT NULL
           AND r.organization_id IS DISTINCT FROM $2",
        user.id as _,
        user.organization_id as _,
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "UPDATE user_roles SET organization_id = $2 WHERE user_id = $1",
        user.id as _,
        user.organization_id as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn end_sessions(tx: &mut OrgTx, user: UserId, reason: &str) -> Result<Vec<SessionId>> {
    Ok(sqlx::query_scalar!(
        r#"UPDATE sessions
           SET revoked_at = now(), revoked_reason = $2
           WHERE user_id = $1 AND revoked_at IS NULL
           RETURNING id AS "id: SessionId""#,
        user as _,
        reason,
    )
    .fetch_all(tx.conn())
    .await?)
}

pub(super) fn valid_name(name: &str) -> Result<String> {
    let name = name.trim();
    if name.chars().count() > 255 {
        return Err(Error::invalid("/name", "must have at most 255 characters"));
    }
    Ok(name.to_owned())
}

/// The same for an address in use and one that may not be claimed. Whoever tries one that nobody has can tell that its domain is
/// some organization's, as they can by registering.
fn address_taken() -> Error {
    Error::Conflict("another user has this e-mail address".into())
}

/// What the constraints of the table tell of the input.
const REFUSALS: &[Refusal] = &[
    ("users_email_key", address_taken),
    ("users_organization_id_fkey", || Error::invalid("/organization_id", "names no organization")),
];
