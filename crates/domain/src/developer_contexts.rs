//! What calls of the SDK start from when a file runs on a developer's machine: an organization and parameters.

use serde_json::{Map, Value};
use sqlx::types::Json;

use crate::audit::{self, Action};
use crate::id::{OrgId, UserId};
use crate::{OrgTx, Result};

/// The context of a user. Who never set one has the defaults.
#[derive(Debug, Clone)]
pub struct DeveloperContext {
    /// The organization that calls act in, unless they name one.
    pub default_org_id: Option<OrgId>,
    /// What `context.parameters` holds.
    pub default_parameters: Json<Map<String, Value>>,
    /// Kept for clients; nothing is reported yet.
    pub track_executions: bool,
}

impl Default for DeveloperContext {
    fn default() -> Self {
        Self { default_org_id: None, default_parameters: Json(Map::new()), track_executions: true }
    }
}

/// Changes; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Another organization; `Some(None)`: none any more.
    pub default_org_id: Option<Option<OrgId>>,
    /// All parameters anew.
    pub default_parameters: Option<Map<String, Value>>,
    /// Kept for clients.
    pub track_executions: Option<bool>,
}

/// The context of the actor.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn get(tx: &mut OrgTx) -> Result<DeveloperContext> {
    let user = tx.scope().actor().id;
    let found = sqlx::query_as!(
        DeveloperContext,
        r#"SELECT default_org_id AS "default_org_id: OrgId", default_parameters AS "default_parameters: Json<Map<String, Value>>",
               track_executions
           FROM developer_contexts
           WHERE user_id = $1"#,
        user as UserId,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.unwrap_or_default())
}

/// Changes the context of the actor.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn update(tx: &mut OrgTx, changes: Changes) -> Result<DeveloperContext> {
    let user = tx.scope().actor().id;
    let changed = sqlx::query_as!(
        DeveloperContext,
        r#"INSERT INTO developer_contexts AS c (user_id, default_org_id, default_parameters, track_executions)
           VALUES ($1, $2, COALESCE($3::text::json, '{}'), COALESCE($4, TRUE))
           ON CONFLICT (user_id) DO UPDATE
           SET default_org_id = CASE WHEN $5 THEN $2 ELSE c.default_org_id END,
               default_parameters = COALESCE($3::text::json, c.default_parameters),
               track_executions = COALESCE($4, c.track_executions), updated_at = now()
           RETURNING default_org_id AS "default_org_id: OrgId",
               default_parameters AS "default_parameters: Json<Map<String, Value>>", track_executions"#,
        user as UserId,
        changes.default_org_id.flatten() as _,
        changes.default_parameters.map(|parameters| Value::Object(parameters).to_string()),
        changes.track_executions,
        changes.default_org_id.is_some(),
    )
    .fetch_one(tx.conn())
    .await?;
    let details = serde_json::json!({"default_org_id": changed.default_org_id});
    audit::record(tx, Action::DeveloperContextUpdated, format!("developer_context/{user}"), &details).await?;
    Ok(changed)
}
