//! What happened, newest first: system events and the audit log as one list.
//!
//! The order is that of the ids, which both are given when something happens, and times bound the ids. The invariant: a scope
//! sees its own rows of both, as it does in each alone.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Category, Level};
use crate::audit::Action;
use crate::id::{OrgId, UserId};
use crate::page::{Cursor, Place};
use crate::{Error, OrgTx, Result};

/// Nouns of audit actions, and the category that they belong to. Any other is of the system.
const NOUNS: &[(&str, Category)] = &[
    ("organization", Category::Organization),
    ("user", Category::User),
    ("verification", Category::User),
    ("email", Category::User),
    ("password_reset", Category::User),
    ("password", Category::User),
    ("session", Category::User),
    ("mfa", Category::User),
    ("recovery_code", Category::User),
    ("recovery_codes", Category::User),
    ("device", Category::User),
    ("login", Category::User),
    ("sdk_key", Category::User),
    ("developer_context", Category::User),
    ("notification", Category::User),
    ("role", Category::Role),
    ("form", Category::Form),
    ("upload", Category::Form),
    ("config", Category::Config),
    ("secret", Category::Secret),
    ("connection", Category::Oauth),
    ("execution", Category::Execution),
    ("workflow", Category::Execution),
    ("workflow_key", Category::Execution),
    ("schedule", Category::Execution),
];

/// Deeds that did not succeed: warnings, where every other is for information.
const WARNINGS: [Action; 3] = [Action::SessionRefused, Action::LoginRefused, Action::ConnectionFailed];

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Id.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// What it is about.
    pub category: Category,
    /// How bad it is.
    pub level: Level,
    /// In words.
    pub message: String,
    /// Who did it; `None` for the platform itself and for somebody who was not signed in.
    pub executed_by: Option<UserId>,
    /// The e-mail address of who did it, or what stands for it.
    pub executed_by_name: String,
    /// More about it: an object.
    pub details: Option<Value>,
}

/// What the list shows; part of its continuation token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filters {
    /// What it is about.
    pub category: Option<Category>,
    /// How bad it is, exactly.
    pub level: Option<Level>,
    /// At or after.
    pub since: Option<DateTime<Utc>>,
    /// At or before.
    pub until: Option<DateTime<Utc>>,
}

/// A row of either table. What only one of them has is null in the other.
#[derive(Debug)]
struct Row {
    id: Uuid,
    created_at: DateTime<Utc>,
    organization_id: Option<OrgId>,
    category: Option<String>,
    level: Option<String>,
    message: Option<String>,
    action: Option<String>,
    resource: Option<String>,
    actor_id: Option<UserId>,
    actor: Option<String>,
    request_id: Option<String>,
    details: Option<Value>,
}

/// Filters as the statements take them.
#[derive(Debug)]
struct Wanted {
    place: Place,
    /// The same for the audit log: before all ids where none of its rows can be wanted, or PostgreSQL would read all of it
    /// to find none.
    audit_before: Uuid,
    nouns: Vec<String>,
    /// Every noun but these.
    all_but_nouns: bool,
    warnings: Vec<String>,
    category: Option<&'static str>,
    level: Option<&'static str>,
}

/// A page of both tables, of the rows that `$of_scope` lets through: a condition on either, with its ` AND `.
macro_rules! happened {
    ($of_scope:literal, $wanted:expr, $filters:expr, $limit:expr, $offset:expr $(, $org:expr)? $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id AS "id!", created_at AS "created_at!", organization_id AS "organization_id: OrgId", category, level,
                   message, action, resource, actor_id AS "actor_id: UserId", actor, request_id, details AS "details: Value"
               FROM (
                   (SELECT id, created_at, organization_id, category, level, message, NULL AS action, NULL AS resource,
                        NULL::uuid AS actor_id, NULL AS actor, NULL AS request_id, details
                    FROM system_events
                    WHERE "# + $of_scope + r#"id < $1 AND id >= $2 AND ($3::text IS NULL OR category = $3)
                      AND ($4::text IS NULL OR level = $4)
                      AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at <= $6)
                    ORDER BY id DESC LIMIT $11::bigint + $12::bigint)
                   UNION ALL
                   (SELECT id, created_at, organization_id, NULL, NULL, NULL, action, resource, actor_id, actor, request_id,
                        details::jsonb
                    FROM audit_log
                    WHERE "# + $of_scope + r#"id < $7 AND id >= $2
                      AND (split_part(action, '.', 1) = ANY($8::text[])) <> $9::boolean
                      AND ($4::text IS NULL OR $4 = CASE WHEN action = ANY($10::text[]) THEN 'warning' ELSE 'info' END)
                      AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at <= $6)
                    ORDER BY id DESC LIMIT $11::bigint + $12::bigint)
               ) AS happened
               ORDER BY id DESC
               LIMIT $11 OFFSET $12"#,
            $wanted.place.before,
            $wanted.place.from,
            $wanted.category,
            $wanted.level,
            $filters.since,
            $filters.until,
            $wanted.audit_before,
            &$wanted.nouns,
            $wanted.all_but_nouns,
            &$wanted.warnings,
            $limit,
            $offset,
            $($org,)?
        )
    };
}

/// What happened in the scope, newest first: at most `limit` after `after`, once `offset` were skipped.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(
    tx: &mut OrgTx,
    filters: &Filters,
    limit: i64,
    offset: i64,
    after: Option<Cursor>,
) -> Result<Vec<Entry>> {
    let scope = tx.scope().clone();
    let wanted = Wanted::of(filters, after);
    let rows = if scope.spans_all() {
        happened!("", wanted, filters, limit, offset).fetch_all(tx.conn()).await?
    } else {
        let org = scope.org().map_or(Uuid::nil(), |org| org.0);
        // The chain's expression is what the indexes have; see the schema.
        happened!(
            "(CASE WHEN organization_id IS NULL
                 THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $13 AND ",
            wanted,
            filters,
            limit,
            offset,
            org,
        )
        .fetch_all(tx.conn())
        .await?
    };
    Ok(rows.into_iter().map(Entry::from).collect())
}

/// One entry of the scope, if it is of this category.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub async fn get(tx: &mut OrgTx, category: &str, id: Uuid) -> Result<Entry> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id!", created_at AS "created_at!", organization_id AS "organization_id: OrgId", category, level,
               message, action, resource, actor_id AS "actor_id: UserId", actor, request_id, details AS "details: Value"
           FROM (
               SELECT id, created_at, organization_id, category, level, message, NULL AS action, NULL AS resource,
                   NULL::uuid AS actor_id, NULL AS actor, NULL AS request_id, details
               FROM system_events WHERE id = $1
               UNION ALL
               SELECT id, created_at, organization_id, NULL, NULL, NULL, action, resource, actor_id, actor, request_id,
                   details::jsonb
               FROM audit_log WHERE id = $1
           ) AS happened"#,
        id,
    )
    .fetch_optional(tx.conn())
    .await?;
    let entry = row.map(Entry::from).filter(|entry| entry.category.as_str() == category);
    entry.ok_or(Error::NotFound("log entry"))
}

impl Entry {
    /// Where the next page begins after this row.
    pub fn cursor(&self) -> Cursor {
        Cursor(self.id)
    }
}

impl Wanted {
    fn of(filters: &Filters, after: Option<Cursor>) -> Self {
        let nouns_of = |fits: &dyn Fn(Category) -> bool| -> Vec<String> {
            let nouns = NOUNS.iter().filter(|(_, category)| fits(*category));
            nouns.map(|(noun, _)| (*noun).to_owned()).collect()
        };
        let (nouns, all_but_nouns) = match filters.category {
            None => (Vec::new(), true),
            Some(Category::System) => (nouns_of(&|_| true), true),
            Some(wanted) => (nouns_of(&|category| category == wanted), false),
        };
        let of_audit = match filters.level {
            Some(Level::Error | Level::Critical) => false,
            Some(Level::Warning) => WARNINGS
                .iter()
                .any(|action| filters.category.is_none_or(|wanted| category_of(action.as_str()) == wanted)),
            Some(Level::Info) | None => all_but_nouns || !nouns.is_empty(),
        };
        let place = Place::of(filters.since, filters.until, after);
        Self {
            place,
            audit_before: if of_audit { place.before } else { Uuid::nil() },
            nouns,
            all_but_nouns,
            warnings: WARNINGS.iter().map(|action| action.as_str().to_owned()).collect(),
            category: filters.category.map(Category::as_str),
            level: filters.level.map(Level::as_str),
        }
    }
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        match (row.action.clone(), row.category.clone(), row.level.clone()) {
            (None, Some(category), Some(level)) => Self {
                id: row.id,
                at: row.created_at,
                category: known(&Category::ALL, Category::as_str, &category, Category::System),
                level: known(&Level::ALL, Level::as_str, &level, Level::Info),
                message: row.message.unwrap_or_default(),
                executed_by: None,
                executed_by_name: "System".into(),
                details: with_organization(row.details, row.organization_id),
            },
            (action, ..) => of_audit(row, &action.unwrap_or_default()),
        }
    }
}

fn category_of(action: &str) -> Category {
    let noun = action.split('.').next().unwrap_or_default();
    NOUNS.iter().find(|(known, _)| *known == noun).map_or(Category::System, |found| found.1)
}

fn of_audit(row: Row, action: &str) -> Entry {
    let is_warning = WARNINGS.iter().any(|warning| warning.as_str() == action);
    let resource = row.resource.unwrap_or_default();
    let details = json!({
        "action": action, "resource": resource, "request_id": row.request_id,
        "details": row.details.filter(|details| !details.is_null()),
    });
    Entry {
        id: row.id,
        at: row.created_at,
        category: category_of(action),
        level: if is_warning { Level::Warning } else { Level::Info },
        message: format!("{}: {resource}", in_words(action)),
        executed_by: row.actor_id,
        executed_by_name: row.actor.unwrap_or_default(),
        details: with_organization(Some(details), row.organization_id),
    }
}

/// The value of this name; the table has no other names than these.
fn known<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str, otherwise: T) -> T {
    all.iter().copied().find(|value| name(*value) == text).unwrap_or(otherwise)
}

/// `sdk_key.created` as `Sdk key created`.
fn in_words(action: &str) -> String {
    let words = action.replace(['.', '_'], " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn with_organization(details: Option<Value>, organization: Option<OrgId>) -> Option<Value> {
    let Some(organization) = organization else { return details };
    let mut details = details.unwrap_or_else(|| json!({}));
    if let Some(members) = details.as_object_mut() {
        members.insert("organization_id".into(), json!(organization));
    }
    Some(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_read_as_words() {
        assert_eq!(in_words("sdk_key.created"), "Sdk key created");
        assert_eq!(in_words(""), "");
    }

    #[test]
    fn every_category_but_the_system_lists_its_nouns() {
        for category in Category::ALL {
            let wanted = Wanted::of(&Filters { category: Some(category), ..Filters::default() }, None);
            assert_eq!(wanted.all_but_nouns, category == Category::System);
            let of_events_alone = matches!(category, Category::Discovery | Category::Error);
            assert_eq!(wanted.nouns.is_empty(), of_events_alone, "{category:?}");
            assert_eq!(wanted.audit_before.is_nil(), of_events_alone, "{category:?}");
        }
        let all = Wanted::of(&Filters::default(), None);
        assert!(all.nouns.is_empty() && all.all_but_nouns && all.audit_before == all.place.before);
    }
}
