//! Workflow keys, for platform administrators: made, listed masked, revoked.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::Error;
use domain::page::Cursor;
use domain::workflow_keys::{self, Filters, LONGEST_LIFE_DAYS, NewWorkflowKey, WorkflowKey};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::envelope::{NO_STORE, NoStore};
use crate::extract::{Admin, Json, Path, Query, check_text};
use crate::page::{PageQuery, Paged};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

const LONGEST_DESCRIPTION: usize = 1_000;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_workflow_keys, create_workflow_key))
        .routes(routes!(revoke_workflow_key))
}

/// A key to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"workflow_name": "greet", "expires_in_days": 90, "description": "The ticket system"}))]
struct WorkflowKeyCreateRequest {
    /// Name of the workflow, or its id where several bear the name; without one a global key.
    workflow_name: Option<String>,
    /// 1 to 3650; without it the key does not expire.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
    /// What it is for.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// While the key is active, global keys do not open its workflow.
    #[serde(default)]
    disable_global_key: bool,
}

/// A key, masked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "raw_key": null, "masked_key": "q3bT****x0Zk", "workflow_name": "greet",
    "created_by": "ada@example.com", "created_at": "2026-11-25T10:00:00Z", "last_used_at": null, "revoked": false,
    "expires_at": "2027-02-23T10:00:00Z", "description": "The ticket system", "disable_global_key": false,
}))]
struct WorkflowKeyResponse {
    /// The workflow's id; for a global key its own.
    id: String,
    /// Always null: the key is shown once, when it is made.
    raw_key: Option<String>,
    masked_key: Option<String>,
    /// Null for a global key.
    workflow_name: Option<String>,
    /// E-mail address of who made it.
    created_by: String,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    revoked: bool,
    expires_at: Option<DateTime<Utc>>,
    description: Option<String>,
    disable_global_key: bool,
}

/// A key just made, with its text.
#[derive(Debug, Serialize, ToSchema)]
struct WorkflowKeyCreatedResponse {
    /// The workflow's id; for a global key its own.
    id: String,
    /// What callers send as `X-Bifrost-Key`. It is shown here and never again.
    raw_key: String,
    masked_key: Option<String>,
    /// Null for a global key.
    workflow_name: Option<String>,
    /// E-mail address of who made it.
    created_by: String,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    revoked: bool,
    expires_at: Option<DateTime<Utc>>,
    description: Option<String>,
    disable_global_key: bool,
}

/// Which keys.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Id or name of a workflow.
    workflow_id: Option<String>,
    /// Whether to list revoked ones too; default false.
    #[param(value_type = Option<bool>)]
    include_revoked: Option<String>,
}

impl From<WorkflowKey> for WorkflowKeyResponse {
    fn from(key: WorkflowKey) -> Self {
        Self {
            id: key.workflow_id.map_or(key.id.0, |workflow| workflow.0).to_string(),
            raw_key: None,
            masked_key: Some(key.masked_key),
            workflow_name: key.workflow_name,
            created_by: key.created_by,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked: key.revoked_at.is_some(),
            expires_at: key.expires_at,
            description: key.description,
            disable_global_key: key.disable_global_key,
        }
    }
}

/// The keys of the scope, newest first.
///
/// Masked, with their last use. Without `X-Organization-Id` those that act globally.
#[utoipa::path(
    get, path = "/api/workflow-keys", tag = "Workflow Keys", security(("bearer" = [])), params(ListQuery, PageQuery),
    responses(
        (status = 200, body = Vec<WorkflowKeyResponse>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_workflow_keys(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<ListQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Paged<WorkflowKeyResponse>, Problem> {
    let include_revoked = match query.include_revoked.as_deref().map(str::to_lowercase).as_deref() {
        None | Some("false" | "0") => false,
        Some("true" | "1") => true,
        Some(_) => return Err(Problem::invalid("?include_revoked", "must be true or false")),
    };
    let filters = Filters { workflow: query.workflow_id, include_revoked };
    let scope = admin.scope.narrowed();
    let list = ("workflow-keys", &filters.workflow, filters.include_revoked, scope.reach());
    let page = page.by_id(&list)?;
    let mut tx = app.platform.db.begin(&scope).await?;
    let keys = workflow_keys::list(&mut tx, &filters, page.limit + 1, page.after).await?;
    tx.commit().await?;
    Ok(Paged::new(keys, page.limit, |last: &WorkflowKey| Cursor(last.id.0).token(&list)))
}

/// Makes a key.
///
/// It acts in the current scope: calls with it run there. A workflow has one active key in each scope.
#[utoipa::path(
    post, path = "/api/workflow-keys", tag = "Workflow Keys", security(("bearer" = [])),
    request_body = WorkflowKeyCreateRequest,
    responses(
        (status = 201, body = WorkflowKeyCreatedResponse),
        (status = 400, description = "The workflow has an active key."),
        (status = 409, description = "Several workflows bear the name."),
        Problems,
    ),
)]
async fn create_workflow_key(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<WorkflowKeyCreateRequest>,
) -> Result<(StatusCode, NoStore, Json<WorkflowKeyCreatedResponse>), Problem> {
    let scope = admin.scope.narrowed();
    let description = input.description.unwrap_or_default();
    check_text("/description", &description)?;
    if description.chars().count() > LONGEST_DESCRIPTION {
        return Err(Problem::invalid("/description", "must have at most 1000 characters"));
    }
    let expires_in_days = input.expires_in_days.map(lifetime).transpose()?;
    let name = input.workflow_name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let workflow_id = match name {
        None => None,
        Some(name) => {
            check_text("/workflow_name", name)?;
            let find = app.platform.catalog.get(&app.platform.db, &scope, name);
            Some(deadline::in_time(find).await?.id)
        }
    };
    let new = NewWorkflowKey {
        workflow_id,
        description: Some(description).filter(|text| !text.is_empty()),
        disable_global_key: input.disable_global_key,
        expires_in_days,
    };
    let mut tx = app.platform.db.begin(&scope).await?;
    let (key, secret) = workflow_keys::insert(&mut tx, new).await?;
    tx.commit().await?;
    let WorkflowKeyResponse {
        id,
        masked_key,
        workflow_name,
        created_by,
        created_at,
        last_used_at,
        revoked,
        expires_at,
        description,
        disable_global_key,
        ..
    } = key.into();
    let created = WorkflowKeyCreatedResponse {
        raw_key: secret.expose_secret().to_owned(),
        id,
        masked_key,
        workflow_name,
        created_by,
        created_at,
        last_used_at,
        revoked,
        expires_at,
        description,
        disable_global_key,
    };
    Ok((StatusCode::CREATED, NO_STORE, Json(created)))
}

/// Revokes a key.
///
/// By the listed `id`: the active key of the workflow in the current scope, or a global key. It opens nothing any more.
#[utoipa::path(
    delete, path = "/api/workflow-keys/{workflow_id}", tag = "Workflow Keys", security(("bearer" = [])),
    params(("workflow_id" = Uuid, Path, description = "The listed `id`.")),
    responses(
        (status = 204, description = "Revoked."),
        (status = 400, description = "There is no active key to revoke."),
        Problems,
    ),
)]
async fn revoke_workflow_key(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.narrowed()).await?;
    workflow_keys::revoke(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn lifetime(days: i64) -> Result<i32, Error> {
    i32::try_from(days).ok().filter(|days| (1..=LONGEST_LIFE_DAYS).contains(days)).ok_or_else(|| {
        Error::invalid("/expires_in_days", format!("must be a whole number from 1 to {LONGEST_LIFE_DAYS}"))
    })
}
