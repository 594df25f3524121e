//! Organizations: the tenants, for platform administrators.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::audit::{self, Action};
use domain::id::OrgId;
use domain::organizations::{self, Changes, NewOrganization, Organization};
use domain::page::NameCursor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Admin, Json, Path, Query, check_json, check_text};
use crate::page::{PageQuery, Paged};
use crate::problem::{Problem, Problems};

/// What a continuation token is bound to: there is one list of organizations.
const FILTERS: &str = "organizations";

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_organizations, create_organization)).routes(routes!(
        get_organization,
        update_organization,
        delete_organization
    ))
}

/// A new organization.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Acme", "domain": "acme.example", "settings": {}}))]
struct OrganizationCreate {
    /// 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// E-mail domain whose users belong here; unique among active organizations.
    #[schema(max_length = 255)]
    domain: Option<String>,
    /// Whether its users may sign in and its executions start; default true.
    is_active: Option<bool>,
    /// Settings of the client; `concurrency_limit` among them, a whole number, bounds the executions that run at once, and
    /// `history_days`, another one, for how long those that ended are kept, if that is shorter than `HISTORY_DAYS`.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

/// Changes of an organization. What is absent or null stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"is_active": false}))]
struct OrganizationUpdate {
    /// 1 to 255 characters.
    name: Option<String>,
    /// E-mail domain; `""` clears it.
    domain: Option<String>,
    /// Deactivating blocks its users' sign-in and its new executions within five seconds.
    is_active: Option<bool>,
    /// Replaces all settings.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

/// An organization.
#[derive(Debug, Serialize, ToSchema)]
struct OrganizationPublic {
    id: Uuid,
    name: String,
    domain: Option<String>,
    is_active: bool,
    #[schema(value_type = Object)]
    settings: Value,
    /// E-mail of the creator.
    created_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Organization> for OrganizationPublic {
    fn from(organization: Organization) -> Self {
        Self {
            id: organization.id.0,
            name: organization.name,
            domain: organization.domain,
            is_active: organization.is_active,
            settings: organization.settings,
            created_by: organization.created_by,
            created_at: organization.created_at,
            updated_at: organization.updated_at,
        }
    }
}

/// The active organizations, by name.
///
/// All of them, whatever organization the request names, page by page.
#[utoipa::path(
    get, path = "/api/organizations", tag = "Organizations", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Vec<OrganizationPublic>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_organizations(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<PageQuery>,
) -> Result<Paged<OrganizationPublic>, Problem> {
    let page = query.by_name(&FILTERS)?;
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let organizations = organizations::list(&mut tx, page.limit + 1, &page.after).await?;
    tx.commit().await?;
    let place = |last: &Organization| NameCursor { name: last.name.clone(), id: last.id.0 }.token(&FILTERS);
    Ok(Paged::new(organizations, page.limit, place))
}

/// Creates an organization.
///
/// People whose e-mail has its domain may register into it.
#[utoipa::path(
    post, path = "/api/organizations", tag = "Organizations", security(("bearer" = [])),
    request_body = OrganizationCreate,
    responses((status = 201, body = OrganizationPublic), (status = 409, description = "Another has this domain."), Problems),
)]
async fn create_organization(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<OrganizationCreate>,
) -> Result<(StatusCode, Json<OrganizationPublic>), Problem> {
    check_storable(Some(&input.name), input.domain.as_deref(), input.settings.as_ref())?;
    let new = NewOrganization {
        name: input.name,
        domain: input.domain,
        is_active: input.is_active.unwrap_or(true),
        settings: Value::Object(input.settings.unwrap_or_default()),
    };
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let created = organizations::insert(&mut tx, new).await?;
    audit::record(&mut tx, Action::OrganizationCreated, created.id, &json!({"name": created.name})).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(created.into())))
}

/// One organization, active or not.
///
/// Deleted ones are inactive and still there.
#[utoipa::path(
    get, path = "/api/organizations/{org_id}", tag = "Organizations", security(("bearer" = [])),
    params(("org_id" = Uuid, Path, description = "The organization.")),
    responses((status = 200, body = OrganizationPublic), Problems),
)]
async fn get_organization(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<OrgId>,
) -> Result<Json<OrganizationPublic>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let organization = organizations::get(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(organization.into()))
}

/// Changes an organization.
///
/// Members that are absent or null stay as they are.
#[utoipa::path(
    patch, path = "/api/organizations/{org_id}", tag = "Organizations", security(("bearer" = [])),
    params(("org_id" = Uuid, Path, description = "The organization.")),
    request_body = OrganizationUpdate,
    responses((status = 200, body = OrganizationPublic), (status = 409, description = "Another has this domain."), Problems),
)]
async fn update_organization(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<OrgId>,
    Json(input): Json<OrganizationUpdate>,
) -> Result<Json<OrganizationPublic>, Problem> {
    check_storable(input.name.as_deref(), input.domain.as_deref(), input.settings.as_ref())?;
    let changed = json!({"name": input.name, "domain": input.domain, "is_active": input.is_active});
    let changes = Changes {
        name: input.name,
        domain: input.domain,
        is_active: input.is_active,
        settings: input.settings.map(Value::Object),
    };
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let updated = organizations::update(&mut tx, id, changes).await?;
    audit::record(&mut tx, Action::OrganizationUpdated, id, &changed).await?;
    tx.commit().await?;
    Ok(Json(updated.into()))
}

/// Deletes an organization.
///
/// Softly: it becomes inactive, its rows stay, and deleting it again is fine.
#[utoipa::path(
    delete, path = "/api/organizations/{org_id}", tag = "Organizations", security(("bearer" = [])),
    params(("org_id" = Uuid, Path, description = "The organization.")),
    responses((status = 204, description = "Inactive now."), Problems),
)]
async fn delete_organization(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<OrgId>,
) -> Result<StatusCode, Problem> {
    let inactive = Changes { is_active: Some(false), ..Changes::default() };
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    organizations::update(&mut tx, id, inactive).await?;
    audit::record(&mut tx, Action::OrganizationDeleted, id, &()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_storable(
    name: Option<&str>,
    domain: Option<&str>,
    settings: Option<&Map<String, Value>>,
) -> Result<(), Problem> {
    check_text("/name", name.unwrap_or_default())?;
    check_text("/domain", domain.unwrap_or_default())?;
    check_json("/settings", settings.into_iter().flatten())
}
