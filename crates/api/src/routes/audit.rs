//! The audit log, for those who may read it.

use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::audit::list::{self, Entry, Filters};
use domain::page::Cursor;
use domain::permissions::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Json, Query, Signed, time, whole_number};
use crate::problem::{Problem, Problems};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_audit))
}

/// Which rows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Exact e-mail address of the actor.
    actor: Option<String>,
    /// Exact action (`secret.read`), or a noun for all of its actions (`secret`).
    action: Option<String>,
    /// Exact resource (`secret/directory_token`).
    resource: Option<String>,
    /// At or after this time, RFC 3339.
    #[param(value_type = Option<DateTime<Utc>>)]
    start_date: Option<String>,
    /// At or before this time, RFC 3339.
    #[param(value_type = Option<DateTime<Utc>>)]
    end_date: Option<String>,
    /// Rows of a page.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 50)]
    limit: Option<String>,
    /// From the answer before, for the rows after it; the filters must be the same.
    continuation_token: Option<String>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
struct AuditListResponse {
    entries: Vec<AuditEntry>,
    /// For the next page; null at the end.
    continuation_token: Option<String>,
}

/// Who did what.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "sequence": 42, "organization_id": null, "actor_id": null,
    "actor": "ada@example.com", "action": "secret.set", "resource": "secret/directory_token", "request_id": null,
    "details": null, "created_at": "2026-11-25T10:00:00Z",
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}))]
struct AuditEntry {
    id: Uuid,
    /// Place in the chain of its organization, from 1 without gaps.
    sequence: i64,
    organization_id: Option<Uuid>,
    actor_id: Option<Uuid>,
    actor: String,
    /// Dotted noun and verb.
    action: String,
    resource: String,
    request_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    details: Option<serde_json::Value>,
    created_at: DateTime<Utc>,
    /// SHA-256 over the hash before and this row, in hexadecimal.
    hash: String,
}

impl From<Entry> for AuditEntry {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            sequence: entry.sequence,
            organization_id: entry.organization_id.map(|org| org.0),
            actor_id: entry.actor_id.map(|user| user.0),
            actor: entry.actor,
            action: entry.action,
            resource: entry.resource,
            request_id: entry.request_id,
            details: entry.details.filter(|details| !details.is_null()),
            created_at: entry.created_at,
            hash: hex::encode(entry.hash),
        }
    }
}

/// Who did what, newest first.
///
/// Every mutating operation and every read of a secret is there. A platform administrator sees all organizations, or
/// the one that `X-Organization-Id` names. Rows form a hash chain per organization; `bifrost audit verify` proves it.
#[utoipa::path(
    get, path = "/api/audit", tag = "Audit", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = AuditListResponse), Problems),
)]
async fn list_audit(
    State(app): State<AppState>,
    signed: Signed,
    Query(query): Query<ListQuery>,
) -> Result<Json<AuditListResponse>, Problem> {
    signed.scope.require(Permission::AuditRead)?;
    let limit = whole_number("limit", query.limit.as_deref(), 50, 1..=1000)?;
    let filters = Filters {
        actor: query.actor.map(|actor| actor.trim().to_lowercase()),
        action: query.action,
        resource: query.resource,
        since: time::read_at("?start_date", query.start_date.as_deref(), time::FIRST_OF_DAY)?,
        until: time::read_at("?end_date", query.end_date.as_deref(), time::LAST_OF_DAY)?,
    };
    let list = (&filters, signed.scope.reach());
    let after = query.continuation_token.as_deref().map(|token| Cursor::parse(token, &list)).transpose()?;

    let mut tx = app.platform.db.begin(&signed.scope).await?;
    // One more tells whether there is a next page.
    let mut entries = list::list(&mut tx, &filters, limit + 1, after).await?;
    tx.commit().await?;

    let has_more = entries.len() as i64 > limit;
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let last = entries.last().filter(|_| has_more);
    let continuation_token = last.map(|last| last.cursor(&signed.scope).token(&list));
    Ok(Json(AuditListResponse { entries: entries.into_iter().map(Into::into).collect(), continuation_token }))
}
