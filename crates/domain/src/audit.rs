//! The audit log: who did what to which thing, written in the transaction of the deed.
//!
//! Append-only: neither database role may update or delete a row.

use serde::Serialize;
use uuid::Uuid;

use crate::{OrgTx, Result, SystemTx};

/// A deed worth remembering. The name is what `action` holds, dotted noun and verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says it")]
pub enum Action {
    UserRegistered,
    UserInvited,
    UserUpdated,
    UserDeleted,
    SessionStarted,
    SessionRefused,
    SessionRevoked,
    OrganizationCreated,
    OrganizationUpdated,
    OrganizationDeleted,
    RoleCreated,
    RoleUpdated,
    RoleDeleted,
    RoleAssigned,
    RoleUnassigned,
    ConfigSet,
    ConfigDeleted,
    SecretSet,
    SecretRead,
    SecretDeleted,
    ExecutionCancelled,
}

impl Action {
    /// The name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserRegistered => "user.registered",
            Self::UserInvited => "user.invited",
            Self::UserUpdated => "user.updated",
            Self::UserDeleted => "user.deleted",
            Self::SessionStarted => "session.started",
            Self::SessionRefused => "session.refused",
            Self::SessionRevoked => "session.revoked",
            Self::OrganizationCreated => "organization.created",
            Self::OrganizationUpdated => "organization.updated",
            Self::OrganizationDeleted => "organization.deleted",
            Self::RoleCreated => "role.created",
            Self::RoleUpdated => "role.updated",
            Self::RoleDeleted => "role.deleted",
            Self::RoleAssigned => "role.assigned",
            Self::RoleUnassigned => "role.unassigned",
            Self::ConfigSet => "config.set",
            Self::ConfigDeleted => "config.deleted",
            Self::SecretSet => "secret.set",
            Self::SecretRead => "secret.read",
            Self::SecretDeleted => "secret.deleted",
            Self::ExecutionCancelled => "execution.cancelled",
        }
    }
}

/// Records a deed of the scope's actor, in the scope's organization.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn record(
    tx: &mut OrgTx,
    action: Action,
    resource: impl ToString,
    details: &impl Serialize,
) -> Result<()> {
    let scope = tx.scope().clone();
    let details = serde_json::to_value(details).map_err(crate::Error::internal)?;
    sqlx::query!(
        "INSERT INTO audit_log (id, organization_id, actor_id, actor, action, resource, request_id, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        Uuid::now_v7(),
        scope.org() as _,
        scope.actor().id as _,
        scope.actor().email,
        action.as_str(),
        resource.to_string(),
        scope.request_id(),
        details,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records a deed of the platform itself or of somebody not signed in yet.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn record_system(
    tx: &mut SystemTx,
    action: Action,
    actor: &str,
    resource: impl ToString,
    request_id: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit_log (id, actor, action, resource, request_id) VALUES ($1, $2, $3, $4, $5)",
        Uuid::now_v7(),
        actor,
        action.as_str(),
        resource.to_string(),
        request_id,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
