//! Permissions: what a role lets users of an organization do beyond what membership allows (ADR 20).
//!
//! The invariant: a permission acts inside the holder's own organization. It crosses to no other one, touches no
//! global row, and makes nobody a platform administrator; those hold every permission by right.

use std::fmt;
use std::str::FromStr;

use crate::{Error, FieldError, Result};

macro_rules! permissions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(includes $included:ident)?),+ $(,)?) => {
        /// One thing that a role may allow.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Permission {
            $($(#[$doc])* $variant,)+
        }

        impl Permission {
            /// Every permission there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that roles store: dotted noun and verb.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it cannot be used without.
            const fn included(self) -> Option<Self> {
                match self {
                    $($(Self::$variant => Some(Self::$included),)?)+
                    _ => None,
                }
            }
        }
    };
}

permissions! {
    /// See the users of the organization.
    UsersRead = "users.read",
    /// Invite, change and remove users of the organization.
    UsersManage = "users.manage" includes UsersRead,
    /// See roles and who has them.
    RolesRead = "roles.read",
    /// Create, change and assign roles of the organization.
    RolesManage = "roles.manage" includes RolesRead,
    /// Create, change and remove forms of the organization.
    FormsManage = "forms.manage",
    /// See, set and remove configuration of the organization.
    ConfigManage = "config.manage",
    /// See the names of, set and remove secrets of the organization.
    SecretsManage = "secrets.manage",
    /// Run workflows by name; inline code stays with platform administrators.
    WorkflowsExecute = "workflows.execute",
    /// See every execution of the organization, as its owner sees it.
    ExecutionsRead = "executions.read",
    /// Cancel every execution of the organization.
    ExecutionsCancel = "executions.cancel" includes ExecutionsRead,
    /// Read the audit log of the organization.
    AuditRead = "audit.read",
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Permission {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|permission| permission.as_str() == name).ok_or(())
    }
}

/// The permissions somebody holds, with all that these include.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u32);

impl PermissionSet {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether it has this one.
    pub fn holds(self, permission: Permission) -> bool {
        self.0 & bit(permission) != 0
    }

    /// Whether it has all of `other`.
    pub fn holds_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What stored names stand for. A name that this version does not know grants nothing.
    pub fn from_names(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        names.into_iter().filter_map(|name| name.as_ref().parse().ok()).collect()
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let mut bits = 0;
        for permission in permissions {
            let mut next = Some(permission);
            while let Some(permission) = next {
                bits |= bit(permission);
                next = permission.included();
            }
        }
        Self(bits)
    }
}

/// Reads names that somebody sent, without doubles and in the order of [`Permission::ALL`].
///
/// # Errors
/// [`Error::Invalid`] with a pointer below `pointer` for every name that is none.
pub fn parse(pointer: &str, names: &[String]) -> Result<Vec<Permission>> {
    let unknown: Vec<FieldError> = names
        .iter()
        .enumerate()
        .filter(|(_, name)| name.parse::<Permission>().is_err())
        .map(|(index, _)| FieldError {
            pointer: format!("{pointer}/{index}"),
            detail: format!("is no permission; there are {}", names_of(Permission::ALL).join(", ")),
        })
        .collect();
    if !unknown.is_empty() {
        return Err(Error::Invalid(unknown));
    }
    let named = |permission: &Permission| names.iter().any(|name| name == permission.as_str());
    Ok(Permission::ALL.iter().copied().filter(named).collect())
}

/// The names of these permissions.
pub fn names_of(permissions: &[Permission]) -> Vec<&'static str> {
    permissions.iter().map(|permission| permission.as_str()).collect()
}

fn bit(permission: Permission) -> u32 {
    1 << (permission as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_reads_back_from_its_name() {
        for permission in Permission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
        }
        for wrong in ["", "users", "users.", "Users.Read", "users.read ", "*", "platform.admin"] {
            assert_eq!(wrong.parse::<Permission>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn managing_includes_reading_and_nothing_else() {
        let manager = PermissionSet::from_iter([Permission::UsersManage]);
        let held: Vec<_> = Permission::ALL.iter().filter(|one| manager.holds(**one)).collect();
        assert_eq!(held, [&Permission::UsersRead, &Permission::UsersManage]);
        assert!(manager.holds_all(PermissionSet::from_names(["users.read"])));
        assert!(!PermissionSet::from_names(["users.read"]).holds_all(manager));
        assert!(PermissionSet::NONE.holds_all(PermissionSet::from_names(["unknown.to.us"])));
    }

    #[test]
    fn an_unknown_name_is_pointed_at() {
        let names = ["users.read".to_owned(), "everything".to_owned()];
        let Err(Error::Invalid(errors)) = parse("/permissions", &names) else { panic!("must be refused") };
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].pointer, "/permissions/1");

        let doubled = ["users.manage".to_owned(), "users.read".to_owned(), "users.manage".to_owned()];
        let parsed = parse("/permissions", &doubled).expect("all known");
        assert_eq!(parsed, [Permission::UsersRead, Permission::UsersManage]);
    }
}
