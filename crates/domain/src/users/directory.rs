//! Finding users: one by id or e-mail, pages by e-mail. The SYSTEM user is never among them.

use std::str::FromStr;

use serde::Serialize;

use super::User;
use crate::id::{OrgId, RoleId, UserId};
use crate::page::NameCursor;
use crate::{Error, OrgTx, Result};

/// How a user is addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserKey {
    /// By id.
    Id(UserId),
    /// By e-mail address, lower case.
    Email(String),
}

/// What a list shows; part of its continuation token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filters {
    /// Platform administrators, or people of organizations.
    pub kind: Option<Kind>,
    /// Of this organization.
    pub organization: Option<OrgId>,
}

/// The two kinds of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// Platform administrators, who belong to no organization.
    Platform,
    /// Everybody else.
    Org,
}

impl FromStr for UserKey {
    type Err = ();

    /// Any text but one that no database holds names a user; whether there is one is another question.
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.contains('\0') {
            return Err(());
        }
        Ok(text.trim().parse().map_or_else(|_| Self::Email(text.trim().to_lowercase()), Self::Id))
    }
}

impl UserKey {
    /// Whether it means this user.
    pub fn means(&self, id: UserId, email: &str) -> bool {
        match self {
            Self::Id(own) => *own == id,
            Self::Email(own) => own == email,
        }
    }

    pub(crate) fn id(&self) -> Option<UserId> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Email(_) => None,
        }
    }

    pub(crate) fn email(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Email(email) => Some(email),
        }
    }
}

macro_rules! query_users {
    ($rest:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            User,
            r#"SELECT id AS "id: UserId", organization_id AS "organization_id: OrgId", email, name, user_type, is_active,
                   is_superuser, is_verified, is_registered, mfa_enabled, last_login, created_at, updated_at
               FROM users "# + $rest
            $(, $argument)*
        )
    };
}

/// One user of the scope, active or not.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(tx: &mut OrgTx, key: &UserKey) -> Result<User> {
    query_users!("WHERE (id = $1 OR email = $2) AND user_type <> 'SYSTEM'", key.id() as _, key.email())
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("user"))
}

/// The same, held until the transaction ends, so that two changes of one user come one after the other.
pub(super) async fn lock(tx: &mut OrgTx, key: &UserKey) -> Result<User> {
    query_users!(
        "WHERE (id = $1 OR email = $2) AND user_type <> 'SYSTEM' FOR UPDATE",
        key.id() as _,
        key.email()
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("user"))
}

/// The active users of the scope by e-mail, at most `limit`, after `after`.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
// One statement per order that has an index: a condition that may or may not apply would hide the index.
pub async fn list(tx: &mut OrgTx, filters: &Filters, limit: i64, after: &NameCursor) -> Result<Vec<User>> {
    let scope = tx.scope().org();
    let organization = match (scope, filters.organization) {
        (Some(own), Some(other)) if own != other => return Ok(Vec::new()),
        (own, named) => own.or(named),
    };
    let users = match (organization, filters.kind) {
        (Some(_), Some(Kind::Platform)) => return Ok(Vec::new()),
        (Some(organization), _) => {
            query_users!(
                r#"WHERE organization_id = $1 AND is_active AND (email COLLATE "C", id) > ($2, $3)
                   ORDER BY email COLLATE "C", id
                   LIMIT $4"#,
                organization as _,
                after.name,
                after.id,
                limit,
            )
            .fetch_all(tx.conn())
            .await?
        }
        (None, Some(kind)) => {
            query_users!(
                r#"WHERE user_type = $1 AND is_active AND (email COLLATE "C", id) > ($2, $3)
                   ORDER BY email COLLATE "C", id
                   LIMIT $4"#,
                kind.user_type(),
                after.name,
                after.id,
                limit,
            )
            .fetch_all(tx.conn())
            .await?
        }
        (None, None) => {
            query_users!(
                r#"WHERE user_type <> 'SYSTEM' AND is_active AND (email COLLATE "C", id) > ($1, $2)
                   ORDER BY email COLLATE "C", id
                   LIMIT $3"#,
                after.name,
                after.id,
                limit,
            )
            .fetch_all(tx.conn())
            .await?
        }
    };
    Ok(users)
}

/// The active roles that a user of the scope has, global ones included, by id.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn role_ids(tx: &mut OrgTx, user: &User) -> Result<Vec<RoleId>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT r.id AS "id: RoleId"
           FROM user_roles ur
           JOIN roles r ON r.id = ur.role_id
           WHERE ur.user_id = $1 AND r.is_active AND (r.organization_id IS NULL OR r.organization_id = $2)
           ORDER BY r.id"#,
        user.id as _,
        user.organization_id as _,
    )
    .fetch_all(tx.conn())
    .await?)
}

impl Kind {
    fn user_type(self) -> &'static str {
        match self {
            Self::Platform => "PLATFORM",
            Self::Org => "ORG",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_id_or_by_email() {
        let id = UserId::generate();
        assert_eq!(id.to_string().parse(), Ok(UserKey::Id(id)));
        let email: UserKey = " Ada@Example.com".parse().expect("any text");
        assert!(email.means(id, "ada@example.com") && !email.means(id, "bob@example.com"));
        assert_eq!("a\0@example.com".parse::<UserKey>(), Err(()));
    }
}
