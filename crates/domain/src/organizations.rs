//! Organizations: the tenants. Deleted softly; a domain is unique among the active ones.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::error::OnConstraint;
use crate::id::OrgId;
use crate::page::NameCursor;
use crate::remembered::get_or_find;
use crate::{Db, Error, OrgTx, Result, SystemScope};

/// How old the answer may be. It stays below the five seconds within which a deactivation must act.
const ACTIVITY_TTL: Duration = Duration::from_secs(2);
const ACTIVITY: SystemScope = SystemScope::because("a submission is checked whatever scope it comes from");

/// An organization as stored.
#[derive(Debug, Clone)]
pub struct Organization {
    /// Id.
    pub id: OrgId,
    /// Display name, 1 to 255 characters.
    pub name: String,
    /// E-mail domain whose users belong here, in lower case.
    pub domain: Option<String>,
    /// Whether its users may sign in and its executions start.
    pub is_active: bool,
    /// Settings of the client; `concurrency_limit` among them bounds the executions that run at once,
    /// and `history_days` how long those that ended are kept.
    pub settings: Value,
    /// E-mail of the creator.
    pub created_by: String,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// What it takes to create one.
#[derive(Debug, Clone)]
pub struct NewOrganization {
    /// Display name.
    pub name: String,
    /// E-mail domain.
    pub domain: Option<String>,
    /// Whether it starts active.
    pub is_active: bool,
    /// Free settings.
    pub settings: Value,
}

/// A partial update: `None` leaves a member as it is, an empty domain clears it.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// New name.
    pub name: Option<String>,
    /// New domain.
    pub domain: Option<String>,
    /// New state.
    pub is_active: Option<bool>,
    /// New settings, replacing all.
    pub settings: Option<Value>,
}

/// The member of the settings that limits how many of its executions run at once.
const CONCURRENCY_LIMIT: &str = "concurrency_limit";
const HIGHEST_LIMIT: u64 = 100_000;
/// The member that says for how many days it keeps executions that ended, where the platform keeps them longer.
const HISTORY_DAYS: &str = "history_days";
/// A hundred years.
pub(crate) const MOST_HISTORY_DAYS: i32 = 36_500;

/// Adds an organization.
///
/// # Errors
/// [`Error::Invalid`] for a bad name or domain, [`Error::Conflict`] for a domain in use.
pub async fn insert(tx: &mut OrgTx, new: NewOrganization) -> Result<Organization> {
    let name = valid_name(&new.name)?;
    let domain = new.domain.as_deref().map(valid_domain).transpose()?.flatten();
    check_settings(&new.settings)?;
    let created_by = tx.scope().actor().email.clone();
    sqlx::query_as!(
        Organization,
        r#"INSERT INTO organizations (id, name, domain, is_active, settings, created_by)
           VALUES ($1, $2, $3, $4, $5, $6)
           RETURNING id AS "id: OrgId", name, domain, is_active, settings, created_by, created_at, updated_at"#,
        OrgId::generate() as _,
        name,
        domain,
        new.is_active,
        new.settings,
        created_by,
    )
    .fetch_one(tx.conn())
    .await
    .on_constraint("organizations_domain_key", domain_taken)
}

/// The active organizations of the scope, by name, at most `limit`, after `after`.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, limit: i64, after: &NameCursor) -> Result<Vec<Organization>> {
    let rows = sqlx::query_as!(
        Organization,
        r#"SELECT id AS "id: OrgId", name, domain, is_active, settings, created_by, created_at, updated_at
           FROM organizations
           WHERE is_active AND (name COLLATE "C", id) > ($1, $2)
           ORDER BY name COLLATE "C", id
           LIMIT $3"#,
        after.name,
        after.id,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}

/// One organization of the scope, active or not.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(tx: &mut OrgTx, id: OrgId) -> Result<Organization> {
    sqlx::query_as!(
        Organization,
        r#"SELECT id AS "id: OrgId", name, domain, is_active, settings, created_by, created_at, updated_at
           FROM organizations
           WHERE id = $1"#,
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("organization"))
}

/// Changes an organization.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`] as for [`insert`].
pub async fn update(tx: &mut OrgTx, id: OrgId, changes: Changes) -> Result<Organization> {
    let name = changes.name.as_deref().map(valid_name).transpose()?;
    changes.settings.as_ref().map(check_settings).transpose()?;
    let set_domain = changes.domain.is_some();
    let domain = match changes.domain.as_deref().map(valid_domain).transpose() {
        Ok(domain) => domain.flatten(),
        // One that was taken under other rules may stay.
        Err(fault) => match get(tx, id).await?.domain {
            Some(old) if changes.domain.is_some_and(|new| new.trim().to_lowercase() == old) => Some(old),
            _ => return Err(fault),
        },
    };
    sqlx::query_as!(
        Organization,
        r#"UPDATE organizations
           SET name = COALESCE($2, name),
               domain = CASE WHEN $3 THEN $4 ELSE domain END,
               is_active = COALESCE($5, is_active),
               settings = COALESCE($6, settings),
               updated_at = now()
           WHERE id = $1
           RETURNING id AS "id: OrgId", name, domain, is_active, settings, created_by, created_at, updated_at"#,
        id as _,
        name,
        set_domain,
        domain,
        changes.is_active,
        changes.settings,
    )
    .fetch_optional(tx.conn())
    .await
    .on_constraint("organizations_domain_key", domain_taken)?
    .ok_or(Error::NotFound("organization"))
}

/// Which organizations are active, remembered for a moment: asked for every submission, and a deactivation must act
/// within seconds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Activity {
    db: Db,
    known: moka::future::Cache<OrgId, bool>,
}

impl Activity {
    /// Asks this database.
    pub fn new(db: Db) -> Self {
        let known = moka::future::Cache::builder().max_capacity(10_000).time_to_live(ACTIVITY_TTL).build();
        Self { db, known }
    }

    /// Makes sure that executions of this organization may start.
    ///
    /// # Errors
    /// [`Error::Impossible`] when it is inactive, [`Error::Unavailable`] when nobody can tell.
    pub async fn require(&self, id: OrgId) -> Result<()> {
        match get_or_find(&self.known, id, async || is_active(&self.db, id).await).await? {
            true => Ok(()),
            false => Err(Error::Impossible("the organization is inactive; nothing runs in it".into())),
        }
    }
}

async fn is_active(db: &Db, id: OrgId) -> Result<bool> {
    let mut conn = db.system(&ACTIVITY).await?;
    let found = sqlx::query_scalar!("SELECT is_active FROM organizations WHERE id = $1", id as _)
        .fetch_optional(&mut *conn)
        .await?;
    Ok(found.unwrap_or(false))
}

/// The active organization that has the domain of this address.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn of_address(conn: &mut PgConnection, email: &str) -> Result<Option<OrgId>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id: OrgId" FROM organizations WHERE domain = $1 AND is_active"#,
        domain_of(email),
    )
    .fetch_optional(conn)
    .await?)
}

/// The domain of an address.
pub(crate) fn domain_of(email: &str) -> &str {
    email.rsplit('@').next().unwrap_or_default()
}

fn valid_name(name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 255 {
        return Err(Error::invalid("/name", "must have 1 to 255 characters"));
    }
    Ok(name.to_owned())
}

/// Settings are the client's, but for the members that the server acts on.
fn check_settings(settings: &Value) -> Result<()> {
    for (name, most) in
        [(CONCURRENCY_LIMIT, HIGHEST_LIMIT), (HISTORY_DAYS, u64::from(MOST_HISTORY_DAYS.unsigned_abs()))]
    {
        match settings.get(name) {
            None | Some(Value::Null) => {}
            Some(number) if number.as_u64().is_some_and(|number| (1..=most).contains(&number)) => {}
            Some(_) => {
                let message = format!("must be a whole number from 1 to {most}");
                return Err(Error::invalid(format!("/settings/{name}"), message));
            }
        }
    }
    Ok(())
}

fn valid_domain(domain: &str) -> Result<Option<String>> {
    let domain = domain.trim().to_lowercase();
    if domain.is_empty() {
        return Ok(None);
    }
    if !(domain.contains('.') && is_host_name(&domain)) {
        return Err(Error::invalid("/domain", "must be a domain name such as example.com"));
    }
    Ok(Some(domain))
}

/// Whether this can be the name of a host, in letters of any script: an address or a domain that is none serves nobody.
pub(crate) fn is_host_name(name: &str) -> bool {
    name.len() <= 255 && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    // Beyond ASCII, words have marks that are neither letters nor digits.
    let fits = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '-',
        false => !c.is_whitespace() && !c.is_control(),
    };
    !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(fits)
}

fn domain_taken() -> Error {
    Error::Conflict("another active organization has this domain".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_the_name_of_a_host() {
        for domain in
            ["acme.example", " ACME.example ", "a-b.c1.example", "1.example", "zürich.ch", "हिन्दी.भारत"]
        {
            assert_eq!(valid_domain(domain).expect(domain), Some(domain.trim().to_lowercase()));
        }
        assert_eq!(valid_domain(" ").expect("clears it"), None);
        let long = format!("{}.example", "a".repeat(250));
        for none in [
            ".",
            "..",
            "acme",
            "a b.c",
            "http://a.b",
            "a/b.c",
            "-a.b",
            "a-.b",
            "a.-b",
            "ab.c.",
            ".ab.c",
            "a..b",
            "a@b.c",
            "a_b.c",
            "a,b.c",
            "a.b:80",
            long.as_str(),
        ] {
            assert!(valid_domain(none).is_err(), "{none}");
        }
    }
}
