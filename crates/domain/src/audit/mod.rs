//! The audit log: who did what to which thing, written in the transaction of the deed.
//!
//! Rows form a hash chain per organization, and one for what belongs to none (ADR 27). They are added by the SQL
//! function `audit_append` alone: no role of the application may insert, update or delete one. Reading is in
//! `list.rs`, proving that nothing was changed in `verify.rs`.

pub mod list;
pub mod verify;

use serde::Serialize;
use uuid::Uuid;

use crate::id::{OrgId, UserId};
use crate::{OrgTx, Result, SystemTx};

/// A deed worth remembering. The name is what `action` holds, dotted noun and verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says it")]
pub enum Action {
    UserRegistered,
    UserInvited,
    UserUpdated,
    UserDeleted,
    VerificationRequested,
    EmailVerified,
    PasswordResetRequested,
    PasswordReset,
    SessionStarted,
    SessionRefreshed,
    SessionRefused,
    SessionRevoked,
    MfaBegun,
    MfaActivated,
    MfaRemoved,
    RecoveryCodeUsed,
    RecoveryCodesReplaced,
    DeviceTrusted,
    DeviceForgotten,
    LoginLinked,
    LoginUnlinked,
    LoginRefused,
    OrganizationCreated,
    OrganizationUpdated,
    OrganizationDeleted,
    RoleCreated,
    RoleUpdated,
    RoleDeleted,
    RoleAssigned,
    RoleUnassigned,
    FormCreated,
    FormUpdated,
    FormDeleted,
    FormAssigned,
    FormUnassigned,
    FileWritten,
    FileRenamed,
    FileDeleted,
    FolderCreated,
    GitTokenStored,
    GitConnected,
    GitConnecting,
    GitDisconnected,
    GitFetched,
    GitCommitted,
    GitPushed,
    GitPulled,
    GitMergeBegun,
    GitMergeAborted,
    GitCommitsDiscarded,
    GitRepositoryCreated,
    UploadAnnounced,
    UploadReceived,
    ConfigSet,
    ConfigDeleted,
    SecretCreated,
    SecretSet,
    SecretRead,
    SecretDeleted,
    SdkKeyCreated,
    SdkKeyRevoked,
    SdkKeyDeleted,
    DeveloperContextUpdated,
    SchedulePaused,
    ScheduleResumed,
    WorkflowKeyCreated,
    WorkflowKeyRevoked,
    ConnectionCreated,
    ConnectionUpdated,
    ConnectionDeleted,
    ConnectionAuthorizing,
    ConnectionAuthorizationCancelled,
    ConnectionConnected,
    ConnectionRefreshed,
    ConnectionFailed,
    ConnectionRead,
    ConnectionTokenSet,
    ConnectionTokenDeleted,
    BrandingUpdated,
    BrandingReset,
    ExecutionCancelled,
    ExecutionEnded,
    ExecutionRetried,
    PackageInstallRequested,
    PackageRemovalRequested,
    PackagesRollbackRequested,
    PackagesSwitched,
    WorkflowPaused,
    WorkflowResumed,
    DeadLettersReplayed,
    DeadLettersDropped,
    NotificationDismissed,
    UploadLockTaken,
    UploadLockReleased,
}

impl Action {
    /// The name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserRegistered => "user.registered",
            Self::UserInvited => "user.invited",
            Self::UserUpdated => "user.updated",
            Self::UserDeleted => "user.deleted",
            Self::VerificationRequested => "verification.requested",
            Self::EmailVerified => "email.verified",
            Self::PasswordResetRequested => "password_reset.requested",
            Self::PasswordReset => "password.reset",
            Self::SessionStarted => "session.started",
            Self::SessionRefreshed => "session.refreshed",
            Self::SessionRefused => "session.refused",
            Self::SessionRevoked => "session.revoked",
            Self::MfaBegun => "mfa.begun",
            Self::MfaActivated => "mfa.activated",
            Self::MfaRemoved => "mfa.removed",
            Self::RecoveryCodeUsed => "recovery_code.used",
            Self::RecoveryCodesReplaced => "recovery_codes.replaced",
            Self::DeviceTrusted => "device.trusted",
            Self::DeviceForgotten => "device.forgotten",
            Self::LoginLinked => "login.linked",
            Self::LoginUnlinked => "login.unlinked",
            Self::LoginRefused => "login.refused",
            Self::OrganizationCreated => "organization.created",
            Self::OrganizationUpdated => "organization.updated",
            Self::OrganizationDeleted => "organization.deleted",
            Self::RoleCreated => "role.created",
            Self::RoleUpdated => "role.updated",
            Self::RoleDeleted => "role.deleted",
            Self::RoleAssigned => "role.assigned",
            Self::RoleUnassigned => "role.unassigned",
            Self::FormCreated => "form.created",
            Self::FormUpdated => "form.updated",
            Self::FormDeleted => "form.deleted",
            Self::FormAssigned => "form.assigned",
            Self::FormUnassigned => "form.unassigned",
            Self::FileWritten => "file.written",
            Self::FileRenamed => "file.renamed",
            Self::FileDeleted => "file.deleted",
            Self::FolderCreated => "folder.created",
            Self::GitTokenStored => "git.token_stored",
            Self::GitConnected => "git.connected",
            Self::GitConnecting => "git.connecting",
            Self::GitDisconnected => "git.disconnected",
            Self::GitFetched => "git.fetched",
            Self::GitCommitted => "git.committed",
            Self::GitPushed => "git.pushed",
            Self::GitPulled => "git.pulled",
            Self::GitMergeBegun => "git.merge_begun",
            Self::GitMergeAborted => "git.merge_aborted",
            Self::GitCommitsDiscarded => "git.commits_discarded",
            Self::GitRepositoryCreated => "git.repository_created",
            Self::UploadAnnounced => "upload.announced",
            Self::UploadReceived => "upload.received",
            Self::ConfigSet => "config.set",
            Self::ConfigDeleted => "config.deleted",
            Self::SecretCreated => "secret.created",
            Self::SecretSet => "secret.set",
            Self::SecretRead => "secret.read",
            Self::SecretDeleted => "secret.deleted",
            Self::SdkKeyCreated => "sdk_key.created",
            Self::SdkKeyRevoked => "sdk_key.revoked",
            Self::SdkKeyDeleted => "sdk_key.deleted",
            Self::DeveloperContextUpdated => "developer_context.updated",
            Self::SchedulePaused => "schedule.paused",
            Self::ScheduleResumed => "schedule.resumed",
            Self::WorkflowKeyCreated => "workflow_key.created",
            Self::WorkflowKeyRevoked => "workflow_key.revoked",
            Self::ConnectionCreated => "connection.created",
            Self::ConnectionUpdated => "connection.updated",
            Self::ConnectionDeleted => "connection.deleted",
            Self::ConnectionAuthorizing => "connection.authorizing",
            Self::ConnectionAuthorizationCancelled => "connection.authorization_cancelled",
            Self::ConnectionConnected => "connection.connected",
            Self::ConnectionRefreshed => "connection.refreshed",
            Self::ConnectionFailed => "connection.failed",
            Self::ConnectionRead => "connection.read",
            Self::ConnectionTokenSet => "connection.token_set",
            Self::ConnectionTokenDeleted => "connection.token_deleted",
            Self::BrandingUpdated => "branding.updated",
            Self::BrandingReset => "branding.reset",
            Self::ExecutionCancelled => "execution.cancelled",
            Self::ExecutionEnded => "execution.ended",
            Self::ExecutionRetried => "execution.retried",
            Self::PackageInstallRequested => "package.install_requested",
            Self::PackageRemovalRequested => "package.removal_requested",
            Self::PackagesRollbackRequested => "packages.rollback_requested",
            Self::PackagesSwitched => "packages.switched",
            Self::WorkflowPaused => "workflow.paused",
            Self::WorkflowResumed => "workflow.resumed",
            Self::DeadLettersReplayed => "dead_letters.replayed",
            Self::DeadLettersDropped => "dead_letters.dropped",
            Self::NotificationDismissed => "notification.dismissed",
            Self::UploadLockTaken => "upload_lock.taken",
            Self::UploadLockReleased => "upload_lock.released",
        }
    }
}

/// Records a deed of the scope's actor, in the scope's organization. What comes after it in the transaction must wait for nobody:
/// until the commit nothing else is recorded there, sign-ins among it.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn record(
    tx: &mut OrgTx,
    action: Action,
    resource: impl ToString,
    details: &impl Serialize,
) -> Result<()> {
    let organization = tx.scope().org();
    record_for(tx, organization, action, resource, details).await
}

/// Records a deed of the scope's actor on something of this organization, which reads of it, also if a platform administrator did it from
/// without.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn record_for(
    tx: &mut OrgTx,
    owner: Option<OrgId>,
    action: Action,
    resource: impl ToString,
    details: &impl Serialize,
) -> Result<()> {
    let scope = tx.scope().clone();
    let details = serde_json::to_value(details).map_err(crate::Error::internal)?;
    sqlx::query!(
        "SELECT audit_append(ARRAY[$1::uuid], ARRAY[$2::uuid], ARRAY[$3::uuid], ARRAY[$4::text], ARRAY[$5::text],
             ARRAY[$6::text], ARRAY[$7::text], ARRAY[$8::text])",
        Uuid::now_v7(),
        owner as _,
        scope.actor().id as _,
        scope.actor().email,
        action.as_str(),
        resource.to_string(),
        scope.request_id(),
        details.to_string(),
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(())
}

/// Records the same deed on many things, each of its organization, of the scope's actor.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn record_all(
    tx: &mut OrgTx,
    action: Action,
    resources: impl IntoIterator<Item = (Option<OrgId>, String)>,
) -> Result<()> {
    let (owners, resources): (Vec<_>, Vec<_>) =
        resources.into_iter().map(|(owner, resource)| (owner.map(|id| id.0), resource)).unzip();
    if resources.is_empty() {
        return Ok(());
    }
    let scope = tx.scope().clone();
    let ids: Vec<Uuid> = resources.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query!(
        "SELECT audit_append(array_agg(id), array_agg(owner), array_agg($4::uuid), array_agg($5::text), array_agg($6::text),
             array_agg(resource), array_agg($7::text), array_agg(NULL::text))
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[]) AS t (id, owner, resource)",
        &ids,
        &owners as &[Option<Uuid>],
        &resources,
        scope.actor().id as _,
        scope.actor().email,
        action.as_str(),
        scope.request_id(),
    )
    .fetch_one(tx.conn())
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
    append_outside(tx, action, (None, actor), resource, request_id).await
}

/// Records a deed of a user, known by id and e-mail address, on how they or others sign in: that belongs to no organization.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn record_of_user(
    tx: &mut SystemTx,
    action: Action,
    (user, email): (UserId, &str),
    resource: impl ToString,
    request_id: Option<&str>,
) -> Result<()> {
    append_outside(tx, action, (Some(user), email), resource, request_id).await
}

async fn append_outside(
    tx: &mut SystemTx,
    action: Action,
    (user, actor): (Option<UserId>, &str),
    resource: impl ToString,
    request_id: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "SELECT audit_append(ARRAY[$1::uuid], ARRAY[NULL::uuid], ARRAY[$2::uuid], ARRAY[$3::text], ARRAY[$4::text],
             ARRAY[$5::text], ARRAY[$6::text], ARRAY[NULL::text])",
        Uuid::now_v7(),
        user as _,
        actor,
        action.as_str(),
        resource.to_string(),
        request_id,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(())
}

/// Records such deeds, each on something of its organization.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn record_system_all(
    tx: &mut SystemTx,
    actor: &str,
    deeds: impl IntoIterator<Item = (Option<OrgId>, Action, String)>,
) -> Result<()> {
    let (mut ids, mut owners, mut actions, mut resources) = (vec![], vec![], vec![], vec![]);
    for (owner, action, resource) in deeds {
        ids.push(Uuid::now_v7());
        owners.push(owner.map(|id| id.0));
        actions.push(action.as_str().to_owned());
        resources.push(resource);
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "SELECT audit_append(array_agg(id), array_agg(owner), array_agg(NULL::uuid), array_agg($5::text), array_agg(action),
             array_agg(resource), array_agg(NULL::text), array_agg(NULL::text))
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS t (id, owner, action, resource)",
        &ids,
        &owners as &[Option<Uuid>],
        &actions,
        &resources,
        actor,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(())
}
