//! Identifiers: one newtype per noun, so that two kinds of id cannot be mixed up. New ids are UUIDv7.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, greater than every earlier one of this process.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )+};
}

ids! {
    /// A customer organization: the tenant.
    OrgId,
    /// A person, or the SYSTEM user.
    UserId,
    /// A role: what its users may do, and which forms they reach.
    RoleId,
    /// A sign-in: a family of refresh tokens.
    SessionId,
    /// A form.
    FormId,
    /// A workflow or data provider discovered in the workspace.
    WorkflowId,
    /// A key of a user, for the SDK on their machine.
    SdkKeyId,
    /// A key that calls endpoints of workflows.
    WorkflowKeyId,
    /// One execution, over all its attempts.
    ExecutionId,
    /// A background job: a git job or a package build.
    JobId,
    /// What the platform tells a user about work that goes on without them.
    NotificationId,
    /// A worker process, as lease owner; new at every start.
    WorkerId,
}

impl UserId {
    /// Owns the runs that no person started: keys, public endpoints, schedules.
    pub const SYSTEM: Self = Self(Uuid::from_u128(1));
}

/// Not greater than any UUIDv7 of this millisecond or later.
pub(crate) fn first_id_at(moment: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(moment.timestamp_millis()).unwrap_or_default();
    // Years of four digits fit into the 48 bits.
    Uuid::from_u128(milliseconds << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_by_the_time_they_carry() {
        let (before, id, after) = (Utc::now(), Uuid::now_v7(), Utc::now());
        assert!(first_id_at(before) <= id);
        assert!(first_id_at(after + chrono::TimeDelta::milliseconds(1)) > id);
        assert_eq!(first_id_at(DateTime::<Utc>::MIN_UTC), Uuid::nil());
    }
}
