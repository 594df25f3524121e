//! Names of channels, and who may listen.

use std::str::FromStr;

use domain::Permission;
use domain::events::{Notice, Progress, Topic, Update};
use domain::id::{ExecutionId, OrgId, UserId};
use domain::sessions::Principal;

/// What a client may listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Channel {
    /// One execution; whether it may be read is asked of its row.
    Execution(ExecutionId),
    /// What concerns one user.
    User(UserId),
    /// The notifications of a user.
    Notification(UserId),
    /// The notifications meant for platform administrators.
    AdminNotifications,
    /// How far the package builds are that a user asked for.
    Package(UserId),
    /// How far the git jobs are that a user asked for.
    Git(UserId),
    /// Changes of state of an organization's executions; `None`: of the global ones.
    History(Option<OrgId>),
    /// What concerns everybody.
    System,
}

impl FromStr for Channel {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (kind, id) = name.split_once(':').unwrap_or((name, ""));
        match kind {
            "execution" => id.parse().map(Self::Execution).map_err(drop),
            "user" => id.parse().map(Self::User).map_err(drop),
            "notification" if id == "admins" => Ok(Self::AdminNotifications),
            "notification" => id.parse().map(Self::Notification).map_err(drop),
            "package" => id.parse().map(Self::Package).map_err(drop),
            "git" => id.parse().map(Self::Git).map_err(drop),
            "history" if id == "GLOBAL" => Ok(Self::History(None)),
            "history" => id.parse().map(|org| Self::History(Some(org))).map_err(drop),
            "system" if id.is_empty() => Ok(Self::System),
            _ => Err(()),
        }
    }
}

impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Execution(id) => write!(f, "execution:{id}"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Notification(id) => write!(f, "notification:{id}"),
            Self::AdminNotifications => f.write_str("notification:admins"),
            Self::Package(id) => write!(f, "package:{id}"),
            Self::Git(id) => write!(f, "git:{id}"),
            Self::History(Some(org)) => write!(f, "history:{org}"),
            Self::History(None) => f.write_str("history:GLOBAL"),
            Self::System => f.write_str("system"),
        }
    }
}

impl Channel {
    /// The channel of a background job.
    pub(super) fn of_job(progress: &Progress) -> Self {
        match progress.topic {
            Topic::Package => Self::Package(progress.user_id),
            Topic::Git => Self::Git(progress.user_id),
        }
    }

    /// Whether this principal may listen, as far as the name says; an execution's row has the last word.
    pub(super) fn is_open_to(self, principal: &Principal) -> bool {
        match self {
            Self::Execution(_) | Self::System => true,
            Self::User(id) | Self::Notification(id) | Self::Package(id) | Self::Git(id) => {
                id == principal.user_id
            }
            Self::AdminNotifications | Self::History(None) => principal.is_superuser,
            Self::History(org) => principal.is_superuser || org == principal.organization_id,
        }
    }

    /// Whether what became of a notification is told here.
    pub(super) fn tells_of(self, notice: &Notice) -> bool {
        match self {
            Self::User(id) | Self::Notification(id) => id == notice.user_id(),
            Self::AdminNotifications => notice.is_for_admins(),
            _ => false,
        }
    }

    /// Whether a change of state is told to this listener of a history: users hear of their own runs only, unless a role
    /// opens those of the organization, and nobody of transient ones.
    pub(super) fn tells(self, update: &Update, principal: &Principal) -> bool {
        self == Self::History(update.org_id)
            && !update.transient
            && (principal.is_superuser
                || update.executed_by == principal.user_id
                || principal.permissions.holds(Permission::ExecutionsRead))
    }
}

#[cfg(test)]
mod tests {
    use domain::PermissionSet;
    use domain::id::SessionId;

    use super::*;

    fn member(organization: OrgId) -> Principal {
        Principal {
            session_id: SessionId::generate(),
            user_id: UserId::generate(),
            organization_id: Some(organization),
            email: "ada@example.com".into(),
            name: "Ada".into(),
            user_type: "ORG".into(),
            is_superuser: false,
            roles: Vec::new(),
            permissions: PermissionSet::NONE,
        }
    }

    #[test]
    fn every_channel_reads_back_from_its_name() {
        let all = [
            Channel::Execution(ExecutionId::generate()),
            Channel::User(UserId::generate()),
            Channel::Notification(UserId::generate()),
            Channel::AdminNotifications,
            Channel::Package(UserId::generate()),
            Channel::Git(UserId::generate()),
            Channel::History(Some(OrgId::generate())),
            Channel::History(None),
            Channel::System,
        ];
        for channel in all {
            assert_eq!(channel.to_string().parse(), Ok(channel));
        }
        for wrong in
            ["", "execution", "execution:1", "history:", "system:x", "notification:", "notification:x"]
        {
            assert_eq!(wrong.parse::<Channel>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_user_hears_only_of_themselves_and_their_organization() {
        let (own, other) = (OrgId::generate(), OrgId::generate());
        let user = member(own);
        assert!(Channel::User(user.user_id).is_open_to(&user));
        assert!(Channel::History(Some(own)).is_open_to(&user));
        assert!(!Channel::User(UserId::generate()).is_open_to(&user));
        assert!(Channel::Git(user.user_id).is_open_to(&user));
        assert!(Channel::Notification(user.user_id).is_open_to(&user));
        assert!(!Channel::Notification(UserId::generate()).is_open_to(&user));
        assert!(!Channel::AdminNotifications.is_open_to(&user));
        assert!(Channel::AdminNotifications.is_open_to(&Principal { is_superuser: true, ..user.clone() }));
        for foreign in [Channel::Package(UserId::generate()), Channel::Git(UserId::generate())] {
            assert!(!foreign.is_open_to(&user));
        }
        assert!(!Channel::History(Some(other)).is_open_to(&user));
        assert!(!Channel::History(None).is_open_to(&user));
        let nowhere = Principal { organization_id: None, ..user };
        assert!(!Channel::History(None).is_open_to(&nowhere), "no organization is not the global one");
    }
}
