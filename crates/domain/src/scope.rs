//! Scopes: who acts, and within which organization. The only keys to a transaction.
//!
//! An [`OrgScope`] is minted in four places: the request's principal, the verified key of an endpoint, the claimed
//! execution row (never the message that woke the worker) and the due schedule.

use serde::Serialize;

use crate::id::{OrgId, UserId};
use crate::permissions::{Permission, PermissionSet};
use crate::sessions::Principal;
use crate::{Error, Result};

/// Address of the SYSTEM user, as its row has it.
const SYSTEM_EMAIL: &str = "system@bifrost.invalid";

/// Which rows a scope reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reach {
    /// One organization.
    Org(OrgId),
    /// The rows that belong to no organization.
    Global,
    /// Every organization: a platform administrator who named none.
    Platform,
    /// Nothing: a user without an organization.
    Nothing,
}

/// Who acts; recorded in executions and in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user.
    pub id: UserId,
    /// Display name.
    pub name: String,
    /// E-mail address.
    pub email: String,
    /// Whether the actor administers the platform.
    pub is_platform_admin: bool,
}

/// The right to act within one organization (or globally) on somebody's behalf.
#[derive(Debug, Clone)]
pub struct OrgScope {
    reach: Reach,
    actor: Actor,
    permissions: PermissionSet,
    request_id: Option<String>,
}

impl OrgScope {
    /// The scope of a request: the principal's own organization, or for a platform administrator the one
    /// that `requested` names (none: global for what is addressed by key, all for what is addressed by id).
    ///
    /// # Errors
    /// [`Error::Forbidden`] when a user names an organization that is not theirs.
    pub fn for_principal(
        principal: &Principal,
        requested: Option<OrgId>,
        request_id: Option<String>,
    ) -> Result<Self> {
        let reach = match (principal.is_superuser, principal.organization_id, requested) {
            (true, _, Some(org)) => Reach::Org(org),
            (true, _, None) => Reach::Platform,
            (false, Some(own), None) => Reach::Org(own),
            (false, Some(own), Some(org)) if own == org => Reach::Org(own),
            (false, None, None) => Reach::Nothing,
            (false, _, Some(_)) => return Err(Error::Forbidden("Access denied to organization".into())),
        };
        let actor = Actor {
            id: principal.user_id,
            name: principal.name.clone(),
            email: principal.email.clone(),
            is_platform_admin: principal.is_superuser,
        };
        Ok(Self { reach, actor, permissions: principal.permissions, request_id })
    }

    /// The scope of a run: what the claimed row says, whoever woke the worker. What roles allow their holder at
    /// the api is not lent to code.
    pub fn for_run(organization: Option<OrgId>, actor: Actor) -> Self {
        let reach = organization.map_or(Reach::Global, Reach::Org);
        Self { reach, actor, permissions: PermissionSet::NONE, request_id: None }
    }

    /// The scope of what no person does: a call with a key, or of a public endpoint, and a schedule. It acts as the
    /// SYSTEM user, who is no administrator.
    pub fn for_system(organization: Option<OrgId>, name: &str, request_id: Option<String>) -> Self {
        let actor = Actor {
            id: UserId::SYSTEM,
            name: name.to_owned(),
            email: SYSTEM_EMAIL.to_owned(),
            is_platform_admin: false,
        };
        Self { request_id, ..Self::for_run(organization, actor) }
    }

    /// The same actor in the scope of a row's owner.
    #[must_use]
    pub fn of_owner(&self, owner: Option<OrgId>) -> Self {
        if self.reach == owner.map_or(Reach::Global, Reach::Org) {
            return self.clone();
        }
        Self { request_id: self.request_id.clone(), ..Self::for_run(owner, self.actor.clone()) }
    }

    /// Narrows a platform-wide scope to the global rows, for operations that address by key or create.
    /// Any other scope stays as it is.
    pub fn narrowed(mut self) -> Self {
        if self.reach == Reach::Platform {
            self.reach = Reach::Global;
        }
        self
    }

    /// Widens a platform administrator's scope to every organization; any other stays as it is.
    pub fn widened(mut self) -> Self {
        if self.actor.is_platform_admin {
            self.reach = Reach::Platform;
        }
        self
    }

    /// Narrows a platform administrator's scope to one organization, or to the global rows; any other stays as it is.
    pub fn within(mut self, organization: Option<OrgId>) -> Self {
        if self.actor.is_platform_admin {
            self.reach = organization.map_or(Reach::Global, Reach::Org);
        }
        self
    }

    /// Whether the actor may do this in this scope: a platform administrator by right, anybody else by a role.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when no role allows it, or there is no organization to do it in.
    pub fn require(&self, permission: Permission) -> Result<()> {
        if self.actor.is_platform_admin {
            return Ok(());
        }
        if !self.permissions.holds(permission) {
            return Err(Error::Forbidden("Superuser privileges required".into()));
        }
        self.owner().map(drop)
    }

    /// Whether [`Self::require`] allows it.
    pub fn permits(&self, permission: Permission) -> bool {
        self.require(permission).is_ok()
    }

    /// Whether the actor holds all of these: nobody grants, or acts on somebody who holds, more than they hold.
    pub fn holds_all(&self, permissions: PermissionSet) -> bool {
        self.actor.is_platform_admin || self.permissions.holds_all(permissions)
    }

    /// Which rows it reaches.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The request that caused it, for the audit log.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The organization that new rows belong to; `None` for global ones.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for a user without an organization: missing context never means global.
    pub fn owner(&self) -> Result<Option<OrgId>> {
        match self.reach {
            Reach::Org(org) => Ok(Some(org)),
            Reach::Global | Reach::Platform => Ok(None),
            Reach::Nothing => Err(Error::Forbidden("No organization context".into())),
        }
    }

    /// The value of `bifrost.org_id` that row-level security compares with.
    pub(crate) fn setting(&self) -> String {
        match self.reach {
            Reach::Org(org) => org.to_string(),
            Reach::Global => "GLOBAL".into(),
            Reach::Platform => "PLATFORM".into(),
            Reach::Nothing => String::new(),
        }
    }

    /// Whether lists span all organizations.
    pub(crate) fn spans_all(&self) -> bool {
        self.reach == Reach::Platform
    }

    /// The organization to filter by; `None` filters for global rows.
    pub(crate) fn org(&self) -> Option<OrgId> {
        match self.reach {
            Reach::Org(org) => Some(org),
            _ => None,
        }
    }
}

/// The right to act for the platform itself, past row-level security. Each use says why.
#[derive(Debug, Clone, Copy)]
pub struct SystemScope {
    reason: &'static str,
}

impl SystemScope {
    /// A system scope with the reason a reviewer would accept.
    pub const fn because(reason: &'static str) -> Self {
        Self { reason }
    }

    /// The reason given.
    pub fn reason(self) -> &'static str {
        self.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    fn principal(organization_id: Option<OrgId>, names: &[&str], is_superuser: bool) -> Principal {
        Principal {
            session_id: SessionId::generate(),
            user_id: UserId::generate(),
            organization_id,
            email: "ada@example.com".into(),
            name: "Ada".into(),
            user_type: if is_superuser { "PLATFORM" } else { "ORG" }.into(),
            is_superuser,
            roles: Vec::new(),
            permissions: PermissionSet::from_names(names),
        }
    }

    fn refusal(principal: &Principal) -> Option<String> {
        let scope = OrgScope::for_principal(principal, None, None).expect("their own scope");
        scope.require(Permission::UsersRead).err().map(|error| error.to_string())
    }

    #[test]
    fn only_an_administrator_or_a_holder_within_an_organization_may() {
        let org = Some(OrgId::generate());
        assert_eq!(refusal(&principal(None, &[], true)), None);
        assert_eq!(refusal(&principal(org, &["users.read"], false)), None);
        assert_eq!(refusal(&principal(org, &["users.manage"], false)), None, "which includes it");
        let without = refusal(&principal(org, &["roles.manage"], false));
        assert_eq!(without.as_deref(), Some("Superuser privileges required"));
        let nowhere = refusal(&principal(None, &["users.read"], false));
        assert_eq!(nowhere.as_deref(), Some("No organization context"));
    }

    #[test]
    fn a_run_has_no_permission_of_its_caller() {
        let actor =
            Actor { id: UserId::generate(), name: "n".into(), email: "e".into(), is_platform_admin: false };
        let scope = OrgScope::for_run(Some(OrgId::generate()), actor);
        assert!(Permission::ALL.iter().all(|permission| !scope.permits(*permission)));
    }
}
