//! Reading the audit log, newest first, by keyset.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::id::{OrgId, UserId};
use crate::page::Cursor;
use crate::{OrgTx, Result};

/// One row of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Id.
    pub id: Uuid,
    /// Place in the chain of its organization, from 1.
    pub sequence: i64,
    /// Organization it happened in; `None` for the platform's own.
    pub organization_id: Option<OrgId>,
    /// Who did it; `None` for somebody who was not signed in.
    pub actor_id: Option<UserId>,
    /// E-mail address of the actor, or what stands for it.
    pub actor: String,
    /// Dotted noun and verb.
    pub action: String,
    /// What it was done to.
    pub resource: String,
    /// The request that did it.
    pub request_id: Option<String>,
    /// More about it, a JSON value.
    pub details: Option<serde_json::Value>,
    /// When.
    pub created_at: DateTime<Utc>,
    /// SHA-256 over the hash before and this row.
    pub hash: Vec<u8>,
}

/// What a list shows; part of its continuation token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filters {
    /// Exact e-mail address of the actor.
    pub actor: Option<String>,
    /// Exact action, or everything of a noun (`user`).
    pub action: Option<String>,
    /// Exact resource.
    pub resource: Option<String>,
    /// At or after.
    pub since: Option<DateTime<Utc>>,
    /// At or before.
    pub until: Option<DateTime<Utc>>,
}

/// Rows of the scope, newest first, at most `limit`, after `after`.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list(
    tx: &mut OrgTx,
    filters: &Filters,
    limit: i64,
    after: Option<Cursor>,
) -> Result<Vec<Entry>> {
    let scope = tx.scope().clone();
    let (action, noun) = match filters.action.as_deref() {
        Some(action) if action.contains('.') => (Some(action), None),
        noun => (None, noun.map(|noun| format!("{noun}."))),
    };
    if scope.spans_all() {
        return Ok(sqlx::query_as!(
            Entry,
            r#"SELECT id, sequence, organization_id AS "organization_id: OrgId", actor_id AS "actor_id: UserId", actor, action,
                   resource, request_id, details, created_at, hash
               FROM audit_log
               WHERE ($1::uuid IS NULL OR id < $1)
                 AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
                 AND ($4::text IS NULL OR starts_with(action, $4)) AND ($5::text IS NULL OR resource = $5)
                 AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at <= $7)
               ORDER BY id DESC
               LIMIT $8"#,
            after.map(|cursor| cursor.0),
            filters.actor,
            action,
            noun,
            filters.resource,
            filters.since,
            filters.until,
            limit,
        )
        .fetch_all(tx.conn())
        .await?);
    }
    let before = after.map(|cursor| i64::try_from(cursor.0.as_u128()).unwrap_or_default());
    Ok(sqlx::query_as!(
        Entry,
        r#"SELECT id, sequence, organization_id AS "organization_id: OrgId", actor_id AS "actor_id: UserId", actor, action,
               resource, request_id, details, created_at, hash
           FROM audit_log
           -- As the index has it; see the schema.
           WHERE (CASE WHEN organization_id IS NULL
                 THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $9
             AND ($1::bigint IS NULL OR sequence < $1)
             AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
             AND ($4::text IS NULL OR starts_with(action, $4)) AND ($5::text IS NULL OR resource = $5)
             AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at <= $7)
           ORDER BY sequence DESC
           LIMIT $8"#,
        before,
        filters.actor,
        action,
        noun,
        filters.resource,
        filters.since,
        filters.until,
        limit,
        scope.org().map_or(Uuid::nil(), |org| org.0),
    )
    .fetch_all(tx.conn())
    .await?)
}

impl Entry {
    /// Where the next page begins after this row, in a list of that scope.
    pub fn cursor(&self, scope: &crate::OrgScope) -> Cursor {
        // Within a chain the sequence orders; across chains only ids can be compared.
        let by_sequence = || Uuid::from_u128(u128::try_from(self.sequence).unwrap_or_default());
        Cursor(if scope.spans_all() { self.id } else { by_sequence() })
    }
}
