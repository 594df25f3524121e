//! Workflow keys: what a machine calls the endpoints of workflows with, one workflow's or a whole scope's.
//!
//! The invariant: at most one key of a workflow is active in a scope, and a key acts in the scope it was made in.
//! Revoked keys stay as rows, so that the list can tell who made, used and ended them.

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::api_keys::{self, NewKey};
use crate::audit::{self, Action};
use crate::error::OnConstraint;
use crate::id::{OrgId, WorkflowId, WorkflowKeyId};
use crate::page::Cursor;
use crate::{Db, Error, OrgTx, Result, SystemScope};

/// Longest life a key can be given.
pub const LONGEST_LIFE_DAYS: i32 = 3650;

const LOOKUP: SystemScope = SystemScope::because("a key names the organization that its caller acts in");

/// A key as it is listed.
#[derive(Debug, Clone)]
pub struct WorkflowKey {
    /// Its own id.
    pub id: WorkflowKeyId,
    /// The workflow it opens; `None`: every endpoint of its scope that takes global keys.
    pub workflow_id: Option<WorkflowId>,
    /// Name of that workflow.
    pub workflow_name: Option<String>,
    /// First and last characters.
    pub masked_key: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether global keys do not open its workflow while it is active.
    pub disable_global_key: bool,
    /// E-mail address of who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops to open anything.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it last opened something, within a second.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When somebody ended it.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key to make.
#[derive(Debug, Clone, Default)]
pub struct NewWorkflowKey {
    /// The workflow it opens.
    pub workflow_id: Option<WorkflowId>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it shuts the workflow to global keys.
    pub disable_global_key: bool,
    /// How long it lives; for ever if not given.
    pub expires_in_days: Option<i32>,
}

/// Which keys of the scope a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Those of the workflow with this id or name; a global key's own id finds that one.
    pub workflow: Option<String>,
    /// Ended ones too.
    pub include_revoked: bool,
}

/// What a presented key opens.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The key.
    pub id: WorkflowKeyId,
    /// The organization its calls act in; `None`: GLOBAL.
    pub organization_id: Option<OrgId>,
    /// The one workflow it opens; `None`: every endpoint of its scope that takes global keys. A name may mean another one by
    /// now, so whoever finds a workflow by name compares.
    pub workflow_id: Option<WorkflowId>,
    /// Whether the workflow's own key shuts it to this global key.
    pub is_shut_out: bool,
}

/// The keys of the scope, newest first, one page.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(
    tx: &mut OrgTx,
    filters: &Filters,
    limit: i64,
    after: Option<Cursor>,
) -> Result<Vec<WorkflowKey>> {
    let org = tx.scope().owner()?;
    let id = filters.workflow.as_deref().and_then(|text| text.parse::<Uuid>().ok());
    Ok(sqlx::query_as!(
        WorkflowKey,
        r#"SELECT k.id AS "id: WorkflowKeyId", k.workflow_id AS "workflow_id: WorkflowId", w.name AS "workflow_name?",
               k.masked_key, k.description, k.disable_global_key, k.created_by, k.created_at, k.expires_at,
               k.last_used_at, k.revoked_at
           FROM workflow_keys k
           LEFT JOIN workflows w ON w.id = k.workflow_id
           WHERE k.organization_id IS NOT DISTINCT FROM $1
             AND ($2 OR k.revoked_at IS NULL)
             AND ($3::text IS NULL OR w.name = $3 OR k.workflow_id = $4 OR (k.id = $4 AND k.workflow_id IS NULL))
             AND ($5::uuid IS NULL OR k.id < $5)
           ORDER BY k.id DESC
           LIMIT $6"#,
        org as _,
        filters.include_revoked,
        filters.workflow,
        id,
        after.map(|cursor| cursor.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Makes a key in the scope. The text of the key is nowhere else than in the answer.
///
/// # Errors
/// [`Error::Impossible`] when the workflow has an active key already.
pub async fn insert(tx: &mut OrgTx, new: NewWorkflowKey) -> Result<(WorkflowKey, SecretString)> {
    let owner = tx.scope().owner()?;
    let actor = tx.scope().actor().email.clone();
    let key = NewKey::generate("");
    // A key that has expired is active no more; it makes room without anybody's doing.
    sqlx::query!(
        "UPDATE workflow_keys
         SET revoked_at = now(), revoked_by = 'expired'
         WHERE workflow_id = $1 AND organization_id IS NOT DISTINCT FROM $2 AND revoked_at IS NULL AND expires_at <= now()",
        new.workflow_id as _,
        owner as _,
    )
    .execute(tx.conn())
    .await?;
    let made = sqlx::query_as!(
        WorkflowKey,
        r#"WITH made AS (
               INSERT INTO workflow_keys (id, organization_id, workflow_id, key_hash, masked_key, description,
                   disable_global_key, created_by, expires_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(days => $9))
               RETURNING *
           )
           SELECT made.id AS "id: WorkflowKeyId", workflow_id AS "workflow_id: WorkflowId", w.name AS "workflow_name?",
               masked_key, made.description, disable_global_key, created_by, made.created_at, expires_at, last_used_at,
               revoked_at
           FROM made
           LEFT JOIN workflows w ON w.id = made.workflow_id"#,
        WorkflowKeyId::generate() as _,
        owner as _,
        new.workflow_id as _,
        key.hash.clone(),
        key.masked(),
        new.description,
        new.disable_global_key,
        actor,
        new.expires_in_days,
    )
    .fetch_one(tx.conn())
    .await
    .on_constraint("workflow_keys_active_key", || {
        Error::Impossible("this workflow has an active key already; revoke it first".into())
    })?;
    let details = json!({"workflow": made.workflow_name, "expires_at": made.expires_at});
    audit::record(tx, Action::WorkflowKeyCreated, format!("workflow_key/{}", made.id), &details).await?;
    Ok((made, key.secret))
}

/// Ends the active key of a workflow in the scope, or a global key by its own id. It opens nothing from then on.
///
/// # Errors
/// [`Error::NotFound`] when neither is known; [`Error::Impossible`] when there is nothing to end.
pub async fn revoke(tx: &mut OrgTx, listed: Uuid) -> Result<()> {
    let owner = tx.scope().owner()?;
    let actor = tx.scope().actor().email.clone();
    let revoked = sqlx::query_scalar!(
        r#"UPDATE workflow_keys
           SET revoked_at = now(), revoked_by = $3
           WHERE (workflow_id = $1 OR (id = $1 AND workflow_id IS NULL))
             AND organization_id IS NOT DISTINCT FROM $2 AND revoked_at IS NULL
           RETURNING id AS "id: WorkflowKeyId""#,
        listed,
        owner as _,
        actor,
    )
    .fetch_optional(tx.conn())
    .await?;
    if let Some(id) = revoked {
        return audit::record(tx, Action::WorkflowKeyRevoked, format!("workflow_key/{id}"), &()).await;
    }
    let is_known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM workflows WHERE id = $1 AND kind = 'workflow' AND is_active)
               OR EXISTS (SELECT FROM workflow_keys
                          WHERE (workflow_id = $1 OR (id = $1 AND workflow_id IS NULL))
                            AND organization_id IS NOT DISTINCT FROM $2) AS "is_known!""#,
        listed,
        owner as _,
    )
    .fetch_one(tx.conn())
    .await?;
    if is_known {
        Err(Error::Impossible("there is no active key to revoke".into()))
    } else {
        Err(Error::NotFound("workflow key"))
    }
}

/// What a presented key opens of the workflow with this id or name, and records its use. `None` for a key that is
/// unknown, expired, revoked, another workflow's, or of an organization that is inactive: a caller cannot tell which.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn open(db: &Db, presented: &str, workflow: &str) -> Result<Option<Opening>> {
    let Some(hash) = api_keys::hash_presented(presented) else { return Ok(None) };
    let mut conn = db.system(&LOOKUP).await?;
    // The use is written at most once a second: a busy key does not make its callers wait for each other.
    Ok(sqlx::query_as!(
        Opening,
        r#"WITH found AS (
               SELECT k.id, k.organization_id, k.workflow_id
               FROM workflow_keys k
               LEFT JOIN workflows w ON w.id = k.workflow_id
               LEFT JOIN organizations o ON o.id = k.organization_id
               WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
                 AND COALESCE(o.is_active, TRUE)
                 AND (k.workflow_id IS NULL OR w.name = $2 OR w.id = $3)
           ), used AS (
               UPDATE workflow_keys k
               SET last_used_at = now()
               FROM found
               WHERE k.id = found.id AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 second')
           )
           SELECT found.id AS "id: WorkflowKeyId", found.organization_id AS "organization_id: OrgId",
               found.workflow_id AS "workflow_id: WorkflowId",
               found.workflow_id IS NULL AND EXISTS (
                   SELECT FROM workflow_keys own
                   JOIN workflows w ON w.id = own.workflow_id AND w.is_active
                   WHERE own.organization_id IS NOT DISTINCT FROM found.organization_id AND own.disable_global_key
                     AND own.revoked_at IS NULL AND (own.expires_at IS NULL OR own.expires_at > now())
                     AND (w.name = $2 OR w.id = $3)) AS "is_shut_out!"
           FROM found"#,
        hash,
        workflow,
        workflow.parse::<Uuid>().ok(),
    )
    .fetch_optional(&mut *conn)
    .await?)
}
